//! Gradients as a worker makes them: of one slot, and of a node of the slot tree.

use crate::tensor_set::TensorSet;

/// The gradient of one slot.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotGradient {
    /// One element per element of the [`Layout`](crate::Layout): the gradient of trainable tensors,
    /// the new value of buffers. Ranges of frozen and absent tensors are not looked at.
    pub values: Vec<f32>,
    /// Tensors that this slot has no gradient for; a tied one counts by its target.
    pub absent: TensorSet,
    /// Samples in the slot. Counts only in jobs that combine by weighted mean.
    pub weight: f64,
}

/// The sum of a node's slots, as [`NodeSum`](crate::NodeSum) makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeGradient {
    /// Sum of weight x gradient, one element per element of the [`Layout`](crate::Layout). Empty
    /// when `nonfinite`.
    pub values: Vec<f32>,
    /// Tensors that no slot of the node has a gradient for.
    pub absent: TensorSet,
    /// Whether some slot held NaN, infinity or a value that the job's dtype for gradients cannot carry.
    pub nonfinite: bool,
    /// Sum of the slots' weights.
    pub weight: f64,
}
