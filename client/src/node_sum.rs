//! Sums the slots of one node along the canonical tree (DESIGN.md rule 2).
//!
//! The worker's pre-summed node and the servers' sum of its slots agree to the bit: same tree, same
//! order, and *absent* is the identity (absent + x is x itself, not 0 + x, which would turn -0 into
//! +0). Only O(log slots) partial sums are held.

use halflife_proto::job::Combine;
use halflife_proto::slots::{SlotRange, SlotTree};
use halflife_proto::tensor_codec::Dtype;
use thiserror::Error;

use crate::buffer_pool::BufferPool;
use crate::gradient::{NodeGradient, SlotGradient};
use crate::layout::Layout;
use crate::tensor_set::TensorSet;

/// Elements scanned for NaN and infinity between two looks at the result: long enough to vectorise.
const SCAN_ELEMENTS: usize = 1024;

/// Why a slot was not added, or a sum not finished. The sum is unchanged.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum NodeSumError {
    /// A gradient of another length than the layout.
    #[error("slot gradient: expected {expected} elements, found {found}")]
    WrongSize {
        /// Elements of the layout.
        expected: usize,
        /// Elements that came.
        found: usize,
    },
    /// A weight that is not a positive finite number.
    #[error("slot weight: expected a positive finite number, found {found}")]
    BadWeight {
        /// What came.
        found: f64,
    },
    /// More slots than the node has.
    #[error("{node}: expected no further slot, found one")]
    TooManySlots {
        /// The node.
        node: SlotRange,
    },
    /// Finished before every slot was added.
    #[error("{node}: expected every slot, found {found}")]
    Incomplete {
        /// The node.
        node: SlotRange,
        /// Slots added.
        found: u32,
    },
}

/// The sum of one node in the making. Feed it the node's slots in order.
pub struct NodeSum<'a> {
    layout: &'a Layout,
    combine: Combine,
    gradients: Dtype,
    node: SlotRange,
    // Relative to the node's begin: a subtree's shape depends on its slot count alone.
    tree: SlotTree,
    partials: Vec<Partial>,
    added: u32,
    nonfinite: bool,
    buffers: BufferPool,
}

struct Partial {
    slots: SlotRange,
    values: Vec<f32>,
    absent: TensorSet,
    weight: f64,
}

