//! Decay given as a half-life or an EMA timescale, turned into the value that gives it.
//!
//! A weight without updates is multiplied by prod (1 - d_s) over the run; its decay exponent is
//! E = -sum ln(1 - d_s). A timescale of tau steps asks for E = steps / tau (Wang & Aitchison,
//! arXiv 2405.13698: AdamW's weights are a moving average of timescale 1 / (lr wd)); a half-life h
//! for E = steps ln 2 / h. d_s = c_s wd, with c_s what the schedule and the scaling give at step
//! s, so the wd sought is the root of an increasing convex function: Newton's method from the
//! right of it, in f64.

use crate::config::{OptimizerConfig, Span, WeightDecayConfig};
use crate::error::ConfigError;

/// The decay exponent of one step that the configuration asks for; `None` when it gives a value.
pub(crate) fn wanted_exponent(config: &OptimizerConfig) -> Result<Option<f64>, ConfigError> {
    let Some(WeightDecayConfig { half_life, timescale, .. }) = &config.weight_decay else {
        return Ok(None);
    };
    let steps = |span: Span| span.steps(config.steps_per_epoch);
    match (half_life, timescale) {
        (Some(span), _) => Ok(Some(std::f64::consts::LN_2 / steps(*span)?)),
        (None, Some(span)) => Ok(Some(1.0 / steps(*span)?)),
        (None, None) => Ok(None),
    }
}

/// The wd for which the factors `coefficient(s) * wd`, s below `steps`, have the exponent
/// `per_step * steps`.
///
/// # Errors
/// [`ConfigError::OutOfRange`] when no factor below 1 decays that fast, as when lr is always 0.
#[allow(clippy::cast_precision_loss)] // exact below 2^53 steps
pub(crate) fn solve(coefficient: impl Fn(u64) -> f64, steps: u64, per_step: f64) -> Result<f64, ConfigError> {
    let wanted = per_step * steps as f64;
    let (mut total, mut largest) = (0.0_f64, 0.0_f64);
    for step in 0..steps {
        let coefficient = coefficient(step);
        total += coefficient;
        largest = largest.max(coefficient);
    }
    // -ln(1 - x) >= x puts the first guess right of the root, unless a factor would reach 1.
    let mut value = (wanted / total).min((1.0 - 1e-9) / largest);
    let exponent = |value: f64| {
        let (mut sum, mut slope) = (0.0, 0.0);
        for step in 0..steps {
            let c = coefficient(step);
            sum -= libm::log1p(-c * value);
            slope += c / (1.0 - c * value);
        }
        (sum, slope)
    };
    if total <= 0.0 || exponent(value).0 < wanted * (1.0 - 1e-9) {
        return Err(ConfigError::range(
            "weight_decay.half_life or timescale",
            "a span that factors below 1 can reach under this lr schedule",
            format!("{:.6} e-folds per step", per_step),
        ));
    }
    for _ in 0..100 {
        let (sum, slope) = exponent(value);
        let next = value - (sum - wanted) / slope;
        if (next - value).abs() <= 1e-15 * value {
            return Ok(next);
        }
        value = next;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_factors_have_a_closed_form() {
        let value = solve(|_| 1e-3, 1000, std::f64::consts::LN_2 / 2000.0).unwrap();
        let closed = (1.0 - libm::exp(-std::f64::consts::LN_2 / 2000.0)) / 1e-3;
        assert!((value - closed).abs() < 1e-12 * closed);
    }

    #[test]
    fn fast_decay_under_a_warmup_is_solved_too() {
        let coefficient = |s: u64| 0.5 * s.min(10) as f64;
        let value = solve(coefficient, 20, 1.0).unwrap();
        let exponent: f64 = (0..20).map(|s| -libm::log1p(-coefficient(s) * value)).sum();
        assert!((exponent - 20.0).abs() < 1e-9);
    }

    #[test]
    fn a_rate_of_zero_decays_never() {
        assert!(solve(|_| 0.0, 10, 0.1).is_err());
    }
}
