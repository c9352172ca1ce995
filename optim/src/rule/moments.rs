//! The two betas: what they weigh and how their bias is corrected, rounded where a system rounds.

use super::running_product::RunningProduct;
use crate::config::{BiasRounding, MomentRounding, OptimizerConfig, StepCounter, filled};
use crate::error::ConfigError;

/// Weights of an exponential moving average: new = keep old + gain sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Average {
    pub(crate) keep: f32,
    pub(crate) gain: f32,
}

impl Average {
    /// The average after the sample `x`.
    #[inline(always)]
    pub(crate) fn of(self, old: f32, x: f32) -> f32 {
        self.keep * old + self.gain * x
    }

    /// The average of squares after the sample `x`. (gain x) x rather than gain (x x): overflows
    /// later, as PyTorch's addcmul does.
    #[inline(always)]
    pub(crate) fn of_square(self, old: f32, x: f32) -> f32 {
        self.keep * old + (self.gain * x) * x
    }
}

/// One beta.
#[derive(Debug, Clone)]
struct Beta {
    /// The value moments use.
    moment: f64,
    /// The value whose power corrects the bias.
    power: f64,
    /// TensorFlow 1's running f32 product, in place of the power.
    product: Option<RunningProduct>,
}

/// Both betas, with their rounding and their counter.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    betas: [Beta; 2],
    bias_correction: bool,
    counter: StepCounter,
}

impl Moments {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let betas = filled(config.betas);
        for (index, beta) in betas.iter().enumerate() {
            if !(0.0..1.0).contains(beta) || f64::from(to_f32(*beta)) >= 1.0 {
                let field = format!("betas[{index}]");
                return Err(ConfigError::range(field, "at least 0 and below 1", beta));
            }
        }
        let rounding = filled(config.hyper_rounding);
        // Lion corrects no bias and counts nothing.
        let bias_correction = config.bias_correction.unwrap_or(false);
        Ok(Self {
            betas: betas.map(|beta| Beta {
                moment: match rounding.moments {
                    MomentRounding::F64 => beta,
                    MomentRounding::F32 => f64::from(to_f32(beta)),
                },
                power: match rounding.bias_correction {
                    BiasRounding::F64 => beta,
                    BiasRounding::F32 | BiasRounding::F32RunningProduct => f64::from(to_f32(beta)),
                },
                product: (rounding.bias_correction == BiasRounding::F32RunningProduct)
                    .then(|| RunningProduct::of_f32(to_f32(beta))),
            }),
            bias_correction,
            counter: config.step_counter.unwrap_or_default(),
        })
    }

    /// Weights of the moving average of beta `index` (0 or 1).
    pub(crate) fn average(&self, index: usize) -> Average {
        let beta = self.betas[index].moment;
        Average { keep: to_f32(beta), gain: to_f32(1.0 - beta) }
    }

    /// The beta as the moments use it.
    pub(crate) fn beta(&self, index: usize) -> f64 {
        self.betas[index].moment
    }

    /// The t of bias correction.
    pub(crate) fn count(&self, step: u64, updates: u64) -> u64 {
        match self.counter {
            StepCounter::PerTensor => updates,
            StepCounter::Global => step,
        }
    }

    /// (1 - beta1^t, 1 - beta2^t), or (1, 1) without bias correction.
    pub(crate) fn bias(&self, t: u64) -> [f64; 2] {
        if !self.bias_correction {
            return [1.0, 1.0];
        }
        [self.bias_of(0, t), self.bias_of(1, t)]
    }

    /// 1 - beta^t, whether or not bias correction is on.
    #[allow(clippy::cast_precision_loss)] // exact below 2^53 updates
    pub(crate) fn bias_of(&self, index: usize, t: u64) -> f64 {
        let beta = &self.betas[index];
        1.0 - match &beta.product {
            Some(product) => product.at(t),
            None => libm::pow(beta.power, t as f64),
        }
    }
}

/// The value the f32 kernels see.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn to_f32(value: f64) -> f32 {
    value as f32
}
