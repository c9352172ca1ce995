//! The numbers of one step for one tensor.

use crate::apply::DecayStep;
use crate::gradient::Stage;
use crate::rule::RuleStep;

/// Everything [`crate::Optimizer::update`] needs to know about a step of a tensor besides the
/// arrays. Computed in f64; the kernels see its f32 form.
#[derive(Debug, Clone, PartialEq)]
pub struct StepFactors {
    pub(crate) lr: f64,
    pub(crate) decay: f64,
    pub(crate) gradient: Vec<Stage>,
    pub(crate) decay_step: DecayStep,
    pub(crate) rule: RuleStep,
}

impl StepFactors {
    /// Learning rate of this tensor at this step, its multiplier included.
    #[must_use]
    pub fn lr(&self) -> f64 {
        self.lr
    }

    /// The factor d taken off the weight (w loses d w), or the coefficient of L2 or L1 decay.
    /// Multipliers are included; 0 for a spared tensor.
    #[must_use]
    pub fn decay(&self) -> f64 {
        self.decay
    }
}
