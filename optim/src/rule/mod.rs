//! The update rules, one per file: each computes its factors of a step in f64 and holds its loop.

mod adam;
mod moments;
mod running_product;
mod sgd;

use crate::apply::DecayStep;
use crate::config::{Algorithm, OptimizerConfig};
use crate::error::ConfigError;
use crate::plane::PlaneSpec;

/// A compiled rule.
#[derive(Debug, Clone)]
pub(crate) enum Rule {
    Adam(adam::Adam),
    Sgd(sgd::Sgd),
}

/// A rule's numbers for one step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RuleStep {
    Adam(adam::AdamStep),
    Sgd(sgd::SgdStep),
}

/// The arrays of one slice besides the planes, which are cut at `start` to the same length.
pub(crate) struct Slices<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) next: &'a mut [f32],
    pub(crate) gradient: &'a [f32],
    start: usize,
}

impl<'a> Slices<'a> {
    pub(crate) fn new(weights: &'a [f32], next: &'a mut [f32], gradient: &'a [f32], start: usize) -> Self {
        Self { weights, next, gradient, start }
    }

    /// The part of `plane` that belongs to this slice.
    pub(crate) fn of<'p>(&self, plane: &'p mut [f32]) -> &'p mut [f32] {
        &mut plane[self.start..self.start + self.weights.len()]
    }
}

impl Rule {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let algorithm = config.algorithm.unwrap_or_default();
        refuse_unread(config, algorithm)?;
        match algorithm {
            Algorithm::Adam => adam::Adam::new(config).map(Self::Adam),
            Algorithm::Sgd => sgd::Sgd::new(config).map(Self::Sgd),
        }
    }

    pub(crate) fn planes(&self) -> Vec<PlaneSpec> {
        match self {
            Self::Adam(adam) => adam.planes(),
            Self::Sgd(sgd) => sgd.planes(),
        }
    }

    /// The numbers of a step at learning rate `lr`, and the bias correction sqrt(bc2) / bc1 that
    /// lr receives (1 without one).
    pub(crate) fn step(&self, lr: f64, step: u64, updates: u64) -> (RuleStep, f64) {
        match self {
            Self::Adam(adam) => {
                let (step, correction) = adam.step(lr, step, updates);
                (RuleStep::Adam(step), correction)
            }
            Self::Sgd(sgd) => (RuleStep::Sgd(sgd.step(lr, updates)), 1.0),
        }
    }
}

impl RuleStep {
    pub(crate) fn update(&self, decay: DecayStep, slices: Slices<'_>, planes: &mut [&mut [f32]]) {
        match self {
            Self::Adam(step) => step.update(decay, slices, planes),
            Self::Sgd(step) => step.update(decay, slices, planes),
        }
    }
}

/// The planes of a rule as an array. A wrong number is a bug of the caller, checked before.
pub(crate) fn exactly<'a, 'b, const N: usize>(planes: &'a mut [&'b mut [f32]]) -> &'a mut [&'b mut [f32]; N] {
    planes.try_into().expect("Optimizer::update checks the number of planes")
}

/// Every setting that is present must be one that `algorithm` reads.
fn refuse_unread(config: &OptimizerConfig, algorithm: Algorithm) -> Result<(), ConfigError> {
    let adam = matches!(algorithm, Algorithm::Adam);
    let sgd = algorithm == Algorithm::Sgd;
    let settings = [
        ("betas", config.betas.is_some(), adam),
        ("eps", config.eps.is_some(), adam),
        ("eps_placement", config.eps_placement.is_some(), adam),
        ("eps_root", config.eps_root.is_some(), adam),
        ("bias_correction", config.bias_correction.is_some(), adam),
        ("step_counter", config.step_counter.is_some(), adam),
        ("amsgrad", config.amsgrad.is_some(), adam),
        ("hyper_rounding", config.hyper_rounding.is_some(), adam),
        ("momentum", config.momentum.is_some(), sgd),
        ("momentum_form", config.momentum_form.is_some(), sgd),
        ("dampening", config.dampening.is_some(), sgd),
        ("nesterov", config.nesterov.is_some(), sgd),
    ];
    match settings.iter().find(|(_, set, read)| *set && !read) {
        None => Ok(()),
        Some((field, _, _)) => {
            Err(ConfigError::Unread { field: (*field).into(), reader: format!("algorithm = {algorithm}") })
        }
    }
}
