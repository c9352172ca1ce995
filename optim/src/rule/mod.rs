//! The update rules, one per file: each computes its factors of a step in f64 and holds its loop.

mod adafactor;
mod adam;
mod lamb;
mod lion;
mod moments;
mod nadam;
mod radam;
mod running_product;
mod second_moment;
mod sgd;

pub(crate) use adafactor::Tensor;
pub(crate) use lamb::directions;

use crate::config::{Algorithm, OptimizerConfig, filled};
use crate::error::ConfigError;
use crate::kernel::{DecayStep, Intake, KernelPath};
use crate::plane::{PlaneMut, PlaneSpec};
use crate::reduce::{Reduction, Sums};

/// A compiled rule.
#[derive(Debug, Clone)]
pub(crate) enum Rule {
    Adam(adam::Adam),
    Nadam(nadam::Nadam),
    Radam(radam::Radam),
    Sgd(sgd::Sgd),
    Lion(lion::Lion),
    Lamb(lamb::Lamb),
    Adafactor(adafactor::Adafactor),
}

/// A rule's numbers for one step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RuleStep {
    Adam(adam::AdamStep),
    Nadam(nadam::NadamStep),
    Radam(radam::RadamStep),
    Sgd(sgd::SgdStep),
    Lion(lion::LionStep),
    Lamb(lamb::LambStep),
    Adafactor(adafactor::AdafactorStep),
}

/// What a rule sees of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepInput {
    pub(crate) lr: f64,
    pub(crate) step: u64,
    pub(crate) updates: u64,
    /// The coefficient of decay inside LAMB's trust ratio.
    pub(crate) inner_decay: f64,
}

/// The arrays of one slice besides the planes, which are cut at `start` to the same length.
pub(crate) struct Slices<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) next: &'a mut [f32],
    pub(crate) gradient: &'a [f32],
    /// What becomes of the gradient on its way in.
    pub(crate) intake: Intake,
    start: usize,
}

impl<'a> Slices<'a> {
    pub(crate) fn new(weights: &'a [f32], next: &'a mut [f32], gradient: &'a [f32], intake: Intake) -> Self {
        Self { weights, next, gradient, intake, start: 0 }
    }

    /// The same arrays as a part of a tensor that begins `start` elements into the planes.
    pub(crate) fn at(self, start: usize) -> Self {
        Self { start, ..self }
    }

    /// The part of `plane` that belongs to this slice.
    pub(crate) fn of<'p, S>(&self, plane: &'p mut [S]) -> &'p mut [S] {
        &mut plane[self.start..self.start + self.weights.len()]
    }
}

impl Rule {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let algorithm = filled(config.algorithm);
        refuse_unread(config, algorithm)?;
        match algorithm {
            Algorithm::Adam => adam::Adam::new(config).map(Self::Adam),
            Algorithm::NadamTorch => nadam::Nadam::torch(config).map(Self::Nadam),
            Algorithm::NadamOptax => nadam::Nadam::optax(config).map(Self::Nadam),
            Algorithm::Radam => radam::Radam::new(config).map(Self::Radam),
            Algorithm::Sgd => sgd::Sgd::new(config).map(Self::Sgd),
            Algorithm::Lion => lion::Lion::new(config).map(Self::Lion),
            Algorithm::Lamb => lamb::Lamb::new(config).map(Self::Lamb),
            Algorithm::AdafactorTorch => adafactor::Adafactor::new(config).map(Self::Adafactor),
        }
    }

    pub(crate) fn planes(&self) -> Vec<PlaneSpec> {
        match self {
            Self::Adam(adam) => adam.planes(),
            Self::Nadam(_) => nadam::Nadam::planes(),
            Self::Radam(_) => radam::Radam::planes(),
            Self::Sgd(sgd) => sgd.planes(),
            Self::Lion(_) => lion::Lion::planes(),
            Self::Lamb(_) => lamb::Lamb::planes(),
            Self::Adafactor(_) => adafactor::Adafactor::planes(),
        }
    }

    /// The reductions of the rule itself, after those of the gradient pipeline.
    pub(crate) fn reduction(&self) -> Option<Reduction> {
        matches!(self, Self::Lamb(_)).then_some(Reduction::TrustRatio)
    }

    /// The numbers of a step, and the bias correction sqrt(bc2) / bc1 that lr receives (1 without
    /// one).
    pub(crate) fn step(&self, input: StepInput) -> (RuleStep, f64) {
        let StepInput { lr, step, updates, inner_decay } = input;
        match self {
            Self::Adam(adam) => with(RuleStep::Adam, adam.step(lr, step, updates)),
            Self::Nadam(nadam) => with(RuleStep::Nadam, nadam.step(lr, step, updates)),
            Self::Radam(radam) => with(RuleStep::Radam, radam.step(lr, step, updates)),
            Self::Sgd(sgd) => (RuleStep::Sgd(sgd.step(lr, updates)), 1.0),
            Self::Lion(lion) => (RuleStep::Lion(lion.step(lr)), 1.0),
            Self::Lamb(lamb) => with(RuleStep::Lamb, lamb.step(lr, inner_decay, step, updates)),
            Self::Adafactor(adafactor) => (RuleStep::Adafactor(adafactor.step(lr, step, updates)), 1.0),
        }
    }
}

