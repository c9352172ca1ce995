//! The `[optimizer]` section: every choice that systems make silently, by name.
//!
//! Strict: an unknown key is an error, and so is a key that the chosen rule would never read
//! (checked by [`crate::Optimizer::new`]). Reading and writing round-trips.

mod algorithm;
mod decay;
mod expand;
mod gradient;
mod group;
mod preset;
mod span;

pub use algorithm::{
    Algorithm, BiasRounding, EpsPlacement, HyperRounding, MomentRounding, MomentumForm, StateDtype, StepCounter,
};
pub use decay::{DecayMode, DecayOrder, DecayScale, WeightDecayConfig};
pub(crate) use expand::filled;
pub use gradient::{GradientOp, NormForm};
pub use group::GroupConfig;
pub use preset::Preset;
pub use span::Span;

use crate::schedule::ScheduleConfig;
use serde::{Deserialize, Serialize};

/// The optimizer of a job. Absent choices take the documented default of the algorithm.
///
/// ```toml
/// [optimizer]
/// algorithm = "adam"
/// betas = [0.9, 0.999]
/// eps = 1e-8
/// eps_placement = "corrected"
/// lr = { kind = "warmup", steps = 100, then = { kind = "cosine", base = 0.001 } }
/// weight_decay = { mode = "decoupled", value = 0.1, scaled_by = "lr", order = "before" }
///
/// [[optimizer.groups]]
/// name = "no-decay"
/// patterns = ["bias$", "norm"]
/// decay_mult = 0.0
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// A system whose choices fill in what is left open here. Own groups come before its groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The update rule (adam).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Learning rate: a number or a schedule.
    pub lr: ScheduleConfig,
    /// Decay rates of the first and second moment (adam, nadam, radam, lamb: 0.9, 0.999; lion:
    /// 0.9, 0.99).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// Added to the root of the second moment (1e-8; lamb 1e-6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Where `eps` stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps_placement: Option<EpsPlacement>,
    /// Added inside the root, next to the corrected second moment (optax; 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps_root: Option<f64>,
    /// Whether moments are divided by 1 - beta^t (true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_correction: Option<bool>,
    /// What t counts in bias correction (this tensor's updates).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_counter: Option<StepCounter>,
    /// Whether to keep the largest second moment (adam; false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amsgrad: Option<bool>,
    /// How moments are kept between steps (f32; all but adafactor).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dtype: Option<StateDtype>,
    /// Where the system rounds its betas to f32 (nowhere).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hyper_rounding: Option<HyperRounding>,
    /// Momentum (sgd; 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Whether lr multiplies the momentum buffer or what goes into it (sgd; outside).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum_form: Option<MomentumForm>,
    /// The part of a gradient kept out of the momentum buffer (sgd; 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dampening: Option<f64>,
    /// Nesterov's look-ahead (sgd; false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// psi, the decay of NAdam's momentum schedule (nadam_torch; 0.004).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum_decay: Option<f64>,
    /// Exponent of Adafactor's second-moment decay 1 - t^beta2_decay (adafactor_torch; -0.8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta2_decay: Option<f64>,
    /// Adafactor's eps1: the least root of a second moment (adafactor_torch; f32's epsilon).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps1: Option<f64>,
    /// Adafactor's eps2: the least rms of the weights that lr is relative to (0.001).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps2: Option<f64>,
    /// Adafactor's d: the rms of an update that is not scaled down (1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_clip: Option<f64>,
    /// The gradient's way to the rule, in this order (nothing; L2 or L1 decay goes last).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<Vec<GradientOp>>,
    /// Weight decay (none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<WeightDecayConfig>,
    /// Steps of one epoch, for decays given in epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_per_epoch: Option<u64>,
    /// Whether patterns see names without a trailing `:digits` (BERT on TensorFlow 1; false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip_name_suffix: Option<bool>,
    /// Parameter groups; the first that matches a tensor wins. Unmatched tensors have both
    /// multipliers 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupConfig>,
}
