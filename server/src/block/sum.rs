//! The canonical sum of a step's contributions, tile by tile (DESIGN.md rule 2).
//!
//! A [`Summer`] holds a plan: the tree over the held nodes flattened into loads and additions on a few
//! tile-sized registers. It is planned once per block and step and run for every tile, so the sum, the
//! scaling and the update all happen while a tile is in cache. Its memory is used again for the next.
//!
//! Order of every floating-point sum: left child + right child, f32, at each node. `absent` is the
//! identity: absent + x = x bit for bit. What came in a lossy dtype is decoded on its way into a
//! register, so no decoded copy of a block is ever made.

use halflife_proto::contribution::Payload;
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::Encoded;

use super::gathering::Held;

/// Elements of one tile: its registers, two weights and two moments (f32) stay within a common
/// 256 KiB second-level cache and mostly within the first.
pub const TILE_ELEMENTS: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// register = held
    Load { register: usize, held: usize },
    /// register += held
    AddHeld { register: usize, held: usize },
    /// register += register + 1
    AddNext { register: usize },
}

/// How to sum one step of one block, and the registers to do it with.
#[derive(Debug, Default)]
pub struct Summer {
    ops: Vec<Op>,
    registers: Vec<[f32; TILE_ELEMENTS]>,
}

impl Summer {
    /// Plans the sum of `held` (disjoint nodes that cover `root`); false when all of it is absent.
    #[must_use]
    pub fn plan(&mut self, root: SlotRange, held: &[Held]) -> bool {
        self.ops.clear();
        self.visit(root, held, 0, false)
    }

    /// Emits the ops that leave the sum of `node` in `register` (or add it there, where the parent
    /// allows that for a single load); false when the node is absent.
    fn visit(&mut self, node: SlotRange, held: &[Held], register: usize, add: bool) -> bool {
        if let Some(index) = held.iter().position(|held| held.slots.covers(node)) {
            if !matches!(held[index].payload, Payload::Dense(_)) {
                return false;
            }
            if self.registers.len() <= register {
                self.registers.resize(register + 1, [0.0; TILE_ELEMENTS]);
            }
            self.ops.push(match add {
                true => Op::AddHeld { register, held: index },
                false => Op::Load { register, held: index },
            });
            return true;
        }
        let Some((left, right)) = node.children() else {
            return false; // an uncovered leaf: complete gatherings have none
        };
        let left_present = self.visit(left, held, register, false);
        let right_is_held = held.iter().any(|held| held.slots.covers(right));
        match (left_present, right_is_held) {
            (false, _) => self.visit(right, held, register, false),
            (true, true) => {
                self.visit(right, held, register, true);
                true
            }
            (true, false) => {
                if self.visit(right, held, register + 1, false) {
                    self.ops.push(Op::AddNext { register });
                }
                true
            }
        }
    }

    /// Runs the plan over a block of `elements` and shows each tile's sum times `scale` with where it
    /// begins.
    pub fn each_tile(&mut self, held: &[Held], elements: usize, scale: f32, mut visit: impl FnMut(usize, &[f32])) {
        for begin in (0..elements).step_by(TILE_ELEMENTS) {
            let len = TILE_ELEMENTS.min(elements - begin);
            visit(begin, self.tile(held, begin, len, scale));
        }
    }

    /// Sums elements `[begin, begin + len)` of the held payloads and multiplies by `scale`. `len` is at
    /// most [`TILE_ELEMENTS`].
    fn tile(&mut self, held: &[Held], begin: usize, len: usize, scale: f32) -> &[f32] {
        let registers = &mut self.registers[..];
        for op in &self.ops {
            match *op {
                Op::Load { register, held: index } => {
                    data(&held[index]).load(begin, &mut registers[register][..len]);
                }
                Op::AddHeld { register, held: index } => {
                    data(&held[index]).add(begin, &mut registers[register][..len]);
                }
                Op::AddNext { register } => {
                    let (low, high) = registers.split_at_mut(register + 1);
                    for (sum, term) in low[register][..len].iter_mut().zip(&high[0][..len]) {
                        *sum += term;
                    }
                }
            }
        }
        let sum = &mut registers[0][..len];
        #[expect(clippy::float_cmp, reason = "exactly one is the case in which multiplying changes no bit")]
        if scale != 1.0 {
            sum.iter_mut().for_each(|value| *value *= scale);
        }
        sum
    }
}