impl<'a> NodeSum<'a> {
    /// An empty sum over `node`, to be sent in the job's dtype `gradients`: what that cannot carry
    /// makes the node nonfinite, as NaN and infinity do. Arenas that become free go to `buffers`.
    ///
    /// # Panics
    /// When `node` is empty, which no valid [`SlotRange`] is.
    #[must_use]
    pub fn new(
        layout: &'a Layout,
        combine: Combine,
        gradients: Dtype,
        node: SlotRange,
        buffers: BufferPool,
    ) -> NodeSum<'a> {
        let tree = SlotTree::new(node.end.saturating_sub(node.begin)).expect("a slot range is not empty");
        NodeSum { layout, combine, gradients, node, tree, partials: Vec::new(), added: 0, nonfinite: false, buffers }
    }

    /// The slot to be added next, `None` when the node is complete.
    #[must_use]
    pub fn next_slot(&self) -> Option<u32> {
        (self.added < self.tree.slots()).then(|| self.node.begin + self.added)
    }

    /// Adds the gradient of [`NodeSum::next_slot`].
    ///
    /// # Errors
    /// [`NodeSumError`] for a gradient that does not fit; a nonfinite one is no error but makes the
    /// whole node nonfinite.
    pub fn add(&mut self, slot: SlotGradient) -> Result<(), NodeSumError> {
        let weight = self.check(&slot)?;
        let SlotGradient { mut values, absent, .. } = slot;
        self.nonfinite = self.nonfinite || self.holds_nonfinite(&values, &absent);
        if self.combine == Combine::WeightedMean && !self.nonfinite {
            scale(&mut values, weight);
            // An f32 leaf that overflows here is for the servers to see, as a sum that does.
            self.nonfinite = self.gradients.is_lossy() && self.holds_nonfinite(&values, &absent);
        }
        let slots = SlotRange { begin: self.added, end: self.added + 1 };
        self.added += 1;
        self.partials.push(Partial { slots, values, absent, weight });
        self.merge_complete_nodes();
        Ok(())
    }

    /// The node's gradient.
    ///
    /// # Errors
    /// [`NodeSumError::Incomplete`] when slots are missing.
    pub fn finish(mut self) -> Result<NodeGradient, NodeSumError> {
        match self.partials.pop() {
            Some(Partial { slots, values, absent, weight }) if slots == self.tree.root() => {
                let values = if self.nonfinite {
                    self.buffers.give(values);
                    Vec::new()
                } else {
                    values
                };
                Ok(NodeGradient { values, absent, nonfinite: self.nonfinite, weight })
            }
            _ => Err(NodeSumError::Incomplete { node: self.node, found: self.added }),
        }
    }

    fn check(&self, slot: &SlotGradient) -> Result<f64, NodeSumError> {
        if self.next_slot().is_none() {
            return Err(NodeSumError::TooManySlots { node: self.node });
        }
        if slot.values.len() != self.layout.elements() {
            return Err(NodeSumError::WrongSize { expected: self.layout.elements(), found: slot.values.len() });
        }
        match self.combine {
            Combine::Mean | Combine::Sum => Ok(1.0),
            Combine::WeightedMean if slot.weight.is_finite() && slot.weight > 0.0 => Ok(slot.weight),
            Combine::WeightedMean => Err(NodeSumError::BadWeight { found: slot.weight }),
        }
    }

    fn holds_nonfinite(&self, values: &[f32], absent: &TensorSet) -> bool {
        let present = self.layout.contributing().iter().filter(|tensor| !absent.contains(**tensor));
        present.into_iter().any(|tensor| exceeds(&values[self.layout.range(*tensor)], self.gradients.magnitude_max()))
    }

    /// Adds the two newest partial sums as long as they are the children of one node.
    fn merge_complete_nodes(&mut self) {
        while let [.., left, right] = self.partials.as_slice() {
            let parent = SlotRange { begin: left.slots.begin, end: right.slots.end };
            if !self.tree.is_node(parent) {
                return;
            }
            let (Some(right), Some(left)) = (self.partials.pop(), self.partials.pop()) else { return };
            let merged = self.merge(parent, left, right);
            self.partials.push(merged);
        }
    }

    fn merge(&self, slots: SlotRange, mut left: Partial, right: Partial) -> Partial {
        if !self.nonfinite {
            for tensor in self.layout.contributing() {
                let range = self.layout.range(*tensor);
                match (left.absent.contains(*tensor), right.absent.contains(*tensor)) {
                    (_, true) => {}
                    (true, false) => {
                        left.values[range.clone()].copy_from_slice(&right.values[range]);
                        left.absent.remove(*tensor);
                    }
                    (false, false) => add(&mut left.values[range.clone()], &right.values[range]),
                }
            }
        }
        self.buffers.give(right.values);
        Partial { slots, weight: left.weight + right.weight, ..left }
    }
}

/// Whether any value is NaN or infinite.
pub(crate) fn is_nonfinite(values: &[f32]) -> bool {
    exceeds(values, f32::MAX)
}

/// Whether any value is NaN or of a larger magnitude.
fn exceeds(values: &[f32], magnitude_max: f32) -> bool {
    let within = |value: &f32| value.abs() <= magnitude_max;
    values.chunks(SCAN_ELEMENTS).any(|chunk| !chunk.iter().fold(true, |all, value| all & within(value)))
}

