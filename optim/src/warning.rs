//! Configurations that hold, but cannot mean what they say.

use crate::config::{DecayMode, DecayScale, OptimizerConfig, StateDtype};
use crate::group::TensorRule;
use crate::ledger::{self, DecayLedger};
use crate::optimizer::Optimizer;
use std::fmt;

/// Something a person should look at before a long run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum DecayWarning {
    /// Over the whole run the decay hardly does anything.
    LongerThanRun {
        /// EMA timescale in steps.
        timescale_steps: f64,
        /// Length of the run.
        run_steps: u64,
    },
    /// Weights forget everything within the warmup.
    ShorterThanWarmup {
        /// EMA timescale in steps.
        timescale_steps: f64,
        /// Steps until the lr is at its peak.
        warmup_steps: u64,
    },
    /// The lr is still rising when the run ends: it never reaches its peak.
    WarmupLongerThanRun {
        /// Steps until the lr would be at its peak.
        warmup_steps: u64,
        /// Length of the run.
        run_steps: u64,
    },
    /// A decay that the lr does not scale is as large as one that it does would be.
    LargeRawDecay {
        /// Largest factor of a step.
        factor: f64,
    },
    /// A factor of 1 or more turns weights over.
    TakesEverything {
        /// Step of the factor, from 1.
        step: u64,
        /// The factor.
        factor: f64,
    },
    /// Every factor is below half the distance between neighbouring f32 weights.
    BelowF32 {
        /// Largest factor of a step.
        factor: f64,
    },
    /// A moment kept in bf16 changes by less than half a unit of its last place, so it may rise but
    /// not fall.
    MomentCannotFall {
        /// What the moment keeps of itself each step.
        beta: f64,
    },
    /// Tensors that are usually spared decay.
    DecaysVectors {
        /// Their names: rank 0 or 1, such as biases and norm scales.
        tensors: Vec<String>,
    },
    /// A decay is set, but the groups spare every tensor: as when a system's patterns meet names
    /// of another system.
    DecaysNothing {
        /// Names of the tensors.
        tensors: Vec<String>,
    },
    /// One of the above about the lr or the decay, of the tensors of one group.
    OfGroup {
        /// Name of the group.
        group: String,
        /// What looks wrong there.
        warning: Box<DecayWarning>,
    },
}

impl DecayWarning {
    fn is_of_group(&self, other: &Self) -> bool {
        matches!(self, Self::OfGroup { warning, .. } if **warning == *other)
    }
}

impl fmt::Display for DecayWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongerThanRun { timescale_steps, run_steps } => write!(
                f,
                "decay has a timescale of {timescale_steps:.0} steps, longer than the run of {run_steps}: it does \
                 little"
            ),
            Self::ShorterThanWarmup { timescale_steps, warmup_steps } => write!(
                f,
                "decay has a timescale of {timescale_steps:.1} steps, shorter than the warmup of {warmup_steps}: \
                 weights forget their start before they learn"
            ),
            Self::WarmupLongerThanRun { warmup_steps, run_steps } => write!(
                f,
                "the warmup of {warmup_steps} steps is longer than the run of {run_steps}: the lr never reaches its \
                 peak, nor the decay that it scales"
            ),
            Self::LargeRawDecay { factor } => write!(
                f,
                "decay takes {factor} of a weight every step, because the lr itself does not scale it: such a number is \
                 usually meant to be multiplied by the lr"
            ),
            Self::TakesEverything { step, factor } => {
                write!(f, "decay takes {factor} of a weight at step {step}: at 1 and above weights change sign")
            }
            Self::BelowF32 { factor } => write!(
                f,
                "decay takes at most {factor:e} of a weight per step: f32 weights cannot show less than 6e-8, so it \
                 is rounded away unless fused with an update"
            ),
            Self::MomentCannotFall { beta } => write!(
                f,
                "a moment of beta {beta} is kept in bf16, which cannot show a fall of less than 1/512 per step: it \
                 may rise but not fall (a beta of 0.996 and below can)"
            ),
            Self::DecaysVectors { tensors } => {
                write!(f, "biases and norm scales decay; usually they are spared: {}", tensors.join(", "))
            }
            Self::DecaysNothing { tensors } => write!(
                f,
                "weight decay is set, but the groups spare every tensor: no pattern of a group that decays is found in \
                 {}",
                tensors.join(", ")
            ),
            Self::OfGroup { group, warning } => write!(f, "group {group:?}: {warning}"),
        }
    }
}

/// Above this a raw decay is suspect: `AdamW`'s 0.01 at an lr of 0.1.
const RAW_DECAY_SUSPECT: f64 = 1e-3;
/// Half the relative distance between neighbouring f32 numbers.
const F32_HALF_ULP: f64 = 1.0 / (1 << 25) as f64;
/// The same of bf16, just below a power of two; twice that just above.
const BF16_HALF_ULP: f64 = 1.0 / (1 << 9) as f64;

