//! PyTorch's `OneCycleLR` (Smith & Topin, arXiv 1708.07120).
//!
//! Its phases end at fractional steps, `pct_start * steps - 1` and so on; that quirk is kept.

use super::Anneal;
use super::half_cycle::half_cosine;

/// The numbers of one cycle.
pub(super) struct OneCycle {
    pub(super) base: f64,
    pub(super) pct_start: f64,
    pub(super) div_factor: f64,
    pub(super) final_div_factor: f64,
    pub(super) anneal: Anneal,
    pub(super) three_phase: bool,
    pub(super) steps: f64,
}

impl OneCycle {
    pub(super) fn value(&self, step: f64) -> f64 {
        let first = self.base / self.div_factor;
        let last = first / self.final_div_factor;
        let peak = self.pct_start * self.steps - 1.0;
        let end = self.steps - 1.0;
        if step <= peak {
            return self.between(first, self.base, step / peak);
        }
        if !self.three_phase {
            return self.between(self.base, last, (step - peak) / (end - peak));
        }
        let valley = 2.0 * self.pct_start * self.steps - 2.0;
        if step <= valley {
            return self.between(self.base, first, (step - peak) / (valley - peak));
        }
        self.between(first, last, (step - valley) / (end - valley))
    }

    /// From `start` to `end` as `fraction` goes from 0 to 1; held after that.
    fn between(&self, start: f64, end: f64, fraction: f64) -> f64 {
        let fraction = fraction.min(1.0);
        match self.anneal {
            Anneal::Cos => end + (start - end) * half_cosine(fraction),
            Anneal::Linear => (end - start) * fraction + start,
        }
    }
}
