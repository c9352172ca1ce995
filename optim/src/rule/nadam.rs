//! NAdam (Dozat, ICLR 2016 workshop), in the forms of PyTorch and optax.
//!
//! State: m and v, 8 bytes per parameter. u = (c g + a m) / (r sqrt(v + root) + eps).
//! PyTorch: mu_t = b1 (1 - 0.5 * 0.96^(t psi)); c = lr (1 - mu_t) / (1 - prod mu),
//! a = lr mu_{t+1} / (1 - prod mu * mu_{t+1}). The product is a function of t, so it is not state.
//! optax: c = lr (1 - b1) / (1 - b1^t), a = lr b1 / (1 - b1^(t+1)).

use super::Slices;
use super::moments::{Average, Moments, to_f32};
use super::second_moment::{Scale, SecondMoment};
use crate::config::{OptimizerConfig, filled};
use crate::error::{ConfigError, non_negative};
use crate::kernel::{DecayStep, KernelPath, elementwise};
use crate::plane::{PlaneMut, PlaneSpec};

/// NAdam's choices.
#[derive(Debug, Clone)]
pub(crate) struct Nadam {
    moments: Moments,
    second: SecondMoment,
    momentum: Momentum,
}

/// How the first moment is scheduled.
#[derive(Debug, Clone)]
enum Momentum {
    /// PyTorch, with psi = `momentum_decay`, and the products of mu after 0, 1, 2, ... updates,
    /// up to the first that no longer moves 1.
    Scheduled { decay: f64, products: Vec<f64> },
    /// optax.
    Constant,
}

/// NAdam's numbers for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NadamStep {
    m: Average,
    v: Average,
    of_gradient: f32,
    of_moment: f32,
    scale: Scale,
}

impl Nadam {
    /// PyTorch's form.
    pub(crate) fn torch(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let decay = filled(config.momentum_decay);
        non_negative("momentum_decay", decay)?;
        let mut nadam = Self::optax(config)?;
        nadam.momentum = Momentum::Scheduled { decay, products: products(nadam.moments.beta(0), decay) };
        Ok(nadam)
    }

    /// optax's form.
    pub(crate) fn optax(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        Ok(Self { moments: Moments::new(config)?, second: SecondMoment::new(config)?, momentum: Momentum::Constant })
    }

    pub(crate) fn planes() -> Vec<PlaneSpec> {
        vec![PlaneSpec::zeroed("m"), PlaneSpec::zeroed("v")]
    }

    pub(crate) fn step(&self, lr: f64, step: u64, updates: u64) -> (NadamStep, f64) {
        let t = self.moments.count(step, updates);
        let [bc1, bc2] = self.moments.bias(t);
        let beta1 = self.moments.beta(0);
        let (of_gradient, of_moment) = match &self.momentum {
            Momentum::Scheduled { decay, products } => {
                let product = product_at(products, t);
                let (mu, mu_next) = (mu(beta1, *decay, t), mu(beta1, *decay, t + 1));
                ((1.0 - mu) / (1.0 - product), mu_next / (1.0 - product * mu_next))
            }
            Momentum::Constant => {
                let [bc1_next, _] = self.moments.bias(t + 1);
                ((1.0 - beta1) / bc1, beta1 / bc1_next)
            }
        };
        let numerator = lr * self.second.numerator(bc2);
        let step = NadamStep {
            m: self.moments.average(0),
            v: self.moments.average(1),
            of_gradient: to_f32(numerator * of_gradient),
            of_moment: to_f32(numerator * of_moment),
            scale: self.second.scale(bc2),
        };
        (step, bc2.sqrt() / bc1)
    }
}

/// mu_t.
#[allow(clippy::cast_precision_loss)] // exact below 2^53 updates
fn mu(beta1: f64, decay: f64, t: u64) -> f64 {
    beta1 * (1.0 - 0.5 * libm::pow(0.96, t as f64 * decay))
}

/// Products of mu_1 ... mu_t for t = 0, 1, ... until 1 - product is 1 and all later ones are too.
/// mu is below beta1, so there are at most 40 / (1 - beta1) of them.
fn products(beta1: f64, decay: f64) -> Vec<f64> {
    let mut products = vec![1.0];
    let mut product = 1.0;
    while product > 1e-17 {
        product *= mu(beta1, decay, products.len() as u64);
        products.push(product);
    }
    products
}

/// The product after `t` updates; past the list it is too small to matter.
fn product_at(products: &[f64], t: u64) -> f64 {
    let index = usize::try_from(t).ok();
    index.and_then(|index| products.get(index)).copied().unwrap_or(0.0)
}

impl NadamStep {
    pub(crate) fn update(&self, path: KernelPath, decay: DecayStep, slices: Slices<'_>, planes: &mut [PlaneMut<'_>]) {
        nesterov::update(path, self, decay, slices, planes);
    }
}

elementwise!(
    /// The gradient of this step beside the moment that holds it already.
    nesterov(step: NadamStep, w, g, m, v) {
        *m = step.m.of(*m, g);
        *v = step.v.of_square(*v, g);
        (step.of_gradient * g + step.of_moment * *m) / step.scale.of(*v)
    }
);
