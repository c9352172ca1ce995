//! Weight decay, compiled: the factor of a step in f64.
//!
//! Formulas: `golden/README.md`; Loshchilov & Hutter, arXiv 1711.05101, algorithms 1 and 2.

use crate::config::WeightDecayConfig;
use crate::config::{Algorithm, DecayMode, DecayOrder, DecayScale, OptimizerConfig, filled};
use crate::error::{ConfigError, spelled};
use crate::kernel::{DecayStep, Order};
use crate::schedule::{Schedule, ScheduleConfig};

/// What a step knows when it asks for its decay.
pub(crate) struct DecayInput<'a> {
    /// Finished steps.
    pub(crate) step: u64,
    /// The tensor's lr schedule, without its multiplier.
    pub(crate) lr_schedule: &'a Schedule,
    /// Its largest value over the run; read by `lr_squared` only.
    pub(crate) lr_peak: f64,
    pub(crate) lr_mult: f64,
    pub(crate) decay_mult: f64,
    /// sqrt(1 - beta2^t) / (1 - beta1^t), or 1 for rules without bias correction; read by
    /// `corrected_lr` only.
    pub(crate) correction: f64,
}

/// The decay of a run.
#[derive(Debug, Clone)]
pub(crate) struct Decay {
    pub(crate) mode: DecayMode,
    value: Schedule,
    pub(crate) scale: DecayScale,
    order: DecayOrder,
    eta: Option<Schedule>,
    cautious: bool,
    inside_trust_ratio: bool,
}

impl Decay {
    pub(crate) fn new(config: &OptimizerConfig, run_steps: u64) -> Result<Self, ConfigError> {
        let decay = filled(config.weight_decay.as_ref());
        let mode = decay.mode.ok_or(ConfigError::Missing {
            field: "weight_decay.mode".into(),
            expected: "\"none\", \"l2\", \"l1\" or \"decoupled\"",
        })?;
        refuse_unread(decay, mode, filled(config.algorithm))?;
        let value = match decay_value(decay, mode)? {
            Strength::Value(value) => value,
            // The scale is what the value will be solved for; see half_life.rs.
            Strength::Solved => ScheduleConfig::Constant(1.0),
        };
        let eta = decay.schedule.as_ref();
        let compiled = Self {
            mode,
            value: Schedule::new("weight_decay.value", &value, run_steps)?,
            scale: decay.scaled_by.unwrap_or_default(),
            order: decay.order.unwrap_or_default(),
            eta: eta.map(|eta| Schedule::new("weight_decay.schedule", eta, run_steps)).transpose()?,
            cautious: decay.cautious.unwrap_or(false),
            inside_trust_ratio: mode == DecayMode::Decoupled && inside_trust_ratio(config, decay),
        };
        compiled.check_combination()?;
        Ok(compiled)
    }

    /// Sets a value solved for from a half-life or a timescale.
    pub(crate) fn set_value(&mut self, value: f64) {
        self.value = Schedule::constant(value);
    }

    /// Whether the scale needs the largest lr of the run.
    pub(crate) fn needs_peak(&self) -> bool {
        self.mode == DecayMode::Decoupled && self.scale == DecayScale::LrSquared
    }

    /// Whether the scale needs the bias correction of the step.
    pub(crate) fn needs_correction(&self) -> bool {
        self.mode == DecayMode::Decoupled && self.scale == DecayScale::CorrectedLr
    }

    /// The coefficient of decay inside LAMB's trust ratio; 0 when decay is elsewhere.
    pub(crate) fn inner(&self, step: u64, decay_mult: f64) -> f64 {
        if self.inside_trust_ratio { self.value.value(step) * decay_mult } else { 0.0 }
    }

    fn check_combination(&self) -> Result<(), ConfigError> {
        let conflict = |left: &str, right: String, reason| {
            Err(ConfigError::Conflict {
                left: format!("weight_decay.{left}"),
                right: format!("weight_decay.{right}"),
                reason,
            })
        };
        if self.cautious && self.order == DecayOrder::After {
            let reason = "the mask compares the update with the weight before it";
            return conflict("cautious", format!("order = {}", spelled(self.order)), reason);
        }
        let of_lamb = self.scale == DecayScale::Lr && self.order == DecayOrder::Fused;
        if self.inside_trust_ratio && (!of_lamb || self.cautious) {
            let reason = "decay inside the trust ratio is scaled by lr, fused and not cautious";
            let right = format!("scaled_by = {}, order = {}", spelled(self.scale), spelled(self.order));
            return conflict("inside_trust_ratio", right, reason);
        }
        Ok(())
    }

    /// The factor d taken off the weight, or the coefficient of L2 and L1.
    pub(crate) fn factor(&self, input: &DecayInput<'_>) -> f64 {
        let value = self.value.value(input.step) * input.decay_mult;
        match self.mode {
            DecayMode::None => 0.0,
            DecayMode::L2 | DecayMode::L1 => value,
            DecayMode::Decoupled => self.scale(input) * value,
        }
    }

