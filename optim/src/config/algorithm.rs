//! The update rules and the choices inside them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An update rule. w weight, g gradient after the pipeline, t update number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Algorithm {
    /// Kingma & Ba, arXiv 1412.6980; `AdamW` with decoupled decay (arXiv 1711.05101).
    #[default]
    Adam,
    /// Adam with Nesterov momentum, as PyTorch schedules it (Dozat 2016).
    NadamTorch,
    /// Adam with Nesterov momentum, as optax does it.
    NadamOptax,
    /// Rectified Adam (arXiv 1908.03265).
    Radam,
    /// Plain gradient descent, with momentum and Nesterov if asked.
    Sgd,
    /// The sign of an interpolated momentum (arXiv 2302.06675).
    Lion,
    /// Adam scaled by a trust ratio per tensor (arXiv 1904.00962).
    Lamb,
    /// Factored second moments (arXiv 1804.04235), as PyTorch computes them.
    AdafactorTorch,
}

impl Algorithm {
    /// Whether the rule has betas.
    pub(crate) fn averages(self) -> bool {
        !matches!(self, Self::Sgd | Self::AdafactorTorch)
    }

    /// Whether it divides by the root of a second moment per element, and corrects biases.
    pub(crate) fn has_second_moment(self) -> bool {
        matches!(self, Self::Adam | Self::NadamTorch | Self::NadamOptax | Self::Radam | Self::Lamb)
    }

    /// Whether its state is moments, a value per element; they may be stored in less than f32.
    pub(crate) fn keeps_moments(self) -> bool {
        self != Self::AdafactorTorch
    }

    /// Whether it reads the number of updates through the step counter.
    pub(crate) fn counts_updates(self) -> bool {
        self.has_second_moment() || self == Self::AdafactorTorch
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adam => "adam",
            Self::NadamTorch => "nadam_torch",
            Self::NadamOptax => "nadam_optax",
            Self::Radam => "radam",
            Self::Sgd => "sgd",
            Self::Lion => "lion",
            Self::Lamb => "lamb",
            Self::AdafactorTorch => "adafactor_torch",
        })
    }
}

/// Where eps stands. bc1 = 1 - beta1^t, bc2 = 1 - beta2^t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpsPlacement {
    /// u = lr (m/bc1) / (sqrt(v/bc2 + eps_root) + eps): PyTorch, optax, the paper's algorithm 1.
    #[default]
    Corrected,
    /// u = lr sqrt(bc2)/bc1 m / (sqrt(v) + eps), "eps hat": TensorFlow, Keras, `MXNet`, Caffe.
    Uncorrected,
}

/// How moments are kept between steps. All arithmetic is f32's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StateDtype {
    /// As computed.
    #[default]
    F32,
    /// Rounded to the nearest bfloat16, ties to even: half the memory, 8 significant bits. A moment
    /// whose gain 1 - beta is below 2^-9 can then no longer fall.
    Bf16,
}

impl StateDtype {
    /// Bytes of one value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<u16>(),
        }
    }
}

/// What t counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepCounter {
    /// The gradients this tensor has received.
    #[default]
    PerTensor,
    /// The updates of the job.
    Global,
}

/// Where a system rounds its betas. Matters: f32(0.999) gives 1 - beta2 = 0.00100004673.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HyperRounding {
    /// Rounding of beta before 1 - beta is taken for the moments.
    #[serde(default)]
    pub moments: MomentRounding,
    /// Rounding of beta^t in bias correction.
    #[serde(default)]
    pub bias_correction: BiasRounding,
}

/// Rounding of beta in the moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentRounding {
    /// None.
    #[default]
    F64,
    /// beta is rounded to f32 first (`MXNet`, Caffe, TensorFlow 1).
    F32,
}

/// Rounding of beta^t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasRounding {
    /// None.
    #[default]
    F64,
    /// The power of the f32-rounded beta (Keras, optax, Caffe).
    F32,
    /// An f32 variable multiplied by f32(beta) once a step (TensorFlow 1).
    F32RunningProduct,
}

/// Where lr meets the momentum buffer. They differ whenever lr changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentumForm {
    /// buf = mu buf + (1 - dampening) g, u = lr buf; the first step stores g undamped (PyTorch).
    #[default]
    LrOutside,
    /// buf = mu buf + lr g, u = buf (Caffe, `MXNet`, Loshchilov & Hutter's SGDW).
    LrInside,
}
