//! One version of the whole model's weights.

use halflife_proto::ids::Step;

/// The weights after `step` updates; every block is of that step. Immutable once published.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightsVersion {
    /// Updates seen.
    pub step: Step,
    /// Every tensor, at its [`Layout`](crate::Layout) range.
    pub values: Vec<f32>,
    /// Learning rate the last update of the first trainable tensor used; for display.
    pub lr: f64,
    /// Decay factor the last update of the first trainable tensor used; for display.
    pub decay: f64,
}
