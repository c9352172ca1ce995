//! The mean of several workers' gradients along the slot tree, tile by tile.

use halflife_proto::slots::SlotRange;

/// Elements of a tile: its registers stay in the first-level cache.
pub(super) const TILE_ELEMENTS: usize = 4096;

/// A tile of one level of the tree.
pub(super) type Register = [f32; TILE_ELEMENTS];

/// Registers that a sum over `slots` slots needs.
pub(super) fn registers(slots: u32) -> Vec<Register> {
    vec![[0.0; TILE_ELEMENTS]; slots.next_power_of_two().ilog2() as usize + 1]
}

/// Leaves the sum of `node` over elements `[begin, begin + length)` in the first register.
pub(super) fn sum(node: SlotRange, gradients: &[&[f32]], begin: usize, length: usize, registers: &mut [Register]) {
    let tile = |slot: u32| &gradients[slot as usize][begin..begin + length];
    match node.children() {
        None => registers[0][..length].copy_from_slice(tile(node.begin)),
        Some((left, right)) => {
            sum(left, gradients, begin, length, registers);
            if right.count() == 1 {
                add(&mut registers[0][..length], tile(right.begin));
            } else if let Some((first, rest)) = registers.split_first_mut() {
                sum(right, gradients, begin, length, rest);
                add(&mut first[..length], &rest[0][..length]);
            }
        }
    }
}

fn add(sum: &mut [f32], term: &[f32]) {
    sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(node: SlotRange, gradients: &[&[f32]], element: usize) -> f32 {
        match node.children() {
            None => gradients[node.begin as usize][element],
            Some((left, right)) => naive(left, gradients, element) + naive(right, gradients, element),
        }
    }

    #[test]
    fn a_tile_is_summed_along_the_tree() {
        for slots in 1..20u32 {
            let value = |slot: u32, i: usize| (1.1f32 + slot as f32).powi(i as i32 % 9) - 3.3 * i as f32;
            let values: Vec<Vec<f32>> = (0..slots).map(|slot| (0..100).map(|i| value(slot, i)).collect()).collect();
            let gradients: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let root = SlotRange { begin: 0, end: slots };
            let mut registers = registers(slots);
            sum(root, &gradients, 30, 50, &mut registers);
            for (found, element) in registers[0][..50].iter().zip(30..) {
                let expected = naive(root, &gradients, element);
                assert_eq!(found.to_bits(), expected.to_bits(), "{slots} slots");
            }
        }
    }
}
