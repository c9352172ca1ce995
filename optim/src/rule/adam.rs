//! Adam (Kingma & Ba, arXiv 1412.6980), and with decoupled decay AdamW (arXiv 1711.05101).
//!
//! State: m and v, 8 bytes per parameter; with AMSGrad (Reddi et al., ICLR 2018) also vmax, 12.
//! m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2. Both placements of eps are one formula here:
//! u = a m / (r sqrt(v + root) + eps), see `second_moment.rs`.
//! AMSGrad keeps the largest uncorrected v and puts it in v's place, as PyTorch and Keras do.

use super::Slices;
use super::moments::{Average, Moments, to_f32};
use super::second_moment::{Scale, SecondMoment};
use crate::config::{OptimizerConfig, filled};
use crate::error::ConfigError;
use crate::kernel::{DecayStep, KernelPath, elementwise};
use crate::plane::{PlaneMut, PlaneSpec};

/// Adam's choices.
#[derive(Debug, Clone)]
pub(crate) struct Adam {
    moments: Moments,
    second: SecondMoment,
    amsgrad: bool,
}

/// Adam's numbers for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdamStep {
    m: Average,
    v: Average,
    /// a: multiplies m.
    size: f32,
    scale: Scale,
    amsgrad: bool,
}

impl Adam {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        Ok(Self { moments: Moments::new(config)?, second: SecondMoment::new(config)?, amsgrad: filled(config.amsgrad) })
    }

    pub(crate) fn planes(&self) -> Vec<PlaneSpec> {
        let names: &[_] = if self.amsgrad { &["m", "v", "vmax"] } else { &["m", "v"] };
        names.iter().map(|name| PlaneSpec::zeroed(name)).collect()
    }

    /// The step at `lr`, and the correction sqrt(bc2) / bc1.
    pub(crate) fn step(&self, lr: f64, step: u64, updates: u64) -> (AdamStep, f64) {
        let [bc1, bc2] = self.moments.bias(self.moments.count(step, updates));
        let step = AdamStep {
            m: self.moments.average(0),
            v: self.moments.average(1),
            size: to_f32(lr / bc1 * self.second.numerator(bc2)),
            scale: self.second.scale(bc2),
            amsgrad: self.amsgrad,
        };
        (step, bc2.sqrt() / bc1)
    }
}

impl AdamStep {
    pub(crate) fn update(&self, path: KernelPath, decay: DecayStep, slices: Slices<'_>, planes: &mut [PlaneMut<'_>]) {
        if self.amsgrad {
            largest::update(path, self, decay, slices, planes);
        } else {
            latest::update(path, self, decay, slices, planes);
        }
    }

    /// u from the moments of this step.
    #[inline(always)]
    fn direction(&self, m: f32, v: f32) -> f32 {
        (self.size * m) / self.scale.of(v)
    }
}

elementwise!(
    /// The second moment of this step.
    latest(step: AdamStep, w, g, m, v) {
        *m = step.m.of(*m, g);
        *v = step.v.of_square(*v, g);
        step.direction(*m, *v)
    }
);

elementwise!(
    /// The largest second moment so far.
    largest(step: AdamStep, w, g, m, v, vmax) {
        *m = step.m.of(*m, g);
        *v = step.v.of_square(*v, g);
        *vmax = if *v > *vmax { *v } else { *vmax };
        step.direction(*m, *vmax)
    }
);