/// What the plan loads and adds: only nodes with data are in it.
fn data(held: &Held) -> &Encoded {
    match &held.payload {
        Payload::Dense(data) => data,
        Payload::Absent | Payload::Nonfinite => unreachable!("a plan holds dense nodes only"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::slots::SlotTree;
    use halflife_proto::tensor_codec::{Dtype, encode, round};
    use proptest::prelude::*;

    fn dense(slots: SlotRange, values: &[f32]) -> Held {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Held { slots, weight: 1.0, payload: Payload::Dense(Encoded::f32(bytes)), magnitude_max: 0.0 }
    }

    /// The definition, one element at a time.
    fn reference(node: SlotRange, leaves: &[Option<f32>]) -> Option<f32> {
        match node.children() {
            None => leaves[node.begin as usize],
            Some((left, right)) => match (reference(left, leaves), reference(right, leaves)) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            },
        }
    }

    fn split(node: SlotRange, choices: &mut impl Iterator<Item = bool>) -> Vec<SlotRange> {
        match node.children() {
            Some((left, right)) if choices.next().unwrap_or(false) => {
                let mut nodes = split(left, choices);
                nodes.extend(split(right, choices));
                nodes
            }
            _ => vec![node],
        }
    }

    proptest! {
        #[test]
        fn any_split_into_nodes_gives_the_bits_of_the_tree(
            leaves in proptest::collection::vec(proptest::option::weighted(0.8, -1e3f32..1e3), 1..40),
            choices in proptest::collection::vec(any::<bool>(), 80),
        ) {
            let root = SlotTree::new(leaves.len() as u32).unwrap().root();
            let held: Vec<Held> = split(root, &mut choices.into_iter())
                .into_iter()
                .map(|node| match reference(node, &leaves) {
                    Some(value) => dense(node, &[value, -value]),
                    None => Held { slots: node, weight: 1.0, payload: Payload::Absent, magnitude_max: 0.0 },
                })
                .collect();
            let expected = reference(root, &leaves);
            let mut summer = Summer::default();
            let found = summer.plan(root, &held).then(|| summer.tile(&held, 0, 2, 1.0).to_vec());
            prop_assert_eq!(
                found.map(|values| (values[0].to_bits(), values[1].to_bits())),
                expected.map(|value| (value.to_bits(), (-value).to_bits()))
            );
        }
    }

    #[test]
    fn a_tile_is_its_part_of_the_block_scaled() {
        let tree = SlotTree::new(2).unwrap();
        let (left, right) = tree.root().children().unwrap();
        let held = [dense(left, &[1.0, 2.0, 3.0]), dense(right, &[10.0, 20.0, 30.0])];
        let mut summer = Summer::default();
        assert!(summer.plan(tree.root(), &held));
        assert_eq!(summer.tile(&held, 1, 2, 0.5), [11.0, 16.5]);
    }

    #[test]
    fn what_is_lossy_sums_as_its_decoded_values_in_f32() {
        let tree = SlotTree::new(3).unwrap();
        let leaf = |slot| SlotRange { begin: slot, end: slot + 1 };
        let values = |slot: u32| (0..5000).map(|i| (i as f32 * 0.37 + slot as f32).sin()).collect::<Vec<f32>>();
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::I8Scaled] {
            let (mut held, mut decoded) = (Vec::new(), Vec::new());
            for slot in 0..3 {
                let mut values = values(slot);
                let mut bytes = vec![0; dtype.encoded_bytes(values.len())];
                encode(dtype, &values, &mut bytes);
                let payload = Payload::Dense(Encoded { dtype, bytes: bytes.into() });
                held.push(Held { slots: leaf(slot), weight: 1.0, payload, magnitude_max: 0.0 });
                round(dtype, &mut values);
                decoded.push(values);
            }
            let mut summer = Summer::default();
            assert!(summer.plan(tree.root(), &held));
            for begin in (0..5000).step_by(TILE_ELEMENTS) {
                let len = TILE_ELEMENTS.min(5000 - begin);
                let found = summer.tile(&held, begin, len, 1.0);
                let sum = |i: usize| (decoded[0][i] + decoded[1][i]) + decoded[2][i];
                let expected = (begin..begin + len).map(sum);
                assert!(found.iter().map(|value| value.to_bits()).eq(expected.map(f32::to_bits)), "{dtype}");
            }
        }
    }
}
