//! Parameter groups: which tensors learn or decay differently.

use crate::schedule::ScheduleConfig;
use serde::{Deserialize, Serialize};

/// A parameter group. A tensor belongs to the first group that matches it, in the order written;
/// a group matches when any pattern is found in the name (a regex *search*, not a full match)
/// and the rank is within limits. A group needs a pattern or a rank limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Name, for reports.
    pub name: String,
    /// Regular expressions searched for in the tensor's name. Empty: any name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// Highest number of dimensions that matches: 1 takes biases and norm scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_max: Option<usize>,
    /// Multiplies the lr, and through it whatever the lr scales.
    #[serde(default = "one")]
    pub lr_mult: f64,
    /// Multiplies the decay. 0 spares the tensor: its weights never shrink.
    #[serde(default = "one")]
    pub decay_mult: f64,
    /// A schedule in place of the optimizer's lr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<ScheduleConfig>,
}

fn one() -> f64 {
    1.0
}
