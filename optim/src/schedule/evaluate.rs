//! The value of a schedule at a step, and the filling in of lengths.
//!
//! `exp`, `cos`, `pow` come from `libm`; `sqrt` is exact in std. The order of operations is part
//! of the contract: it fixes the bits.

use super::cosine::{period_of, published_code_fraction, restarts};
use super::half_cycle::half_cosine;
use super::one_cycle::OneCycle;
use super::{Boundary, Clock, Curve, Part, ScheduleConfig, WsdShape};

/// A step count as f64. Exact below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn float(steps: u64) -> f64 {
    steps as f64
}

pub(super) fn ratio(step: u64, steps: u64) -> f64 {
    float(step) / float(steps)
}

impl ScheduleConfig {
    /// Every curve that names no length takes what is left of `run_steps`.
    pub(super) fn with_length(&self, run_steps: u64) -> Self {
        let Self::Curve(curve) = self else {
            return self.clone();
        };
        let mut curve = curve.clone();
        fill_length(&mut curve, run_steps);
        Self::Curve(curve)
    }

    pub(super) fn value(&self, step: u64) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Curve(curve) => curve.value(step),
        }
    }

    pub(super) fn base(&self) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Curve(curve) => curve.base(),
        }
    }
}

fn fill_length(curve: &mut Curve, run_steps: u64) {
    match curve {
        Curve::Linear { steps, .. }
        | Curve::Polynomial { steps, .. }
        | Curve::Cosine { steps, .. }
        | Curve::OneCycle { steps, .. } => *steps = Some(steps.unwrap_or(run_steps)),
        Curve::Wsd { stable, decay, .. } => {
            *decay = Some(decay.unwrap_or(run_steps.saturating_sub(*stable)));
        }
        Curve::Warmup { steps, clock, then, .. } => {
            let hidden = if *clock == Clock::Restarts { *steps } else { 0 };
            // At least 1, so that a run that ends within its warmup still heads for where `then`
            // begins, not for where it ends.
            *then = then.with_length(run_steps.saturating_sub(hidden).max(1));
        }
        Curve::Sequence { parts } => {
            for part in parts {
                part.schedule = part.schedule.with_length(part.steps);
            }
        }
        _ => {}
    }
}

