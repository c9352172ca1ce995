//! What the synthetic workers send, and where it is looked at.
//!
//! Every element has a gradient that never changes (a pattern) except at *sampled positions*, where it
//! depends on (step, slot, position). So a gradient costs a few thousand stores per step, whatever the
//! size of the model, and the weights at the sampled positions still tell every step from every other.
//!
//! All values are exact in bf16 and the pattern's multiples are exact in f32, so that sums of it do not
//! depend on who added. Sampled values differ by up to 2^20 in magnitude: sums of them round, and only
//! the canonical order gives the canonical bits. A wire with one scale for many elements (i8) would lose
//! the small ones: for it all values have one magnitude.

use std::ops::Range;

use halflife_client::Layout;
use halflife_proto::blocks::all_blocks;
use halflife_proto::ids::TensorIndex;
use halflife_proto::manifest::{Manifest, Role};
use halflife_proto::slots::SlotRange;

/// Most blocks whose positions are sampled; of more, every so-manieth.
const BLOCKS_MAX: usize = 16_384;
/// Elements after which the pattern repeats.
const PATTERN_ELEMENTS: usize = 4096;
/// The unit of all values: 2^-10.
const UNIT: f32 = 1.0 / 1024.0;
/// Largest multiple of the unit: what 8 significant bits hold, and i8.
const MULTIPLE_MAX: u64 = 127;
/// Smallest multiple in the pattern. Initial weights stay below it, so that an arena that holds them is
/// not taken for one that holds the pattern.
const MULTIPLE_MIN: u64 = 64;
/// Binary orders of magnitude that sampled values are spread over.
const SPREAD: u64 = 21;

/// How much gradients may vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// In magnitude and sign: for wires that keep bf16 exactly.
    Spread,
    /// In sign only: for wires that share a scale between elements.
    SignOnly,
}

/// The sampled positions of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSamples {
    /// The tensor's name.
    pub name: String,
    /// The tensor's shape.
    pub shape: Vec<usize>,
    /// Where in the arena, rising; not empty.
    pub positions: Vec<usize>,
    /// Where in the arena the tensor begins.
    pub begin: usize,
}

/// The sampled positions of a model.
#[derive(Clone, Debug)]
pub struct Samples {
    /// One entry per trainable tensor.
    pub tensors: Vec<TensorSamples>,
    /// The part of the whole that an arena is.
    range: Range<usize>,
    values: Values,
    /// Place in the arena that is not sampled, by whose value a filled arena is known.
    marker: Option<usize>,
    pattern: Vec<f32>,
}

impl Samples {
    /// Samples the first, middle and last element of every tensor, and one or both ends of every block.
    #[must_use]
    pub fn of_model(manifest: &Manifest, block_elements: u64, values: Values) -> Samples {
        let layout = Layout::new(manifest);
        let mut tensors: Vec<TensorSamples> = Vec::new();
        let mut place_of = vec![None; manifest.tensors().len()];
        for (index, tensor) in manifest.tensors().iter().enumerate() {
            if tensor.role != Role::Trainable {
                continue;
            }
            let range = layout.range(TensorIndex(index as u32));
            let positions = vec![range.start, range.start + range.len() / 2, range.end - 1];
            let shape = tensor.shape.iter().map(|dim| *dim as usize).collect();
            place_of[index] = Some(tensors.len());
            tensors.push(TensorSamples { name: tensor.name.clone(), shape, positions, begin: range.start });
        }
        let stride = all_blocks(manifest, block_elements).count().div_ceil(BLOCKS_MAX).max(1);
        for (block, range) in all_blocks(manifest, block_elements).step_by(stride) {
            if let Some(place) = place_of[block.tensor.0 as usize] {
                let begin = tensors[place].begin;
                tensors[place].positions.extend([begin + range.start as usize, begin + range.end as usize - 1]);
            }
        }
        Samples::new(tensors, 0..layout.elements(), values)
    }

