//! Cosine schedules with warm restarts.
//!
//! Source: Loshchilov & Hutter, SGDR (arXiv 1608.03983) eq. 5; PyTorch
//! `CosineAnnealingWarmRestarts`; TensorFlow `cosine_decay_restarts`; the authors' `train.lua`.

use super::half_cycle::half_cosine;

/// A restart period: where `step` stands in it.
pub(super) struct Period {
    /// Steps since the period began.
    pub(super) elapsed: u64,
    /// Length in steps.
    pub(super) length: u64,
    /// Number of the period, from 0.
    pub(super) index: u64,
}

/// Finds the period of `step` when the first is `first` steps long and each is `growth` times
/// the one before. Both are at least 1.
pub(super) fn period_of(step: u64, first: u64, growth: u64) -> Period {
    if growth == 1 {
        return Period { elapsed: step % first, length: first, index: step / first };
    }
    let mut period = Period { elapsed: step, length: first, index: 0 };
    while period.elapsed >= period.length {
        period.elapsed -= period.length;
        period.length = period.length.saturating_mul(growth);
        period.index += 1;
    }
    period
}

/// The clock of the published code: fraction of the current period at the update after `step`
/// finished steps. One batch ahead in the first period, so that it ends at 1 there and later
/// periods start at 0.
pub(super) fn published_code_fraction(step: u64, first: u64, growth: u64) -> f64 {
    let period = period_of(step, first, growth);
    let ahead = u64::from(period.index == 0);
    super::evaluate::ratio(period.elapsed + ahead, period.length)
}

/// `end + (base * mult^k - end) ...` at `step`; see [`super::Curve::CosineRestarts`].
pub(super) fn restarts(step: u64, (base, end): (f64, f64), (first, growth): (u64, u64), restart_mult: f64) -> f64 {
    let period = period_of(step, first, growth);
    let height = libm::pow(restart_mult, super::evaluate::float(period.index));
    let fraction = super::evaluate::ratio(period.elapsed, period.length);
    end + (base - end) * height * half_cosine(fraction)
}
