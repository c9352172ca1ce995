//! The gradient pipeline, compiled: operations on a gradient in the configured order.

use crate::config::{DecayMode, GradientOp, NormForm, OptimizerConfig, filled};
use crate::error::{ConfigError, positive, spelled};
use crate::kernel::{Coupled, Intake, Limited, dispatched, limit};
use crate::reduce::Reduction;
use smallvec::SmallVec;

/// The operations of a step, in order. Made for every block of every step, so kept without allocating.
pub(crate) type Stages = SmallVec<[Stage; 4]>;

/// One operation with this step's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stage {
    Scale(f32),
    Limit(f32),
    L2(f32),
    L1(f32),
    Norm(NormClip),
}

/// A norm clip; `scale` is its factor once the norm is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormClip {
    pub(crate) of: Reduction,
    form: NormForm,
    max: f64,
    pub(crate) scale: Option<f32>,
}

impl NormClip {
    /// Takes the squared norm.
    #[allow(clippy::cast_possible_truncation)] // gradients are f32
    pub(crate) fn supply(&mut self, squared: f64) {
        self.scale = Some(clip_factor(self.form, squared.sqrt(), self.max) as f32);
    }
}

/// What a norm clip multiplies a gradient of norm `norm` by.
fn clip_factor(form: NormForm, norm: f64, max: f64) -> f64 {
    match form {
        NormForm::Torch => (max / (norm + 1e-6)).min(1.0),
        NormForm::Tf => max / norm.max(max),
        NormForm::Optax if norm < max => 1.0,
        NormForm::Caffe if norm <= max => 1.0,
        NormForm::Optax | NormForm::Caffe => max / norm,
    }
}

/// The operations of a run, decay included.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    ops: Vec<GradientOp>,
}

