//! Weight decay, compiled: the factor of a step in f64.
//!
//! Formulas: `golden/README.md`; Loshchilov & Hutter, arXiv 1711.05101, algorithms 1 and 2.

use crate::apply::{DecayStep, Order};
use crate::config::{DecayMode, DecayOrder, DecayScale, OptimizerConfig, WeightDecayConfig};
use crate::error::ConfigError;
use crate::schedule::{Schedule, ScheduleConfig};

/// What a step knows when it asks for its decay.
pub(crate) struct DecayInput<'a> {
    /// Finished steps.
    pub(crate) step: u64,
    /// The tensor's lr schedule, without its multiplier.
    pub(crate) lr_schedule: &'a Schedule,
    pub(crate) lr_mult: f64,
    pub(crate) decay_mult: f64,
    /// sqrt(1 - beta2^t) / (1 - beta1^t), or 1 for rules without bias correction.
    pub(crate) correction: f64,
}

/// The decay of a run.
#[derive(Debug, Clone)]
pub(crate) struct Decay {
    pub(crate) mode: DecayMode,
    value: Schedule,
    scale: DecayScale,
    order: DecayOrder,
    eta: Option<Schedule>,
}

impl Decay {
    pub(crate) fn new(config: &OptimizerConfig, run_steps: u64) -> Result<Self, ConfigError> {
        let absent = WeightDecayConfig { mode: Some(DecayMode::None), ..WeightDecayConfig::default() };
        let decay = config.weight_decay.as_ref().unwrap_or(&absent);
        let mode = decay.mode.ok_or(ConfigError::Missing {
            field: "weight_decay.mode".into(),
            expected: "\"none\", \"l2\", \"l1\" or \"decoupled\"",
        })?;
        let value = match (&decay.value, mode) {
            (Some(value), _) => value.clone(),
            (None, DecayMode::None) => ScheduleConfig::Constant(0.0),
            (None, _) => {
                return Err(ConfigError::Missing {
                    field: "weight_decay.value".into(),
                    expected: "a number or a schedule",
                });
            }
        };
        refuse_unread(decay, mode)?;
        let eta = decay.schedule.as_ref();
        Ok(Self {
            mode,
            value: Schedule::new("weight_decay.value", &value, run_steps)?,
            scale: decay.scaled_by.unwrap_or_default(),
            order: decay.order.unwrap_or_default(),
            eta: eta.map(|eta| Schedule::new("weight_decay.schedule", eta, run_steps)).transpose()?,
        })
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
            (DecayMode::Decoupled, _) if factor == 0.0 => Order::None,
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

/// Scaling and order mean nothing unless the decay is decoupled.
fn refuse_unread(decay: &WeightDecayConfig, mode: DecayMode) -> Result<(), ConfigError> {
    let unread =
        |field: &str, reader: String| Err(ConfigError::Unread { field: format!("weight_decay.{field}"), reader });
    if mode != DecayMode::Decoupled {
        let reader = format!("weight_decay.mode = {mode:?}").to_lowercase();
        let set = [
            ("scaled_by", decay.scaled_by.is_some()),
            ("order", decay.order.is_some()),
            ("schedule", decay.schedule.is_some()),
        ];
        if let Some((field, _)) = set.iter().find(|(_, set)| *set) {
            return unread(field, reader);
        }
    }
    if mode == DecayMode::None && decay.value.is_some() {
        return unread("value", "weight_decay.mode = none".into());
    }
    if decay.schedule.is_some() && decay.scaled_by != Some(DecayScale::Schedule) {
        return unread("schedule", "weight_decay.scaled_by other than schedule".into());
    }
    Ok(())
}