/// What a run's moments cannot do in `state_dtype`.
pub(crate) fn of_moments(config: &OptimizerConfig) -> Option<DecayWarning> {
    let is_bf16 = config.state_dtype == Some(StateDtype::Bf16);
    let betas = config.betas.into_iter().flatten().chain(config.momentum);
    let stalled = betas.filter(|beta| is_bf16 && 1.0 - beta < BF16_HALF_ULP);
    stalled.reduce(f64::max).map(|beta| DecayWarning::MomentCannotFall { beta })
}

impl Optimizer {
    /// What looks wrong about the decay and the moments of a run over `tensors` (name, shape): of
    /// every group that holds one of them ([`Optimizer::group_rules`] when there are none), each
    /// warning once. Names the tensors of rank 0 and 1 that decay, and says when none does. Costs
    /// a pass over the schedule per group.
    #[must_use]
    pub fn warnings<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Vec<DecayWarning> {
        let tensors: Vec<_> = tensors.into_iter().collect();
        let mut rules = if tensors.is_empty() { self.group_rules() } else { Vec::new() };
        for (name, shape) in &tensors {
            let rule = self.tensor(name, shape);
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules.sort_by_key(|rule| rule.group); // what all tensors share is said of no group
        let mut warnings: Vec<_> = self.moments_warning.iter().cloned().collect();
        for rule in &rules {
            for warning in self.warnings_of(rule) {
                if !warnings.contains(&warning) && !warnings.iter().any(|known| known.is_of_group(&warning)) {
                    warnings.push(match rule.group() {
                        Some(group) => DecayWarning::OfGroup { group: group.to_owned(), warning: Box::new(warning) },
                        None => warning,
                    });
                }
            }
        }
        if self.decay.mode != DecayMode::None {
            warnings.extend(self.tensor_warning(&tensors));
        }
        warnings
    }

    fn tensor_warning(&self, tensors: &[(&str, &[usize])]) -> Option<DecayWarning> {
        let (mut names, mut vectors, mut decays) = (Vec::new(), Vec::new(), false);
        for (name, shape) in tensors {
            names.push((*name).to_owned());
            if self.tensor(name, shape).decays() {
                decays = true;
                vectors.extend((shape.len() <= 1).then(|| (*name).to_owned()));
            }
        }
        if !decays && !names.is_empty() && self.decay.acts_on(1.0) {
            return Some(DecayWarning::DecaysNothing { tensors: names });
        }
        (!vectors.is_empty()).then_some(DecayWarning::DecaysVectors { tensors: vectors })
    }

    /// What looks wrong about the lr and the decay of the tensors of `rule`.
    #[allow(clippy::cast_precision_loss)] // exact below 2^53 steps
    fn warnings_of(&self, rule: &TensorRule) -> Vec<DecayWarning> {
        let (run_steps, warmup_steps) = (self.run_steps, self.lr_of(rule, 1).1.warmup_steps());
        let mut warnings = Vec::new();
        if warmup_steps > run_steps {
            warnings.push(DecayWarning::WarmupLongerThanRun { warmup_steps, run_steps });
        }
        if self.decay.mode != DecayMode::Decoupled {
            return warnings;
        }
        let (mut ledger, mut largest) = (DecayLedger::default(), (0.0, 0));
        for step in 1..=run_steps {
            let factor = self.decay_factor(rule, step, step);
            ledger.add(ledger::log_remaining(factor));
            if factor > largest.0 {
                largest = (factor, step);
            }
        }
        let (factor, step) = largest;
        if factor >= 1.0 {
            warnings.push(DecayWarning::TakesEverything { step, factor });
            return warnings;
        }
        // The paper's decay follows the shape of the schedule, not the size of the lr.
        let without_lr = matches!(self.decay.scale, DecayScale::Nothing | DecayScale::Schedule);
        if without_lr && factor >= RAW_DECAY_SUSPECT {
            warnings.push(DecayWarning::LargeRawDecay { factor });
        }
        if factor > 0.0 && factor < F32_HALF_ULP {
            warnings.push(DecayWarning::BelowF32 { factor });
        }
        let Some(timescale_steps) = ledger.timescale_steps() else {
            return warnings;
        };
        if timescale_steps > run_steps as f64 {
            warnings.push(DecayWarning::LongerThanRun { timescale_steps, run_steps });
        }
        if timescale_steps < warmup_steps as f64 {
            warnings.push(DecayWarning::ShorterThanWarmup { timescale_steps, warmup_steps });
        }
        warnings
    }
}