    /// Samples a run of `elements` values as one tensor: both ends of every run of `chunk` in it.
    #[must_use]
    pub fn of_run(elements: usize, chunk: usize, values: Values) -> Samples {
        let stride = elements.div_ceil(chunk).div_ceil(BLOCKS_MAX).max(1);
        let chunks = (0..elements).step_by(chunk).step_by(stride);
        let positions = chunks.flat_map(|begin| [begin, (begin + chunk).min(elements) - 1]).collect();
        let tensor = TensorSamples { name: "run".to_owned(), shape: vec![elements], positions, begin: 0 };
        Samples::new(vec![tensor], 0..elements, values)
    }

    fn new(mut tensors: Vec<TensorSamples>, range: Range<usize>, values: Values) -> Samples {
        for tensor in &mut tensors {
            tensor.positions.sort_unstable();
            tensor.positions.dedup();
        }
        let mut sampled = tensors.iter().flat_map(|tensor| &tensor.positions).copied().peekable();
        let marker = range.clone().position(|position| sampled.next_if_eq(&position).is_none());
        let pattern = (0..PATTERN_ELEMENTS).map(|position| pattern_value(position, values)).collect();
        Samples { tensors, range, values, marker, pattern }
    }

    /// The samples that lie in `range`, for an arena that is only that part. Values stay those of the whole.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Samples {
        let tensors = self.tensors.iter().map(|tensor| {
            let inside = tensor.positions.iter().copied().filter(|position| range.contains(position));
            TensorSamples { positions: inside.collect(), ..tensor.clone() }
        });
        Samples::new(tensors.collect(), range, self.values)
    }

    /// How many positions are sampled.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.positions.len()).sum()
    }

    /// Elements of an arena.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.range.len()
    }

    /// Makes `arena` the gradient sum of the slots `node` of `step`. Fast when it already holds the sum
    /// of as many slots of another step; any other content is replaced.
    ///
    /// # Panics
    /// If the arena has another length.
    pub fn write_gradient(&self, arena: &mut [f32], step: u64, node: SlotRange) {
        assert_eq!(arena.len(), self.elements(), "an arena of another model");
        let slots = node.count() as f32;
        let pattern = |place: usize| self.pattern[place % PATTERN_ELEMENTS] * slots;
        #[expect(clippy::float_cmp, reason = "the very bits that were written")]
        let is_filled = self.marker.is_some_and(|place| arena[place] == pattern(place));
        if !is_filled {
            for chunk in arena.chunks_mut(PATTERN_ELEMENTS) {
                chunk.iter_mut().zip(&self.pattern).for_each(|(value, pattern)| *value = pattern * slots);
            }
        }
        for position in self.tensors.iter().flat_map(|tensor| &tensor.positions) {
            arena[*position - self.range.start] = self.sum(step, node, *position);
        }
    }

    /// The sum over the slots `node` of `step` at a sampled position, along the tree.
    #[must_use]
    pub fn sum(&self, step: u64, node: SlotRange, position: usize) -> f32 {
        match node.children() {
            Some((left, right)) => self.sum(step, left, position) + self.sum(step, right, position),
            None => self.value(step, node.begin, position),
        }
    }

    /// The gradient of one slot at a sampled position.
    fn value(&self, step: u64, slot: u32, position: usize) -> f32 {
        let bits = mix(step, u64::from(slot) << 40 | position as u64);
        let exponent = if self.values == Values::Spread { (bits >> 8) % SPREAD } else { 0 };
        signed_multiple(bits, self.values) * 0.5f32.powi(exponent as i32)
    }
}

/// The initial weight at a position of the arena: finite, small, exact in bf16, another at the next.
#[must_use]
pub fn initial_weight(position: usize) -> f32 {
    let bits = (position as u32).wrapping_mul(0x9E37_79B1).rotate_left(15).wrapping_mul(0x85EB_CA77) >> 24;
    (bits as f32 - 127.5) * (UNIT / 4.0)
}

fn pattern_value(position: usize, values: Values) -> f32 {
    signed_multiple(mix(u64::MAX, position as u64), values)
}

