//! The gradient pipeline, compiled: operations on a gradient in the configured order.

use crate::apply::dispatched;
use crate::config::{DecayMode, GradientOp, OptimizerConfig};
use crate::error::{ConfigError, positive};

/// One operation with this step's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stage {
    Scale(f32),
    Limit(f32),
    L2(f32),
    L1(f32),
}

/// The operations of a run, decay included.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    ops: Vec<GradientOp>,
}

impl Pipeline {
    /// Checks the operations; coupled decay that is not placed goes last, where PyTorch puts it.
    pub(crate) fn new(config: &OptimizerConfig, mode: DecayMode) -> Result<Self, ConfigError> {
        let mut ops = config.gradient.clone().unwrap_or_default();
        let placed = ops.iter().filter(|op| matches!(op, GradientOp::L2 | GradientOp::L1));
        let placed: Vec<_> = placed.copied().collect();
        let wanted = match mode {
            DecayMode::L2 => Some(GradientOp::L2),
            DecayMode::L1 => Some(GradientOp::L1),
            DecayMode::None | DecayMode::Decoupled => None,
        };
        match (wanted, placed.as_slice()) {
            (Some(op), []) => ops.push(op),
            (Some(op), [only]) if *only == op => {}
            (None, []) => {}
            _ => {
                return Err(ConfigError::Conflict {
                    left: format!("gradient ops {placed:?}").to_lowercase(),
                    right: format!("weight_decay.mode = {mode:?}").to_lowercase(),
                    reason: "coupled decay enters the gradient once, by the op of its mode",
                });
            }
        }
        ops.iter().try_for_each(validate)?;
        Ok(Self { ops })
    }

    /// The stages of a step whose coupled decay is `coupled`. Stages that change nothing are
    /// left out, so that zero decay is the same bits as none.
    #[allow(clippy::cast_possible_truncation)] // gradients are f32
    pub(crate) fn stages(&self, coupled: f64) -> Vec<Stage> {
        let stage = |op: &GradientOp| match *op {
            GradientOp::Rescale { by: 1.0 } => None,
            GradientOp::Rescale { by } => Some(Stage::Scale(by as f32)),
            GradientOp::ClipValue { at } => Some(Stage::Limit(at as f32)),
            GradientOp::L2 | GradientOp::L1 if coupled == 0.0 => None,
            GradientOp::L2 => Some(Stage::L2(coupled as f32)),
            GradientOp::L1 => Some(Stage::L1(coupled as f32)),
        };
        self.ops.iter().filter_map(stage).collect()
    }
}

fn validate(op: &GradientOp) -> Result<(), ConfigError> {
    match *op {
        GradientOp::Rescale { by } => positive("gradient.rescale.by", by),
        GradientOp::ClipValue { at } => positive("gradient.clip_value.at", at),
        GradientOp::L2 | GradientOp::L1 => Ok(()),
    }
}

/// sign(w) with sign(0) = 0; NaN stays NaN.
#[inline(always)]
pub(crate) fn sign(w: f32) -> f32 {
    if w > 0.0 {
        1.0
    } else if w < 0.0 {
        -1.0
    } else {
        w * 0.0
    }
}

#[inline(always)]
fn run_portable(stages: &[Stage], weights: &[f32], gradient: &mut [f32]) {
    let weights = &weights[..gradient.len()];
    for stage in stages {
        match *stage {
            Stage::Scale(by) => gradient.iter_mut().for_each(|g| *g *= by),
            Stage::Limit(at) => gradient.iter_mut().for_each(|g| *g = g.clamp(-at, at)),
            Stage::L2(wd) => {
                for (g, w) in gradient.iter_mut().zip(weights) {
                    *g += wd * w;
                }
            }
            Stage::L1(wd) => {
                for (g, w) in gradient.iter_mut().zip(weights) {
                    *g += wd * sign(*w);
                }
            }
        }
    }
}

dispatched!(run => run_portable(stages: &[Stage], weights: &[f32], gradient: &mut [f32]));
