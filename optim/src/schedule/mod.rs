//! Schedules: lr or decay as a pure function of the global step.
//!
//! Evaluated in f64 with `libm` only, so every machine gets the same bits. A schedule is read at
//! the number of steps already done: update `s` (counted from 1) sees `value(s - 1)`.
//! Nothing here counts, caches or looks at a clock.

mod cosine;
mod curve;
mod evaluate;
mod half_cycle;
mod one_cycle;
mod text;
mod validate;

pub use curve::{Anneal, Boundary, Clock, Curve, Part, WsdShape};

use crate::error::ConfigError;

/// A number, or a table with a `kind`: what stands in `lr = ...` and `weight_decay.value = ...`.
///
/// ```toml
/// lr = 0.001
/// lr = { kind = "cosine", base = 0.001, end = 1e-5 }
/// lr = { kind = "warmup", steps = 100, then = { kind = "linear", base = 0.001 } }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum ScheduleConfig {
    /// The same value at every step.
    Constant(f64),
    /// A curve.
    Curve(Box<Curve>),
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::Constant(0.0)
    }
}

impl From<f64> for ScheduleConfig {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

impl From<Curve> for ScheduleConfig {
    fn from(curve: Curve) -> Self {
        Self::Curve(Box::new(curve))
    }
}

/// A checked schedule whose every length is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    config: ScheduleConfig,
}

impl Schedule {
    /// Checks `config` and gives curves that name no length the length of the run.
    ///
    /// `field` is the path used in errors, such as `lr`; `run_steps` the number of steps of the
    /// run. A warmup's length is taken off what follows it, so the whole ends with the run.
    ///
    /// # Errors
    /// [`ConfigError`] for a negative or non-finite value, an empty list, or a length of zero.
    pub fn new(field: &str, config: &ScheduleConfig, run_steps: u64) -> Result<Self, ConfigError> {
        let config = config.with_length(run_steps);
        config.validate(field)?;
        Ok(Self { config })
    }

    /// A constant whose value is known to hold.
    pub(crate) fn constant(value: f64) -> Self {
        Self { config: value.into() }
    }

    /// Value after `step` finished steps (0 for the first update).
    #[must_use]
    pub fn value(&self, step: u64) -> f64 {
        self.config.value(step)
    }

    /// The value the curve is scaled by: its base, which multiplier schedules divide by.
    #[must_use]
    pub fn base(&self) -> f64 {
        self.config.base()
    }

    /// The largest value over the first `steps` steps; 0 when there are none. Costs one
    /// evaluation per step unless the schedule is constant.
    #[must_use]
    pub fn peak(&self, steps: u64) -> f64 {
        if let ScheduleConfig::Constant(value) = self.config {
            return value;
        }
        (0..steps).map(|step| self.value(step)).fold(0.0, f64::max)
    }

    /// Length of the warmup that the schedule begins with; 0 without one.
    #[must_use]
    pub fn warmup_steps(&self) -> u64 {
        match &self.config {
            ScheduleConfig::Curve(curve) => match **curve {
                Curve::Warmup { steps, .. } | Curve::Noam { warmup: steps, .. } => steps,
                _ => 0,
            },
            ScheduleConfig::Constant(_) => 0,
        }
    }

    /// The configuration with every length filled in.
    #[must_use]
    pub fn config(&self) -> &ScheduleConfig {
        &self.config
    }
}