/// A multiple of the unit, by the bits' lowest byte and highest bit.
fn signed_multiple(bits: u64, values: Values) -> f32 {
    let multiple = match values {
        Values::Spread => MULTIPLE_MIN + bits % (MULTIPLE_MAX - MULTIPLE_MIN + 1),
        Values::SignOnly => MULTIPLE_MAX,
    };
    let sign = if bits >> 63 == 0 { UNIT } else { -UNIT };
    multiple as f32 * sign
}

/// 64 well-mixed bits of two numbers (the finalizer of SplitMix64: G. Steele, D. Lea, C. Flood, "Fast
/// splittable pseudorandom number generators", OOPSLA 2014).
fn mix(a: u64, b: u64) -> u64 {
    let mut bits = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::shape::ModelShape;

    fn samples() -> Samples {
        Samples::of_model(&ModelShape::Parameters(1000).manifest().unwrap(), 64, Values::Spread)
    }

    fn slots(begin: u32, end: u32) -> SlotRange {
        SlotRange::new(begin, end).unwrap()
    }

    #[test]
    fn both_ends_of_every_block_are_sampled() {
        let samples = samples();
        assert_eq!(samples.tensors[1].positions, [250, 313, 314, 375, 377, 378, 441, 442, 499]);
        assert_eq!(Samples::of_run(100, 64, Values::Spread).tensors[0].positions, [0, 63, 64, 99]);
    }

    #[test]
    fn every_value_is_exact_in_bf16() {
        let samples = samples();
        let exact = |value: f32| value.to_bits() & 0xffff == 0 && value != 0.0;
        assert!(samples.pattern.iter().all(|value| exact(*value)));
        assert!((0..1000).all(|step| exact(samples.value(step, 3, 250))));
        assert!((0..10_000).all(|position| exact(initial_weight(position)) && initial_weight(position).abs() < 0.0625));
    }

    #[test]
    fn an_arena_of_any_content_becomes_the_gradient() {
        let samples = samples();
        let mut fresh = vec![0.0; 1000];
        samples.write_gradient(&mut fresh, 7, slots(1, 2));
        for mut arena in [(0..1000).map(initial_weight).collect::<Vec<f32>>(), fresh.clone()] {
            samples.write_gradient(&mut arena, 3, slots(0, 2));
            samples.write_gradient(&mut arena, 7, slots(1, 2));
            assert_eq!(arena, fresh);
        }
    }

    #[test]
    fn a_node_is_the_sum_of_its_slots_everywhere() {
        let samples = samples();
        let gradient = |node| {
            let mut arena = vec![0.0; 1000];
            samples.write_gradient(&mut arena, 5, node);
            arena
        };
        let (left, right, both) = (gradient(slots(2, 3)), gradient(slots(3, 4)), gradient(slots(2, 4)));
        assert!((0..1000).all(|position| left[position] + right[position] == both[position]));
    }

    #[test]
    fn steps_slots_and_positions_differ() {
        let samples = samples();
        let values = [(1, 0, 250), (2, 0, 250), (1, 1, 250), (1, 0, 313)].map(|(t, s, p)| samples.value(t, s, p));
        for (index, value) in values.iter().enumerate() {
            assert!(!values[..index].contains(value), "{values:?}");
        }
    }

    #[test]
    fn the_order_of_a_sum_of_sampled_values_matters() {
        let samples = samples();
        let tree = |step| samples.sum(step, slots(0, 8), 250);
        let backwards = |step| (0..8).rev().map(|slot| samples.value(step, slot, 250)).fold(0.0, |sum, x| sum + x);
        assert!((0..100).any(|step| tree(step) != backwards(step)));
    }

    #[test]
    fn for_a_shared_scale_all_magnitudes_are_equal() {
        let samples = Samples::of_run(100, 64, Values::SignOnly);
        assert!((0..100).all(|step| samples.value(step, 0, 63).abs() == 127.0 / 1024.0));
    }
}
