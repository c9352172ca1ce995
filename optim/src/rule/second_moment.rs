//! Dividing by the root of the second moment, with eps where the system puts it.
//!
//! One formula for both placements: r sqrt(v + root) + eps divides a m.
//! `corrected`: (m/bc1) / (sqrt(v/bc2 + eps_root) + eps), so r = 1 / sqrt(bc2) and
//! root = eps_root bc2, since sqrt(v / bc2 + e) = sqrt(v + e bc2) / sqrt(bc2).
//! `uncorrected`: sqrt(bc2)/bc1 m / (sqrt(v + eps_root) + eps), so r = 1 and a gains sqrt(bc2).

use super::moments::to_f32;
use crate::config::{EpsPlacement, OptimizerConfig, filled};
use crate::error::{ConfigError, non_negative, positive};

/// Where eps stands, and how large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SecondMoment {
    eps: f64,
    eps_root: f64,
    placement: EpsPlacement,
}

/// r, root and eps of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    factor: f32,
    root: f32,
    eps: f32,
}

impl SecondMoment {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let eps = filled(config.eps);
        // Checked as the kernels see it: 1e-50 is zero in f32.
        positive("eps", f64::from(to_f32(eps)))?;
        let eps_root = filled(config.eps_root);
        non_negative("eps_root", eps_root)?;
        Ok(Self { eps, eps_root, placement: filled(config.eps_placement) })
    }

    /// What the numerator gains from the placement.
    pub(crate) fn numerator(&self, bc2: f64) -> f64 {
        match self.placement {
            EpsPlacement::Corrected => 1.0,
            EpsPlacement::Uncorrected => bc2.sqrt(),
        }
    }

    pub(crate) fn scale(&self, bc2: f64) -> Scale {
        let (factor, root) = match self.placement {
            EpsPlacement::Corrected => (1.0 / bc2.sqrt(), self.eps_root * bc2),
            EpsPlacement::Uncorrected => (1.0, self.eps_root),
        };
        Scale { factor: to_f32(factor), root: to_f32(root), eps: to_f32(self.eps) }
    }
}

impl Scale {
    /// r sqrt(v + root) + eps.
    #[inline(always)]
    pub(crate) fn of(&self, v: f32) -> f32 {
        (v + self.root).sqrt() * self.factor + self.eps
    }
}