fn with<S>(rule: impl Fn(S) -> RuleStep, (step, correction): (S, f64)) -> (RuleStep, f64) {
    (rule(step), correction)
}

impl RuleStep {
    pub(crate) fn pending(&self) -> Option<Reduction> {
        match self {
            Self::Lamb(step) if step.is_pending() => Some(Reduction::TrustRatio),
            _ => None,
        }
    }

    pub(crate) fn supply(&mut self, sums: Sums) {
        match self {
            Self::Lamb(step) if step.is_pending() => step.supply(sums),
            _ => panic!("no reduction is pending"),
        }
    }

    /// Updates a slice.
    pub(crate) fn update(&self, path: KernelPath, decay: DecayStep, slices: Slices<'_>, planes: &mut [PlaneMut<'_>]) {
        match self {
            Self::Adam(step) => step.update(path, decay, slices, planes),
            Self::Nadam(step) => step.update(path, decay, slices, planes),
            Self::Radam(step) => step.update(path, decay, slices, planes),
            Self::Sgd(step) => step.update(path, decay, slices, planes),
            Self::Lion(step) => step.update(path, decay, slices, planes),
            Self::Lamb(step) => step.update(path, decay, slices, planes),
            Self::Adafactor(_) => panic!("adafactor updates whole tensors: use update_tensor"),
        }
    }
}

/// The planes of a rule as an array. A wrong number is a bug of the caller, checked before.
pub(crate) fn exactly<'a, 'b, const N: usize>(planes: &'a mut [PlaneMut<'b>]) -> &'a mut [PlaneMut<'b>; N] {
    planes.try_into().expect("Optimizer::update checks the number of planes")
}

/// Every setting that is present must be one that `algorithm` reads.
fn refuse_unread(config: &OptimizerConfig, algorithm: Algorithm) -> Result<(), ConfigError> {
    use Algorithm::{AdafactorTorch, Adam, NadamTorch, Sgd};
    let only = |one: Algorithm| algorithm == one;
    let second_moment = algorithm.has_second_moment();
    let settings = [
        ("betas", config.betas.is_some(), algorithm.averages()),
        ("eps", config.eps.is_some(), second_moment),
        ("eps_placement", config.eps_placement.is_some(), second_moment),
        ("eps_root", config.eps_root.is_some(), second_moment),
        ("bias_correction", config.bias_correction.is_some(), second_moment),
        ("step_counter", config.step_counter.is_some(), algorithm.counts_updates()),
        ("amsgrad", config.amsgrad.is_some(), only(Adam)),
        ("state_dtype", config.state_dtype.is_some(), algorithm.keeps_moments()),
        ("hyper_rounding", config.hyper_rounding.is_some(), algorithm.averages()),
        ("momentum", config.momentum.is_some(), only(Sgd)),
        ("momentum_form", config.momentum_form.is_some(), only(Sgd)),
        ("dampening", config.dampening.is_some(), only(Sgd)),
        ("nesterov", config.nesterov.is_some(), only(Sgd)),
        ("momentum_decay", config.momentum_decay.is_some(), only(NadamTorch)),
        ("beta2_decay", config.beta2_decay.is_some(), only(AdafactorTorch)),
        ("eps1", config.eps1.is_some(), only(AdafactorTorch)),
        ("eps2", config.eps2.is_some(), only(AdafactorTorch)),
        ("update_clip", config.update_clip.is_some(), only(AdafactorTorch)),
    ];
    match settings.iter().find(|(_, set, read)| *set && !read) {
        None => Ok(()),
        Some((field, _, _)) => {
            Err(ConfigError::Unread { field: (*field).into(), reader: format!("algorithm = {algorithm}") })
        }
    }
}
