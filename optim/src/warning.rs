//! Configurations that hold, but cannot mean what they say.

use crate::config::{DecayMode, DecayScale, OptimizerConfig, StateDtype};
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
    /// What looks wrong about the decay and the moments of a run over `tensors` (name, shape). Judges a tensor of
    /// no group, names those of rank 0 and 1 that decay, and says when none does. Costs a pass
    /// over the schedule.
    #[must_use]
    pub fn warnings<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Vec<DecayWarning> {
        let (run_steps, warmup_steps) = (self.run_steps, self.lr_schedule().warmup_steps());
        let mut warnings: Vec<_> = self.moments_warning.iter().cloned().collect();
        if warmup_steps > run_steps {
            warnings.push(DecayWarning::WarmupLongerThanRun { warmup_steps, run_steps });
        }
        if self.decay.mode != DecayMode::None {
            warnings.extend(self.decoupled_warnings());
            warnings.extend(self.tensor_warning(tensors));
        }
        warnings
    }

    fn tensor_warning<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Option<DecayWarning> {
        let (mut names, mut vectors, mut decays) = (Vec::new(), Vec::new(), false);
        for (name, shape) in tensors {
            names.push(name.to_owned());
            if self.tensor(name, shape).decays() {
                decays = true;
                vectors.extend((shape.len() <= 1).then(|| name.to_owned()));
            }
        }
        if !decays && !names.is_empty() && self.decay.acts_on(1.0) {
            return Some(DecayWarning::DecaysNothing { tensors: names });
        }
        (!vectors.is_empty()).then_some(DecayWarning::DecaysVectors { tensors: vectors })
    }

    #[allow(clippy::cast_precision_loss)] // exact below 2^53 steps
    fn decoupled_warnings(&self) -> Vec<DecayWarning> {
        if self.decay.mode != DecayMode::Decoupled {
            return Vec::new();
        }
        let rule = crate::group::TensorRule::ungrouped();
        let factors = (1..=self.run_steps).map(|step| (self.decay_factor(&rule, step, step), step));
        let (factor, step) = factors.fold((0.0, 0), |largest, one| if one.0 > largest.0 { one } else { largest });
        if factor >= 1.0 {
            return vec![DecayWarning::TakesEverything { step, factor }];
        }
        let mut warnings = Vec::new();
        // The paper's decay follows the shape of the schedule, not the size of the lr.
        let without_lr = matches!(self.decay.scale, DecayScale::Nothing | DecayScale::Schedule);
        if without_lr && factor >= RAW_DECAY_SUSPECT {
            warnings.push(DecayWarning::LargeRawDecay { factor });
        }
        if factor > 0.0 && factor < F32_HALF_ULP {
            warnings.push(DecayWarning::BelowF32 { factor });
        }
        let Some(timescale_steps) = self.ledger(&rule, self.run_steps).timescale_steps() else {
            return warnings;
        };
        let (run_steps, warmup_steps) = (self.run_steps, self.lr_schedule().warmup_steps());
        if timescale_steps > run_steps as f64 {
            warnings.push(DecayWarning::LongerThanRun { timescale_steps, run_steps });
        }
        if timescale_steps < warmup_steps as f64 {
            warnings.push(DecayWarning::ShorterThanWarmup { timescale_steps, warmup_steps });
        }
        warnings
    }
}
