//! Parameter groups, compiled, and what they say about one tensor.

use crate::config::GroupConfig;
use crate::error::{ConfigError, non_negative};
use crate::schedule::Schedule;
use regex::Regex;

/// What the configuration says about one tensor, resolved once by [`crate::Optimizer::tensor`].
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRule {
    pub(crate) group: Option<usize>,
    pub(crate) group_name: Option<String>,
    pub(crate) lr_mult: f64,
    pub(crate) decay_mult: f64,
    pub(crate) decays: bool,
}

impl TensorRule {
    /// A tensor of no group, of which nothing is known to decay.
    pub(crate) fn ungrouped() -> Self {
        Self { group: None, group_name: None, lr_mult: 1.0, decay_mult: 1.0, decays: false }
    }

    /// The group the tensor fell into; `None` when no group matched.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.group_name.as_deref()
    }

    /// What multiplies the lr.
    #[must_use]
    pub fn lr_mult(&self) -> f64 {
        self.lr_mult
    }

    /// What multiplies the decay.
    #[must_use]
    pub fn decay_mult(&self) -> f64 {
        self.decay_mult
    }

    /// Whether weight decay of any mode ever acts on this tensor.
    #[must_use]
    pub fn decays(&self) -> bool {
        self.decays
    }
}

/// A checked group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) name: String,
    patterns: Vec<Regex>,
    rank_max: Option<usize>,
    pub(crate) lr_mult: f64,
    pub(crate) decay_mult: f64,
    pub(crate) lr: Option<Schedule>,
    /// The largest value of `lr` over the run, where decay is scaled by it.
    pub(crate) lr_peak: Option<f64>,
}

impl Group {
    pub(crate) fn new(config: &GroupConfig, run_steps: u64) -> Result<Self, ConfigError> {
        let field = |key: &str| format!("groups.{}.{key}", config.name);
        if config.patterns.is_empty() && config.rank_max.is_none() {
            return Err(ConfigError::Missing {
                field: field("patterns"),
                expected: "at least one pattern, or rank_max",
            });
        }
        non_negative(&field("lr_mult"), config.lr_mult)?;
        non_negative(&field("decay_mult"), config.decay_mult)?;
        let lr = config.lr.as_ref();
        Ok(Self {
            name: config.name.clone(),
            patterns: compile(config)?,
            rank_max: config.rank_max,
            lr_mult: config.lr_mult,
            decay_mult: config.decay_mult,
            lr: lr.map(|lr| Schedule::new(&field("lr"), lr, run_steps)).transpose()?,
            lr_peak: None,
        })
    }

    pub(crate) fn matches(&self, name: &str, rank: usize) -> bool {
        let named = self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.is_match(name));
        named && self.rank_max.is_none_or(|max| rank <= max)
    }
}

fn compile(config: &GroupConfig) -> Result<Vec<Regex>, ConfigError> {
    let compile_one = |pattern: &String| {
        Regex::new(pattern).map_err(|error| ConfigError::BadPattern {
            group: config.name.clone(),
            pattern: pattern.clone(),
            reason: error.to_string(),
        })
    };
    config.patterns.iter().map(compile_one).collect()
}

/// The name without a trailing `:digits`, as BERT's `^(.*):\d+$` strips it.
pub(crate) fn without_output_suffix(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((stem, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => stem,
        _ => name,
    }
}