impl Pipeline {
    /// Checks the operations, among which coupled decay is placed.
    pub(crate) fn new(config: &OptimizerConfig, mode: DecayMode) -> Result<Self, ConfigError> {
        let ops = filled(config.gradient.clone());
        let placed = ops.iter().filter(|op| matches!(op, GradientOp::L2 | GradientOp::L1));
        let placed: Vec<_> = placed.copied().collect();
        let wanted = match mode {
            DecayMode::L2 => Some(GradientOp::L2),
            DecayMode::L1 => Some(GradientOp::L1),
            DecayMode::None | DecayMode::Decoupled => None,
        };
        match (wanted, placed.as_slice()) {
            (Some(op), [only]) if *only == op => {}
            (None, []) => {}
            _ => {
                return Err(ConfigError::Conflict {
                    left: format!("gradient ops {placed:?}").to_lowercase(),
                    right: format!("weight_decay.mode = {}", spelled(mode)),
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
    pub(crate) fn stages(&self, coupled: f64) -> Stages {
        let stage = |op: &GradientOp| match *op {
            GradientOp::Rescale { by: 1.0 } => None,
            GradientOp::Rescale { by } => Some(Stage::Scale(by as f32)),
            GradientOp::ClipValue { at } => Some(Stage::Limit(at as f32)),
            GradientOp::L2 | GradientOp::L1 if coupled == 0.0 => None,
            GradientOp::L2 => Some(Stage::L2(coupled as f32)),
            GradientOp::L1 => Some(Stage::L1(coupled as f32)),
            GradientOp::ClipNorm { max_norm, form } => Some(Stage::norm(Reduction::TensorNorm, form, max_norm)),
            GradientOp::ClipGlobalNorm { max_norm, form } => Some(Stage::norm(Reduction::GlobalNorm, form, max_norm)),
        };
        self.ops.iter().filter_map(stage).collect()
    }

    /// The norms the pipeline needs, in order.
    pub(crate) fn reductions(&self) -> impl Iterator<Item = Reduction> {
        self.ops.iter().filter_map(|op| match op {
            GradientOp::ClipNorm { .. } => Some(Reduction::TensorNorm),
            GradientOp::ClipGlobalNorm { .. } => Some(Reduction::GlobalNorm),
            _ => None,
        })
    }
}

/// The stages as a part of the rule's own loop, if they are at most a factor, a limit and L2 decay,
/// in this order; otherwise they need a pass of their own, [`run`].
pub(crate) fn intake(stages: &[Stage]) -> Option<Intake> {
    let mut rest = stages;
    let mut next = |value: fn(&Stage) -> Option<f32>| {
        let (first, others) = rest.split_first()?;
        let value = value(first)?;
        rest = others;
        Some(value)
    };
    let by = next(Stage::factor);
    let at = next(|stage| if let Stage::Limit(at) = stage { Some(*at) } else { None });
    let wd = next(|stage| if let Stage::L2(wd) = stage { Some(*wd) } else { None });
    let limited = Limited { by: by.unwrap_or(1.0), at: at.unwrap_or(f32::INFINITY) };
    match wd {
        _ if !rest.is_empty() => None,
        Some(wd) => Some(Intake::Coupled(Coupled { limited, wd })),
        None if stages.is_empty() => Some(Intake::AsIs),
        None => Some(Intake::Limited(limited)),
    }
}

impl Stage {
    /// What it multiplies the gradient by, if that is all it does.
    fn factor(&self) -> Option<f32> {
        match *self {
            Self::Scale(by) => Some(by),
            Self::Norm(NormClip { scale, .. }) => Some(scale.expect("a norm is supplied before its clip runs")),
            Self::Limit(_) | Self::L2(_) | Self::L1(_) => None,
        }
    }

    fn norm(of: Reduction, form: NormForm, max: f64) -> Self {
        Self::Norm(NormClip { of, form, max, scale: None })
    }

    pub(crate) fn is_pending(&self) -> bool {
        matches!(self, Self::Norm(clip) if clip.scale.is_none())
    }
}

fn validate(op: &GradientOp) -> Result<(), ConfigError> {
    match *op {
        GradientOp::Rescale { by } => positive("gradient.rescale.by", by),
        GradientOp::ClipValue { at } => positive("gradient.clip_value.at", at),
        GradientOp::ClipNorm { max_norm, .. } => positive("gradient.clip_norm.max_norm", max_norm),
        GradientOp::ClipGlobalNorm { max_norm, .. } => positive("gradient.clip_global_norm.max_norm", max_norm),
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

/// Sets each of `out` to `f(g, w)`, g from `gradient`, or from `out` itself when there is none.
#[inline(always)]
fn map(f: impl Fn(f32, f32) -> f32, weights: &[f32], gradient: Option<&[f32]>, out: &mut [f32]) {
    let weights = &weights[..out.len()];
    match gradient {
        Some(gradient) => {
            for ((out, g), w) in out.iter_mut().zip(gradient).zip(weights) {
                *out = f(*g, *w);
            }
        }
        None => {
            for (out, w) in out.iter_mut().zip(weights) {
                *out = f(*out, *w);
            }
        }
    }
}

#[inline(always)]
fn run_portable(stages: &[Stage], weights: &[f32], gradient: &[f32], out: &mut [f32]) {
    if stages.is_empty() {
        return out.copy_from_slice(gradient);
    }
    // The first stage reads the gradient where it lies: copying it first costs a pass.
    let mut input = Some(gradient);
    for stage in stages {
        let input = input.take();
        match *stage {
            Stage::Scale(_) | Stage::Norm(_) => {
                let by = stage.factor().expect("these stages multiply");
                map(|g, _| g * by, weights, input, out);
            }
            Stage::Limit(at) => map(|g, _| limit(g, at), weights, input, out),
            Stage::L2(wd) => map(|g, w| g + wd * w, weights, input, out),
            Stage::L1(wd) => map(|g, w| g + wd * sign(w), weights, input, out),
        }
    }
}

dispatched!(
    /// Runs `stages` over a slice of a gradient, beside the same slice of the weights, into `out`.
    pub(crate) fn run => run_portable(stages: &[Stage], weights: &[f32], gradient: &[f32], out: &mut [f32])
);