    fn scale(&self, input: &DecayInput<'_>) -> f64 {
        let lr = input.lr_schedule.value(input.step);
        match self.scale {
            DecayScale::Lr => lr * input.lr_mult,
            DecayScale::LrSquared => lr * input.lr_mult * multiplier(lr, input.lr_peak),
            DecayScale::CorrectedLr => lr * input.lr_mult * input.correction,
            DecayScale::Schedule => match &self.eta {
                Some(eta) => eta.value(input.step),
                None => multiplier(lr, input.lr_schedule.base()),
            },
            DecayScale::Nothing => 1.0,
        }
    }

    /// What the kernels do with `factor`.
    #[allow(clippy::cast_possible_truncation)] // the weights are f32
    pub(crate) fn step(&self, factor: f64) -> DecayStep {
        let factor = factor as f32;
        let order = match (self.mode, self.order) {
            (DecayMode::Decoupled, _) if factor == 0.0 || self.inside_trust_ratio => Order::None,
            (DecayMode::Decoupled, DecayOrder::Before) if self.cautious => Order::CautiousBefore,
            (DecayMode::Decoupled, DecayOrder::Fused) if self.cautious => Order::CautiousFused,
            (DecayMode::Decoupled, DecayOrder::Before) => Order::Before,
            (DecayMode::Decoupled, DecayOrder::Fused) => Order::Fused,
            (DecayMode::Decoupled, DecayOrder::After) => Order::After,
            _ => Order::None,
        };
        DecayStep { order, factor }
    }

    /// Whether a tensor with this multiplier ever shrinks.
    pub(crate) fn acts_on(&self, decay_mult: f64) -> bool {
        let never = *self.value.config() == ScheduleConfig::Constant(0.0);
        self.mode != DecayMode::None && decay_mult != 0.0 && !never
    }
}

/// The schedule's multiplier: lr over its base. A schedule that is always 0 multiplies by 0.
fn multiplier(lr: f64, base: f64) -> f64 {
    if base == 0.0 { 0.0 } else { lr / base }
}

/// Where the strength comes from.
enum Strength {
    Value(ScheduleConfig),
    Solved,
}

fn decay_value(decay: &WeightDecayConfig, mode: DecayMode) -> Result<Strength, ConfigError> {
    let span = decay.half_life.or(decay.timescale);
    match (&decay.value, span) {
        (Some(_), Some(_)) => Err(twice()),
        _ if decay.half_life.is_some() && decay.timescale.is_some() => Err(twice()),
        (Some(value), None) => Ok(Strength::Value(value.clone())),
        (None, Some(_)) => Ok(Strength::Solved),
        (None, None) if mode == DecayMode::None => Ok(Strength::Value(0.0.into())),
        (None, None) => Err(ConfigError::Missing {
            field: "weight_decay.value".into(),
            expected: "a number, a schedule, a half_life or a timescale",
        }),
    }
}

fn twice() -> ConfigError {
    ConfigError::Conflict {
        left: "one of weight_decay.value, half_life, timescale".into(),
        right: "another".into(),
        reason: "they set the same number",
    }
}

fn inside_trust_ratio(config: &OptimizerConfig, decay: &WeightDecayConfig) -> bool {
    let lamb = filled(config.algorithm) == Algorithm::Lamb;
    lamb && decay.inside_trust_ratio.unwrap_or(true)
}

/// Scaling, order and spans mean nothing unless the decay is decoupled.
fn refuse_unread(decay: &WeightDecayConfig, mode: DecayMode, algorithm: Algorithm) -> Result<(), ConfigError> {
    let decoupled = mode == DecayMode::Decoupled;
    let by_schedule = decay.scaled_by == Some(DecayScale::Schedule);
    let by_mode = || format!("weight_decay.mode = {}", spelled(mode));
    let read = [
        ("value", decay.value.is_some(), mode != DecayMode::None),
        ("scaled_by", decay.scaled_by.is_some(), decoupled),
        ("order", decay.order.is_some(), decoupled),
        ("cautious", decay.cautious.is_some(), decoupled),
        ("half_life", decay.half_life.is_some(), decoupled),
        ("timescale", decay.timescale.is_some(), decoupled),
        ("inside_trust_ratio", decay.inside_trust_ratio.is_some(), decoupled),
        ("schedule", decay.schedule.is_some(), decoupled),
    ];
    let unread =
        |field: &str, reader: String| Err(ConfigError::Unread { field: format!("weight_decay.{field}"), reader });
    if let Some((field, _, _)) = read.iter().find(|(_, set, read)| *set && !read) {
        return unread(field, by_mode());
    }
    if decay.schedule.is_some() && !by_schedule {
        return unread("schedule", "a scaled_by other than schedule".into());
    }
    if decay.inside_trust_ratio.is_some() && algorithm != Algorithm::Lamb {
        return unread("inside_trust_ratio", format!("algorithm = {algorithm}"));
    }
    Ok(())
}
