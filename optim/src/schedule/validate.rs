//! What a schedule must satisfy before it is evaluated.
//!
//! Values are finite and not negative; lengths that divide are at least one; lists are not empty
//! and rise. A checked curve never panics and never yields NaN.

use super::{Curve, ScheduleConfig};
use crate::error::{ConfigError, at_least_one, non_negative, positive};

impl ScheduleConfig {
    pub(super) fn validate(&self, field: &str) -> Result<(), ConfigError> {
        match self {
            Self::Constant(value) => non_negative(field, *value),
            Self::Curve(curve) => curve.validate(field),
        }
    }
}

impl Curve {
    fn validate(&self, field: &str) -> Result<(), ConfigError> {
        let name = |key: &str| format!("{field}.{key}");
        non_negative(&name("base"), self.named_base().unwrap_or(0.0))?;
        match self {
            Self::Warmup { from, then, .. } => {
                non_negative(&name("from"), *from)?;
                then.validate(&name("then"))
            }
            Self::Linear { end, .. } | Self::Cosine { end, .. } | Self::Wsd { end, .. } => {
                non_negative(&name("end"), *end)
            }
            Self::Polynomial { end, power, .. } => {
                non_negative(&name("end"), *end)?;
                positive(&name("power"), *power)
            }
            Self::CosineRestarts { end, period, period_mult, restart_mult, .. } => {
                non_negative(&name("end"), *end)?;
                positive(&name("restart_mult"), *restart_mult)?;
                at_least_one(&name("period"), *period)?;
                at_least_one(&name("period_mult"), *period_mult)
            }
            Self::SgdrCode { batches_per_epoch, period_epochs, period_mult, .. } => {
                restart_lengths(&name, *batches_per_epoch, *period_epochs, *period_mult)
            }
            Self::NormalizedRestarts { lambda, batches_per_epoch, period_epochs, period_mult } => {
                non_negative(&name("lambda"), *lambda)?;
                restart_lengths(&name, *batches_per_epoch, *period_epochs, *period_mult)
            }
            Self::Normalized { lambda, batch, dataset, epochs } => {
                non_negative(&name("lambda"), *lambda)?;
                at_least_one(&name("batch"), *batch)?;
                at_least_one(&name("dataset"), *dataset)?;
                at_least_one(&name("epochs"), *epochs)
            }
            Self::InverseSqrt { timescale, .. } => at_least_one(&name("timescale"), *timescale),
            Self::Noam { warmup, d_model, .. } => {
                at_least_one(&name("warmup"), *warmup)?;
                at_least_one(&name("d_model"), *d_model)
            }
            Self::Step { every, gamma, .. } | Self::Exponential { every, gamma, .. } => {
                positive(&name("gamma"), *gamma)?;
                at_least_one(&name("every"), *every)
            }
            Self::Multistep { milestones, gamma, .. } => {
                positive(&name("gamma"), *gamma)?;
                rising(&name("milestones"), milestones)
            }
            Self::Piecewise { boundaries, values, .. } => {
                rising(&name("boundaries"), boundaries)?;
                if values.len() != boundaries.len() + 1 {
                    return Err(ConfigError::range(
                        name("values"),
                        "one value more than there are boundaries",
                        values.len(),
                    ));
                }
                all_non_negative(&name("values"), values)
            }
            Self::InverseTime { decay, .. } => non_negative(&name("decay"), *decay),
            Self::CaffeInv { gamma, power, .. } => {
                non_negative(&name("gamma"), *gamma)?;
                non_negative(&name("power"), *power)
            }
            Self::CaffeSigmoid { gamma, .. } => finite(&name("gamma"), *gamma),
            Self::MxnetFactor { every, factor, .. } => {
                positive(&name("factor"), *factor)?;
                at_least_one(&name("every"), *every)
            }
            Self::OneCycle { .. } => self.validate_one_cycle(&name),
            Self::Sequence { parts } => {
                not_empty(&name("parts"), parts.len())?;
                parts.iter().try_for_each(|part| part.schedule.validate(&name("parts.schedule")))
            }
            Self::Table { values } => {
                not_empty(&name("values"), values.len())?;
                all_non_negative(&name("values"), values)
            }
            Self::Constant { .. } => Ok(()),
        }
    }

    fn validate_one_cycle(&self, name: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
        let Self::OneCycle { pct_start, div_factor, final_div_factor, three_phase, steps, .. } = self else {
            return Ok(());
        };
        positive(&name("div_factor"), *div_factor)?;
        positive(&name("final_div_factor"), *final_div_factor)?;
        let last_phase = if *three_phase { 2.0 } else { 1.0 };
        let steps = super::evaluate::float(steps.unwrap_or(0));
        // Every phase must last: PyTorch divides by its length.
        if *pct_start * steps > 1.0 && last_phase * pct_start < 1.0 {
            return Ok(());
        }
        Err(ConfigError::range(
            name("pct_start"),
            "a part of the cycle that leaves every phase at least one step",
            format!("{pct_start} of {steps} steps"),
        ))
    }

    /// The key `base`, when the curve has one.
    fn named_base(&self) -> Option<f64> {
        match self {
            Self::Warmup { .. }
            | Self::Normalized { .. }
            | Self::NormalizedRestarts { .. }
            | Self::Piecewise { .. }
            | Self::Sequence { .. }
            | Self::Table { .. } => None,
            _ => Some(self.base()),
        }
    }
}

fn restart_lengths(
    name: &dyn Fn(&str) -> String,
    batches_per_epoch: u64,
    period_epochs: u64,
    period_mult: u64,
) -> Result<(), ConfigError> {
    at_least_one(&name("batches_per_epoch"), batches_per_epoch)?;
    at_least_one(&name("period_epochs"), period_epochs)?;
    at_least_one(&name("period_mult"), period_mult)?;
    if batches_per_epoch.checked_mul(period_epochs).is_none() {
        return Err(ConfigError::range(name("period_epochs"), "a period of fewer than 2^64 steps", period_epochs));
    }
    Ok(())
}

fn rising(field: &str, steps: &[u64]) -> Result<(), ConfigError> {
    if steps.windows(2).all(|pair| pair[0] < pair[1]) {
        return Ok(());
    }
    Err(ConfigError::range(field, "rising step numbers", format!("{steps:?}")))
}

fn all_non_negative(field: &str, values: &[f64]) -> Result<(), ConfigError> {
    values.iter().try_for_each(|&value| non_negative(field, value))
}

fn not_empty(field: &str, length: usize) -> Result<(), ConfigError> {
    at_least_one(field, length as u64)
}

fn finite(field: &str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() {
        return Ok(());
    }
    Err(ConfigError::range(field, "a finite number", value))
}
