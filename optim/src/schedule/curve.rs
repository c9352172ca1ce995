//! Every curve a schedule can follow, as written in a configuration.
//!
//! `s` below is the number of finished steps. Curves hold their last value after their end.
//! Lengths named `steps` default to what is left of the run.

use super::ScheduleConfig;
use serde::{Deserialize, Serialize};

/// One curve. Every number is explicit; defaults are those of the cited library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Curve {
    /// `base`.
    Constant {
        /// The value.
        base: f64,
    },
    /// `from + (b - from) * s / steps` for the first `steps` steps, where b is what `then` is at
    /// its own step 0; after that, `then`.
    Warmup {
        /// Length of the warmup in steps.
        steps: u64,
        /// Value at step 0.
        #[serde(default)]
        from: f64,
        /// Where the clock of `then` starts.
        #[serde(default)]
        clock: Clock,
        /// What follows.
        then: ScheduleConfig,
    },
    /// `base + (end - base) * s / steps`.
    Linear {
        /// Value at step 0.
        base: f64,
        /// Value from step `steps` on.
        #[serde(default)]
        end: f64,
        /// Length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// `(base - end) * (1 - s / steps)^power + end` (TensorFlow, BERT, Caffe "poly").
    Polynomial {
        /// Value at step 0.
        base: f64,
        /// Value from step `steps` on.
        #[serde(default)]
        end: f64,
        /// Exponent.
        #[serde(default = "one")]
        power: f64,
        /// Length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// `end + (base - end) * (1 + cos(pi * s / steps)) / 2` (SGDR eq. 5 without restarts).
    Cosine {
        /// Value at step 0.
        base: f64,
        /// Value from step `steps` on; may be above `base`.
        #[serde(default)]
        end: f64,
        /// Length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// Cosine with warm restarts (SGDR eq. 5; PyTorch, and TensorFlow's `m_mul`).
    CosineRestarts {
        /// Value at step 0.
        base: f64,
        /// Value a period falls towards.
        #[serde(default)]
        end: f64,
        /// Length of the first period in steps (`T_0`).
        period: u64,
        /// Each period is this many times longer than the last (`T_mult`).
        #[serde(default = "one_step")]
        period_mult: u64,
        /// Each period starts this many times as high as the last (`m_mul`).
        #[serde(default = "one")]
        restart_mult: f64,
    },
    /// The published `AdamW` code's cosine (Loshchilov & Hutter, `train.lua`): the clock has
    /// already advanced by one batch at the first update, and reaches a period's very end only in
    /// the first period.
    SgdrCode {
        /// Value at a restart.
        base: f64,
        /// Steps per epoch.
        batches_per_epoch: u64,
        /// Length of the first period in epochs (`Te`).
        period_epochs: u64,
        /// Growth of the period (`Tmult`).
        #[serde(default = "one_step")]
        period_mult: u64,
    },
    /// Normalised decay of the published code: `lambda / sqrt(batches_per_epoch * Te)` with `Te`
    /// the length in epochs of the current restart period.
    NormalizedRestarts {
        /// Normalised decay (`lambda_norm`).
        lambda: f64,
        /// Steps per epoch.
        batches_per_epoch: u64,
        /// Length of the first period in epochs (`Te`).
        period_epochs: u64,
        /// Growth of the period (`Tmult`).
        #[serde(default = "one_step")]
        period_mult: u64,
    },
    /// Normalised decay of the paper (Loshchilov & Hutter, appendix B.1):
    /// `lambda * sqrt(batch / (dataset * epochs))`.
    Normalized {
        /// Normalised decay (`lambda_norm`).
        lambda: f64,
        /// Samples per step.
        batch: u64,
        /// Samples in the training set.
        dataset: u64,
        /// Epochs of the run (of the restart period, with restarts).
        epochs: u64,
    },
    /// `base * sqrt(timescale / (timescale + s))`; put a warmup of `timescale` steps before it
    /// for transformers' inverse square root.
    InverseSqrt {
        /// Value at step 0.
        base: f64,
        /// Steps after which the square has halved.
        timescale: u64,
    },
    /// `base * d_model^-0.5 * min((s+1)^-0.5, (s+1) * warmup^-1.5)` (Attention is all you need).
    Noam {
        /// Factor.
        #[serde(default = "one")]
        base: f64,
        /// Warmup steps.
        warmup: u64,
        /// Width of the model.
        d_model: u64,
    },
    /// `base * gamma^(s div every)` (`StepLR`, Caffe "step").
    Step {
        /// Value at step 0.
        base: f64,
        /// Steps between drops.
        every: u64,
        /// Factor of each drop.
        gamma: f64,
    },
    /// `base * gamma^(milestones passed)`.
    Multistep {
        /// Value at step 0.
        base: f64,
        /// Rising step numbers.
        milestones: Vec<u64>,
        /// Factor of each drop.
        gamma: f64,
        /// Which side a milestone itself is on.
        #[serde(default)]
        at: Boundary,
    },
    /// `values[boundaries passed]` (`tf.train.piecewise_constant` with `at = "old"`).
    Piecewise {
        /// Rising step numbers.
        boundaries: Vec<u64>,
        /// One value more than there are boundaries.
        values: Vec<f64>,
        /// Which side a boundary itself is on.
        #[serde(default)]
        at: Boundary,
    },
    /// `base * gamma^(s / every)`, the exponent floored when `staircase`.
    Exponential {
        /// Value at step 0.
        base: f64,
        /// Factor per `every` steps.
        gamma: f64,
        /// Steps per factor.
        #[serde(default = "one_step")]
        every: u64,
        /// Whether to drop at once instead of smoothly.
        #[serde(default)]
        staircase: bool,
    },
    /// `base / (1 + decay * s)` (Torch7's `learningRateDecay`, `inverse_time_decay`).
    InverseTime {
        /// Value at step 0.
        base: f64,
        /// Rate.
        decay: f64,
    },
    /// `base * (1 + gamma * s)^-power` (Caffe "inv").
    CaffeInv {
        /// Value at step 0.
        base: f64,
        /// Rate.
        gamma: f64,
        /// Exponent.
        power: f64,
    },
    /// `base / (1 + exp(-gamma * (s - midpoint)))` (Caffe "sigmoid"; gamma below 0 falls).
    CaffeSigmoid {
        /// Asymptote.
        base: f64,
        /// Slope.
        gamma: f64,
        /// Step of half height (Caffe's `stepsize`).
        midpoint: u64,
    },
    /// `MXNet`'s `FactorScheduler`: `base * factor^((n - 1) div every)` with `n = s + offset`.
    /// Offset 1 is `MXNet` 1.x, and every tensor but the first of a step in 0.7; 0 is that first.
    MxnetFactor {
        /// Value at the start.
        base: f64,
        /// Steps between drops.
        every: u64,
        /// Factor of each drop.
        factor: f64,
        /// How far the update counter is ahead of the finished steps.
        #[serde(default = "one_step")]
        offset: u64,
    },
    /// `OneCycleLR` of PyTorch: phases end at the fractional steps `pct_start * steps - 1` and
    /// `steps - 1`.
    OneCycle {
        /// Highest value (`max_lr`).
        base: f64,
        /// Part of the cycle spent rising.
        #[serde(default = "OneCycleDefaults::pct_start")]
        pct_start: f64,
        /// `base / div_factor` is the first value.
        #[serde(default = "OneCycleDefaults::div_factor")]
        div_factor: f64,
        /// The first value divided by this is the last.
        #[serde(default = "OneCycleDefaults::final_div_factor")]
        final_div_factor: f64,
        /// How to go from one value to the next.
        #[serde(default)]
        anneal: Anneal,
        /// Rise, symmetric fall, then a last fall.
        #[serde(default)]
        three_phase: bool,
        /// Length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// Stable, then decay: `base` for `stable` steps, then down to `end` in `decay` steps
    /// (warmup-stable-decay, with a warmup before it).
    Wsd {
        /// Value while stable.
        base: f64,
        /// Value after the decay.
        #[serde(default)]
        end: f64,
        /// Stable steps.
        stable: u64,
        /// Decaying steps; the rest of the run by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decay: Option<u64>,
        /// Shape of the decay.
        #[serde(default)]
        shape: WsdShape,
    },
    /// One schedule after another, each on its own clock (`optax.join_schedules`).
    Sequence {
        /// The parts; the last holds to the end of the run.
        parts: Vec<Part>,
    },
    /// `values[s]`, the last one held: a schedule recorded elsewhere.
    Table {
        /// One value per step.
        values: Vec<f64>,
    },
}

/// One stretch of a [`Curve::Sequence`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Length in steps.
    pub steps: u64,
    /// The schedule, whose step 0 is the first step of this part.
    pub schedule: ScheduleConfig,
}

/// Where the schedule after a warmup starts counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// Its step 0 is the end of the warmup: the curve is continuous.
    #[default]
    Restarts,
    /// Its step 0 is the start of the run; the warmup hides its head and the value jumps at the
    /// end of the warmup (BERT).
    Runs,
}

/// Which value holds exactly at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// The new value (PyTorch, optax, Caffe).
    #[default]
    New,
    /// Still the old value (`tf.train.piecewise_constant`).
    Old,
}

/// How a one-cycle phase moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anneal {
    /// Half a cosine.
    #[default]
    Cos,
    /// A straight line.
    Linear,
}

/// Shape of the decay of a [`Curve::Wsd`]; p runs from 0 to 1 over the decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WsdShape {
    /// `1 - p`.
    #[default]
    Linear,
    /// `1 - sqrt(p)`.
    Sqrt,
    /// `(1 + cos(pi p)) / 2`.
    Cosine,
}

/// `OneCycleLR`'s own defaults.
struct OneCycleDefaults;

impl OneCycleDefaults {
    fn pct_start() -> f64 {
        0.3
    }
    fn div_factor() -> f64 {
        25.0
    }
    fn final_div_factor() -> f64 {
        1e4
    }
}

fn one() -> f64 {
    1.0
}

fn one_step() -> u64 {
    1
}
