//! RAdam (Liu et al., arXiv 1908.03265), as PyTorch computes it.
//!
//! State: m and v, 8 bytes per parameter. rho_inf = 2 / (1 - b2) - 1,
//! rho_t = rho_inf - 2 t b2^t / bc2. While rho_t <= 5 the step is lr m / bc1, without a second
//! moment; after that u = lr rect sqrt(bc2) / bc1 m / (sqrt(v) + eps) with
//! rect = sqrt((rho_t - 4)(rho_t - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho_t)).

use super::Slices;
use super::moments::{Average, Moments, to_f32};
use super::second_moment::{Scale, SecondMoment};
use crate::config::OptimizerConfig;
use crate::error::ConfigError;
use crate::kernel::{DecayStep, KernelPath, elementwise};
use crate::plane::{PlaneMut, PlaneSpec};

/// RAdam's choices.
#[derive(Debug, Clone)]
pub(crate) struct Radam {
    moments: Moments,
    second: SecondMoment,
}

/// RAdam's numbers for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RadamStep {
    m: Average,
    v: Average,
    size: f32,
    scale: Scale,
    rectified: bool,
}

impl Radam {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        Ok(Self { moments: Moments::new(config)?, second: SecondMoment::new(config)? })
    }

    pub(crate) fn planes() -> Vec<PlaneSpec> {
        vec![PlaneSpec::zeroed("m"), PlaneSpec::zeroed("v")]
    }

    pub(crate) fn step(&self, lr: f64, step: u64, updates: u64) -> (RadamStep, f64) {
        let t = self.moments.count(step, updates);
        let [bc1, bc2] = self.moments.bias(t);
        let rectification = self.rectification(t);
        let size = lr / bc1 * rectification.map_or(1.0, |r| r * self.second.numerator(bc2));
        let step = RadamStep {
            m: self.moments.average(0),
            v: self.moments.average(1),
            size: to_f32(size),
            scale: self.second.scale(bc2),
            rectified: rectification.is_some(),
        };
        (step, bc2.sqrt() / bc1)
    }

    /// The rectification of update `t`; `None` while the variance is not tractable.
    #[allow(clippy::cast_precision_loss)] // exact below 2^53 updates
    fn rectification(&self, t: u64) -> Option<f64> {
        let bc2 = self.moments.bias_of(1, t);
        let rho_inf = 2.0 / (1.0 - self.moments.beta(1)) - 1.0;
        let rho = rho_inf - 2.0 * t as f64 * (1.0 - bc2) / bc2;
        if rho <= 5.0 {
            return None;
        }
        let now = (rho - 4.0) * (rho - 2.0) * rho_inf;
        let limit = (rho_inf - 4.0) * (rho_inf - 2.0) * rho;
        Some((now / limit).sqrt())
    }
}

impl RadamStep {
    pub(crate) fn update(&self, path: KernelPath, decay: DecayStep, slices: Slices<'_>, planes: &mut [PlaneMut<'_>]) {
        if self.rectified {
            rectified::update(path, self, decay, slices, planes);
        } else {
            early::update(path, self, decay, slices, planes);
        }
    }
}

elementwise!(
    /// Divided by the root of the second moment.
    rectified(step: RadamStep, w, g, m, v) {
        *m = step.m.of(*m, g);
        *v = step.v.of_square(*v, g);
        (step.size * *m) / step.scale.of(*v)
    }
);

elementwise!(
    /// Momentum alone; the second moment is kept for later.
    early(step: RadamStep, w, g, m, v) {
        *m = step.m.of(*m, g);
        *v = step.v.of_square(*v, g);
        step.size * *m
    }
);
