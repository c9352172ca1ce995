//! The decay ledger: how much of a weight the decay has left, and what that is in half-lives.
//!
//! Running totals of ln(1 - d) in f64, one per group. They tell the half-life of a weight that
//! gets no updates, and by how much an untouched sparse row must be multiplied to catch up.
//! Cautious decay takes at most what is recorded, and decay inside LAMB's trust ratio that much
//! times the ratio.

use crate::config::{DecayMode, DecayScale};
use crate::error::ConfigError;
use crate::group::TensorRule;
use crate::half_life;
use crate::optimizer::Optimizer;
use crate::step::StepFactors;

/// The decay of a stretch of steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct DecayLedger {
    /// Steps recorded.
    pub steps: u64,
    /// Sum of ln(1 - d) over them: 0 or less; minus infinity when a step took everything.
    pub log_remaining: f64,
}

impl DecayLedger {
    /// Adds a step. Coupled decay leaves no certain trace on the weight and adds zero.
    pub fn record(&mut self, factors: &StepFactors) {
        self.add(factors.log_remaining());
    }

    pub(crate) fn add(&mut self, log_remaining: f64) {
        self.steps += 1;
        self.log_remaining += log_remaining;
    }

    /// The part of a weight without updates that is left.
    #[must_use]
    pub fn remaining(&self) -> f64 {
        libm::exp(self.log_remaining)
    }

    /// Steps in which such a weight halves, at the average rate so far; `None` without decay.
    #[must_use]
    pub fn half_life_steps(&self) -> Option<f64> {
        Some(self.timescale_steps()? * std::f64::consts::LN_2)
    }

    /// Steps in which it falls to 1/e: the timescale of the moving average that the weights are
    /// (Wang & Aitchison, arXiv 2405.13698); `None` without decay.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // exact below 2^53 steps
    pub fn timescale_steps(&self) -> Option<f64> {
        (self.log_remaining < 0.0).then(|| self.steps as f64 / -self.log_remaining)
    }

    /// [`DecayLedger::timescale_steps`] in epochs.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn timescale_epochs(&self, steps_per_epoch: u64) -> Option<f64> {
        Some(self.timescale_steps()? / steps_per_epoch as f64)
    }
}

impl StepFactors {
    /// ln(1 - d) of this step: what a weight without updates keeps. 0 for coupled decay, which
    /// leaves no certain trace on the weight.
    #[must_use]
    pub fn log_remaining(&self) -> f64 {
        if self.decoupled { log_remaining(self.decay) } else { 0.0 }
    }
}

/// ln(1 - d).
pub(crate) fn log_remaining(decay: f64) -> f64 {
    libm::log1p(-decay.min(1.0))
}

impl Optimizer {
    /// The ledger of a tensor over steps 1 to `steps`, if it is updated at every one.
    #[must_use]
    pub fn ledger(&self, rule: &TensorRule, steps: u64) -> DecayLedger {
        let mut ledger = DecayLedger::default();
        self.extend_ledger(rule, &mut ledger, steps);
        ledger
    }

    /// Goes on with a ledger up to step `steps`. What is recorded stays, whatever the settings were then.
    pub fn extend_ledger(&self, rule: &TensorRule, ledger: &mut DecayLedger, steps: u64) {
        let decoupled = self.decay.mode == DecayMode::Decoupled;
        for step in ledger.steps + 1..=steps {
            // As `record` of the step's factors, without what only updates need.
            ledger.add(if decoupled { log_remaining(self.decay_factor(rule, step, step)) } else { 0.0 });
        }
    }

    /// What `weight_decay.value` would have to be, as a constant under `scale`, for a tensor of
    /// `rule` to decay as much over the run. `None` when it does not decay.
    ///
    /// # Errors
    /// [`ConfigError`] when no constant does.
    pub fn equivalent_decay(&self, rule: &TensorRule, scale: DecayScale) -> Result<Option<f64>, ConfigError> {
        let log_remaining = self.ledger(rule, self.run_steps).log_remaining;
        if log_remaining == 0.0 || self.decay.mode != DecayMode::Decoupled {
            return Ok(None);
        }
        let other = self.with_unit_decay(scale);
        #[allow(clippy::cast_precision_loss)]
        let per_step = -log_remaining / self.run_steps as f64;
        half_life::solve(|done| other.decay_factor(rule, done + 1, done + 1), self.run_steps, per_step).map(Some)
    }
}