impl Curve {
    #[allow(clippy::too_many_lines)] // a table: one arm per curve, each a line of mathematics
    pub(super) fn value(&self, step: u64) -> f64 {
        let s = float(step);
        match *self {
            Self::Constant { base } => base,
            Self::Warmup { steps, from, clock, ref then } => {
                if step < steps {
                    return from + (then.value(0) - from) * ratio(step, steps);
                }
                then.value(if clock == Clock::Restarts { step - steps } else { step })
            }
            Self::Linear { base, end, steps } => end + (base - end) * (1.0 - done(step, steps)),
            Self::Polynomial { base, end, power, steps } => {
                (base - end) * libm::pow(1.0 - done(step, steps), power) + end
            }
            Self::Cosine { base, end, steps } => end + (base - end) * half_cosine(done(step, steps)),
            Self::CosineRestarts { base, end, period, period_mult, restart_mult } => {
                restarts(step, (base, end), (period, period_mult), restart_mult)
            }
            Self::SgdrCode { base, batches_per_epoch, period_epochs, period_mult } => {
                let first = batches_per_epoch * period_epochs;
                base * half_cosine(published_code_fraction(step, first, period_mult))
            }
            Self::NormalizedRestarts { lambda, batches_per_epoch, period_epochs, period_mult } => {
                let first = batches_per_epoch * period_epochs;
                lambda / float(period_of(step, first, period_mult).length).sqrt()
            }
            Self::Normalized { lambda, batch, dataset, epochs } => {
                lambda * (float(batch) / (float(dataset) * float(epochs))).sqrt()
            }
            Self::InverseSqrt { base, timescale } => {
                base * (float(timescale) / float(timescale.saturating_add(step))).sqrt()
            }
            Self::Noam { base, warmup, d_model } => {
                let n = s + 1.0;
                let rise = n * libm::pow(float(warmup), -1.5);
                base * libm::pow(float(d_model), -0.5) * libm::pow(n, -0.5).min(rise)
            }
            Self::Step { base, every, gamma } => base * libm::pow(gamma, float(step / every)),
            Self::Multistep { base, ref milestones, gamma, at } => {
                base * libm::pow(gamma, float(passed(step, milestones, at) as u64))
            }
            Self::Piecewise { ref boundaries, ref values, at } => values[passed(step, boundaries, at)],
            Self::Exponential { base, gamma, every, staircase } => {
                let exponent = if staircase { float(step / every) } else { ratio(step, every) };
                base * libm::pow(gamma, exponent)
            }
            Self::InverseTime { base, decay } => base / (1.0 + decay * s),
            Self::CaffeInv { base, gamma, power } => base * libm::pow(1.0 + gamma * s, -power),
            Self::CaffeSigmoid { base, gamma, midpoint } => base / (1.0 + libm::exp(-gamma * (s - float(midpoint)))),
            Self::MxnetFactor { base, every, factor, offset } => {
                let drops = step.saturating_add(offset).saturating_sub(1) / every;
                base * libm::pow(factor, float(drops))
            }
            Self::OneCycle { base, pct_start, div_factor, final_div_factor, anneal, three_phase, steps } => OneCycle {
                base,
                pct_start,
                div_factor,
                final_div_factor,
                anneal,
                three_phase,
                steps: float(steps.unwrap_or(1)),
            }
            .value(s),
            Self::Wsd { base, end, stable, decay, shape } => {
                let p = done(step.saturating_sub(stable), decay);
                end + (base - end) * shape.left(p)
            }
            Self::Sequence { ref parts } => sequence(step, parts),
            Self::Table { ref values } => {
                let last = values.len() - 1;
                values[usize::try_from(step).unwrap_or(last).min(last)]
            }
        }
    }

    pub(super) fn base(&self) -> f64 {
        match self {
            Self::Constant { base }
            | Self::Linear { base, .. }
            | Self::Polynomial { base, .. }
            | Self::Cosine { base, .. }
            | Self::CosineRestarts { base, .. }
            | Self::SgdrCode { base, .. }
            | Self::InverseSqrt { base, .. }
            | Self::Noam { base, .. }
            | Self::Step { base, .. }
            | Self::Multistep { base, .. }
            | Self::Exponential { base, .. }
            | Self::InverseTime { base, .. }
            | Self::CaffeInv { base, .. }
            | Self::CaffeSigmoid { base, .. }
            | Self::MxnetFactor { base, .. }
            | Self::OneCycle { base, .. }
            | Self::Wsd { base, .. } => *base,
            Self::NormalizedRestarts { .. } | Self::Normalized { .. } => self.value(0),
            Self::Warmup { then, .. } => then.base(),
            Self::Piecewise { values, .. } | Self::Table { values } => values.iter().copied().fold(0.0, f64::max),
            Self::Sequence { parts } => parts.iter().map(|part| part.schedule.base()).fold(0.0, f64::max),
        }
    }
}

impl WsdShape {
    /// The part of the height left when `p` of the decay is done.
    fn left(self, p: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - p,
            Self::Sqrt => 1.0 - p.sqrt(),
            Self::Cosine => half_cosine(p),
        }
    }
}

/// The part of `steps` that is done, at most 1. A length of zero is done at once.
fn done(step: u64, steps: Option<u64>) -> f64 {
    let steps = steps.unwrap_or(0);
    if step >= steps {
        return 1.0;
    }
    ratio(step, steps)
}

fn passed(step: u64, boundaries: &[u64], at: Boundary) -> usize {
    match at {
        Boundary::New => boundaries.partition_point(|&b| b <= step),
        Boundary::Old => boundaries.partition_point(|&b| b < step),
    }
}

fn sequence(mut step: u64, parts: &[Part]) -> f64 {
    let last = parts.len() - 1;
    for part in &parts[..last] {
        if step < part.steps {
            return part.schedule.value(step);
        }
        step -= part.steps;
    }
    parts[last].schedule.value(step)
}