/// weight x gradient, rounded once to f32.
fn scale(values: &mut [f32], weight: f64) {
    for value in values {
        *value = (weight * f64::from(*value)) as f32;
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::ids::TensorIndex;
    use halflife_proto::manifest::{Manifest, Tensor};
    use proptest::prelude::*;

    const TENSORS: u32 = 3;

    fn layout() -> Layout {
        let tensors = (0..TENSORS).map(|index| Tensor::trainable(format!("t{index}"), &[2]));
        Layout::new(&Manifest::new(tensors.collect()).unwrap())
    }

    fn range(begin: u32, end: u32) -> SlotRange {
        SlotRange::new(begin, end).unwrap()
    }

    fn sum(combine: Combine, node: SlotRange, slots: &[SlotGradient]) -> NodeGradient {
        let layout = layout();
        let mut sum = NodeSum::new(&layout, combine, Dtype::F32, node, BufferPool::new(layout.elements()));
        while let Some(slot) = sum.next_slot() {
            sum.add(slots[slot as usize].clone()).unwrap();
        }
        sum.finish().unwrap()
    }

    /// What one tensor amounts to, written down naively: `None` is absent.
    type Naive = (Vec<Option<Vec<f32>>>, f64);

    fn naive(node: &NodeGradient) -> Naive {
        let layout = layout();
        let tensor = |index| {
            let range = layout.range(TensorIndex(index));
            (!node.absent.contains(TensorIndex(index))).then(|| node.values[range].to_vec())
        };
        ((0..TENSORS).map(tensor).collect(), node.weight)
    }

    fn naive_tree(node: SlotRange, presummed: &dyn Fn(SlotRange) -> Option<Naive>) -> Naive {
        if let Some(sum) = presummed(node) {
            return sum;
        }
        let (left, right) = node.children().unwrap();
        let (left, right) = (naive_tree(left, presummed), naive_tree(right, presummed));
        let tensors = left.0.into_iter().zip(right.0).map(|pair| match pair {
            (None, other) | (other, None) => other,
            (Some(left), Some(right)) => Some(left.iter().zip(&right).map(|(left, right)| left + right).collect()),
        });
        (tensors.collect(), left.1 + right.1)
    }

    fn bits(naive: &Naive) -> (Vec<Option<Vec<u32>>>, u64) {
        let tensor = |values: &Option<Vec<f32>>| values.as_ref().map(|v| v.iter().map(|x| x.to_bits()).collect());
        (naive.0.iter().map(tensor).collect(), naive.1.to_bits())
    }

    fn slot_gradient() -> impl Strategy<Value = SlotGradient> {
        let value = prop_oneof![Just(-0.0f32), Just(0.0), -1e3f32..1e3, -1e-3f32..1e-3];
        let values = proptest::collection::vec(value, 2 * TENSORS as usize);
        (values, 0u8..8, 0.1f64..9.0).prop_map(|(values, absent, weight)| {
            let absent = (0..TENSORS).filter(|tensor| absent >> tensor & 1 == 1).map(TensorIndex).collect();
            SlotGradient { values, absent, weight }
        })
    }

    /// Cuts the root into nodes: bit i of `cuts` decides whether the i-th node met is split further.
    fn decompose(node: SlotRange, cuts: &mut u64, nodes: &mut Vec<SlotRange>) {
        let split = *cuts & 1 == 1;
        *cuts >>= 1;
        match node.children() {
            Some((left, right)) if split => {
                decompose(left, cuts, nodes);
                decompose(right, cuts, nodes);
            }
            _ => nodes.push(node),
        }
    }

    proptest! {
        #[test]
        fn any_decomposition_sums_to_the_same_bits(
            slots in proptest::collection::vec(slot_gradient(), 1..20),
            mut cuts in any::<u64>(),
            combine in prop_oneof![Just(Combine::Mean), Just(Combine::Sum), Just(Combine::WeightedMean)],
        ) {
            let root = range(0, slots.len() as u32);
            let mut nodes = Vec::new();
            decompose(root, &mut cuts, &mut nodes);
            let presummed: Vec<_> = nodes.iter().map(|node| (*node, naive(&sum(combine, *node, &slots)))).collect();
            let find = |node| presummed.iter().find(|(held, _)| *held == node).map(|(_, sum)| sum.clone());
            let by_nodes = naive_tree(root, &find);
            let by_leaves = naive_tree(root, &|node| {
                (node.count() == 1).then(|| naive(&sum(combine, node, &slots)))
            });
            let direct = naive(&sum(combine, root, &slots));
            prop_assert_eq!(bits(&by_nodes), bits(&direct));
            prop_assert_eq!(bits(&by_leaves), bits(&direct));
        }
    }

    fn ones(weight: f64) -> SlotGradient {
        SlotGradient { values: vec![1.0; 2 * TENSORS as usize], absent: TensorSet::new(), weight }
    }

    #[test]
    fn only_a_weighted_mean_weighs_its_leaves() {
        let slots = [ones(2.0), ones(3.0)];
        for (combine, value, weight) in
            [(Combine::Mean, 2.0, 2.0), (Combine::Sum, 2.0, 2.0), (Combine::WeightedMean, 5.0, 5.0)]
        {
            let node = sum(combine, range(0, 2), &slots);
            assert_eq!((node.values[0], node.weight), (value, weight), "{combine:?}");
        }
    }

    #[test]
    fn one_nonfinite_value_makes_the_node_nonfinite_and_keeps_its_weight() {
        let mut bad = ones(1.0);
        bad.values[5] = f32::NAN;
        let node = sum(Combine::Mean, range(0, 3), &[ones(1.0), bad.clone(), ones(1.0)]);
        assert_eq!((node.nonfinite, node.weight, node.values.len()), (true, 3.0, 0));
        bad.absent.insert(TensorIndex(2));
        assert!(!sum(Combine::Mean, range(0, 1), &[bad]).nonfinite, "an absent tensor's range means nothing");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let layout = layout();
        let pool = BufferPool::new(layout.elements());
        let mut sum = NodeSum::new(&layout, Combine::WeightedMean, Dtype::F32, range(4, 5), pool);
        let short = SlotGradient { values: vec![1.0], ..ones(1.0) };
        assert_eq!(sum.add(short), Err(NodeSumError::WrongSize { expected: 6, found: 1 }));
        assert_eq!(sum.add(ones(0.0)), Err(NodeSumError::BadWeight { found: 0.0 }));
        assert_eq!(sum.next_slot(), Some(4));
        sum.add(ones(1.0)).unwrap();
        assert_eq!(sum.add(ones(1.0)), Err(NodeSumError::TooManySlots { node: range(4, 5) }));
        let empty = NodeSum::new(&layout, Combine::Mean, Dtype::F32, range(0, 2), BufferPool::new(layout.elements()));
        assert_eq!(empty.finish(), Err(NodeSumError::Incomplete { node: range(0, 2), found: 0 }));
    }

    #[test]
    fn what_the_wire_cannot_carry_is_nonfinite() {
        let layout = layout();
        for (combine, gradients, value, weight, nonfinite) in [
            (Combine::Mean, Dtype::F32, f32::MAX, 1.0, false),
            (Combine::Mean, Dtype::Bf16, 3.38e38, 1.0, false),
            (Combine::Mean, Dtype::Bf16, f32::MAX, 1.0, true),
            (Combine::Mean, Dtype::I8Scaled, 1.7e38, 1.0, false),
            (Combine::Mean, Dtype::I8Scaled, 1.71e38, 1.0, true),
            (Combine::Mean, Dtype::I8Scaled, f32::NAN, 1.0, true),
            (Combine::WeightedMean, Dtype::Bf16, 1.0e38, 3.0, false),
            (Combine::WeightedMean, Dtype::Bf16, 1.0e38, 4.0, true),
        ] {
            let pool = BufferPool::new(layout.elements());
            let mut sum = NodeSum::new(&layout, combine, gradients, range(0, 1), pool);
            let mut values = vec![1.0; layout.elements()];
            values[3] = -value;
            sum.add(SlotGradient { values, absent: TensorSet::new(), weight }).unwrap();
            assert_eq!(sum.finish().unwrap().nonfinite, nonfinite, "{combine:?} {gradients} {value:e} x {weight}");
        }
    }
}
