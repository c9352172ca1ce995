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
            Self::LargeRawDecay { factor } => write!(
                f,
                "decay takes {factor} of a weight every step, because the lr does not scale it: such a number is \
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
    /// What looks wrong about the decay of a run, and of its moments, over `tensors` (name, shape). Judges a tensor of
    /// no group, and names those of rank 0 and 1 that decay. Costs a pass over the schedule.
    #[must_use]
    pub fn warnings<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Vec<DecayWarning> {
        let of_moments = self.moments_warning.iter().cloned();
        if self.decay.mode == DecayMode::None {
            return of_moments.collect();
        }
        let mut warnings: Vec<_> = of_moments.chain(self.decoupled_warnings()).collect();
        let decaying =
            tensors.into_iter().filter(|(name, shape)| shape.len() <= 1 && self.tensor(name, shape).decays());
        let vectors: Vec<String> = decaying.map(|(name, _)| name.to_owned()).collect();
        if !vectors.is_empty() {
            warnings.push(DecayWarning::DecaysVectors { tensors: vectors });
        }
        warnings
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
        if self.decay.scale == DecayScale::Nothing && factor >= RAW_DECAY_SUSPECT {
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
