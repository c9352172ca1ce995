//! Lion (Chen et al., arXiv 2302.06675).
//!
//! State: m, 4 bytes per parameter. u = lr sign(b1 m + (1 - b1) g), sign(0) = 0; only then
//! m = b2 m + (1 - b2) g.

use super::Slices;
use super::moments::{Average, Moments, to_f32};
use crate::config::OptimizerConfig;
use crate::error::ConfigError;
use crate::gradient::sign;
use crate::kernel::{DecayStep, KernelPath, elementwise};
use crate::plane::{PlaneMut, PlaneSpec};

/// Lion's choices.
#[derive(Debug, Clone)]
pub(crate) struct Lion {
    moments: Moments,
}

/// Lion's numbers for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LionStep {
    direction: Average,
    momentum: Average,
    lr: f32,
}

impl Lion {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let moments = Moments::new(config)?;
        Ok(Self { moments })
    }

    pub(crate) fn planes() -> Vec<PlaneSpec> {
        vec![PlaneSpec::zeroed("m")]
    }

    pub(crate) fn step(&self, lr: f64) -> LionStep {
        LionStep { direction: self.moments.average(0), momentum: self.moments.average(1), lr: to_f32(lr) }
    }
}

impl LionStep {
    pub(crate) fn update(&self, path: KernelPath, decay: DecayStep, slices: Slices<'_>, planes: &mut [PlaneMut<'_>]) {
        signed::update(path, self, decay, slices, planes);
    }
}

elementwise!(
    /// The sign of the interpolated momentum.
    signed(step: LionStep, w, g, m) {
        let direction = sign(step.direction.of(*m, g));
        *m = step.momentum.of(*m, g);
        step.lr * direction
    }
);
