//! Weight decay, with every choice named.

use super::Span;
use crate::schedule::ScheduleConfig;
use serde::{Deserialize, Serialize};

/// How weights shrink. Write all of it; a preset fills it in.
///
/// For `decoupled`, w loses d w, with d by `scaled_by`. For `l2` the gradient gains
/// value * decay_mult * w, for `l1` value * decay_mult * sign(w), at their place in the gradient
/// pipeline.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightDecayConfig {
    /// Where decay enters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DecayMode>,
    /// Its strength wd: a number or a schedule of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<ScheduleConfig>,
    /// In place of `value`: the time in which a weight without updates halves, averaged over the
    /// run under the lr schedule (decoupled only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_life: Option<Span>,
    /// In place of `value`: the time in which it falls to 1/e, the timescale of the moving average
    /// that the weights are (Wang & Aitchison, arXiv 2405.13698; decoupled only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timescale: Option<Span>,
    /// What multiplies wd (decoupled only; lr).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled_by: Option<DecayScale>,
    /// When w shrinks, relative to the update (decoupled only; before).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<DecayOrder>,
    /// The multiplier eta of `scaled_by = "schedule"`; lr / (its base) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleConfig>,
    /// Cautious decay (Chen et al., arXiv 2510.12402): a weight decays only where the update does
    /// not move it away from zero already, u w >= 0 (decoupled, order before or fused; false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cautious: Option<bool>,
    /// Whether the decay is part of LAMB's update, whose norm the trust ratio takes (lamb with
    /// scaled_by lr and order fused; true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside_trust_ratio: Option<bool>,
}

/// Where decay enters the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayMode {
    /// Nowhere.
    #[default]
    None,
    /// Into the gradient, as wd w ("coupled"; Adam's second moment then divides it away).
    L2,
    /// Into the gradient, as wd sign(w), with sign(0) = 0.
    L1,
    /// Off the weight, beside the update (Loshchilov & Hutter, arXiv 1711.05101).
    Decoupled,
}

/// What multiplies the decay value of `mode = "decoupled"`. Each is times decay_mult.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DecayScale {
    /// d = lr lr_mult wd: PyTorch, Keras, optax, BERT.
    #[default]
    Lr,
    /// d = lr lr_mult sqrt(1 - beta2^t) / (1 - beta1^t) wd: `MXNet` 0.7.
    CorrectedLr,
    /// d = eta wd with eta the schedule's multiplier alone: the paper, `MXNet` contrib. Also
    /// called independent decay (Wortsman et al., arXiv 2309.14322).
    #[serde(alias = "independent")]
    Schedule,
    /// d = lr lr_mult (lr / the run's largest lr) wd: AdamC (Defazio, arXiv 2506.02285).
    LrSquared,
    /// d = wd: TensorFlow contrib, the second-SGD trick.
    Nothing,
}

/// When the weight shrinks. u is the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayOrder {
    /// w1 = w - d w, then w1 - u.
    #[default]
    Before,
    /// w - (u + d w): the same in exact arithmetic, with one rounding less.
    Fused,
    /// w1 = w - u, then w1 - d w1: not the same.
    After,
}
