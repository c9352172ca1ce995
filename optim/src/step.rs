//! The numbers of one step for one tensor.

use crate::gradient::{Stage, Stages};
use crate::kernel::DecayStep;
use crate::reduce::{Reduction, Sums};
use crate::rule::RuleStep;

/// Everything [`crate::Optimizer::update`] needs to know about a step of a tensor besides the
/// arrays. Computed in f64; the kernels see its f32 form.
#[derive(Debug, Clone, PartialEq)]
pub struct StepFactors {
    pub(crate) lr: f64,
    pub(crate) decay: f64,
    pub(crate) decoupled: bool,
    pub(crate) gradient: Stages,
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

    /// What must be supplied before the update, if anything: sum it over the tensor (or the
    /// model) with [`crate::Optimizer::sums`] and hand it to [`StepFactors::supply`], until this
    /// is `None`.
    #[must_use]
    pub fn pending(&self) -> Option<Reduction> {
        let clip = self.gradient.iter().find_map(|stage| match stage {
            Stage::Norm(clip) if clip.scale.is_none() => Some(clip.of),
            _ => None,
        });
        clip.or_else(|| self.rule.pending())
    }

    /// Supplies the sums that [`StepFactors::pending`] asks for.
    ///
    /// # Panics
    /// If nothing is pending.
    pub fn supply(&mut self, sums: Sums) {
        let clip = self.gradient.iter_mut().find_map(|stage| match stage {
            Stage::Norm(clip) if clip.scale.is_none() => Some(clip),
            _ => None,
        });
        match clip {
            Some(clip) => clip.supply(sums.0[0]),
            None => self.rule.supply(sums),
        }
    }
}
