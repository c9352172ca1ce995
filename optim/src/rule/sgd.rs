//! Stochastic gradient descent, with momentum and Nesterov's look-ahead if asked.
//!
//! State: none without momentum; with it the buffer m, 4 bytes per parameter.
//! `lr_outside` (PyTorch): m = mu m + (1 - dampening) g, undamped at the tensor's first update;
//! u = lr m, or lr (g + mu m) with Nesterov. `lr_inside` (Caffe, MXNet, Loshchilov & Hutter's
//! algorithm 1): m = mu m + lr g; u = m, or lr g + mu m with Nesterov (Caffe's NesterovSolver).

use super::Slices;
use super::moments::{Average, to_f32};
use crate::config::{MomentumForm, OptimizerConfig, StateDtype, filled};
use crate::error::{ConfigError, spelled};
use crate::kernel::{DecayStep, KernelPath, elementwise};
use crate::plane::{PlaneMut, PlaneSpec};

/// SGD's choices.
#[derive(Debug, Clone)]
pub(crate) struct Sgd {
    momentum: f64,
    dampening: f64,
    form: MomentumForm,
    nesterov: bool,
}

/// SGD's numbers for one step: m is a moving average; u = of_gradient g + of_buffer m.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SgdStep {
    buffered: bool,
    nesterov: bool,
    buffer: Average,
    of_gradient: f32,
    of_buffer: f32,
}

impl Sgd {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let sgd = Self {
            momentum: filled(config.momentum),
            dampening: filled(config.dampening),
            form: filled(config.momentum_form),
            nesterov: filled(config.nesterov),
        };
        for (field, value) in [("momentum", sgd.momentum), ("dampening", sgd.dampening)] {
            if !(0.0..1.0).contains(&value) {
                return Err(ConfigError::range(field, "at least 0 and below 1", value));
            }
        }
        let without = |left: &str, reason| {
            Err(ConfigError::Conflict {
                left: left.into(),
                right: format!("momentum = {}, momentum_form = {}", sgd.momentum, spelled(sgd.form)),
                reason,
            })
        };
        if sgd.momentum == 0.0 && (sgd.nesterov || sgd.dampening != 0.0) {
            return without("nesterov or dampening", "both shape a momentum buffer");
        }
        if sgd.momentum == 0.0 && config.state_dtype == Some(StateDtype::Bf16) {
            return without("state_dtype = \"bf16\"", "there is no state without momentum");
        }
        if sgd.form == MomentumForm::LrInside && sgd.dampening != 0.0 {
            return without("dampening", "only the lr_outside form has dampening");
        }
        Ok(sgd)
    }

    pub(crate) fn planes(&self) -> Vec<PlaneSpec> {
        let buffered = self.momentum != 0.0;
        buffered.then(|| PlaneSpec::zeroed("m")).into_iter().collect()
    }

    pub(crate) fn step(&self, lr: f64, updates: u64) -> SgdStep {
        let first = updates == 1;
        let undamped = if first { 1.0 } else { 1.0 - self.dampening };
        let (gain, out) = match self.form {
            MomentumForm::LrOutside => (undamped, lr),
            MomentumForm::LrInside => (lr, 1.0),
        };
        let look_ahead = if self.nesterov { self.momentum } else { 1.0 };
        SgdStep {
            buffered: self.momentum != 0.0,
            nesterov: self.nesterov,
            buffer: Average { keep: to_f32(self.momentum), gain: to_f32(gain) },
            of_gradient: to_f32(lr),
            of_buffer: to_f32(out * look_ahead),
        }
    }
}

impl SgdStep {
    pub(crate) fn update(&self, path: KernelPath, decay: DecayStep, slices: Slices<'_>, planes: &mut [PlaneMut<'_>]) {
        match (self.buffered, self.nesterov) {
            (false, _) => plain::update(path, self, decay, slices, planes),
            (true, false) => momentum::update(path, self, decay, slices, planes),
            (true, true) => nesterov::update(path, self, decay, slices, planes),
        }
    }
}

elementwise!(
    /// Without a buffer.
    plain(step: SgdStep, w, g) { step.of_gradient * g }
);

elementwise!(
    /// With a buffer.
    momentum(step: SgdStep, w, g, m) {
        *m = step.buffer.of(*m, g);
        step.of_buffer * *m
    }
);

elementwise!(
    /// With a buffer and a look ahead.
    nesterov(step: SgdStep, w, g, m) {
        *m = step.buffer.of(*m, g);
        step.of_gradient * g + step.of_buffer * *m
    }
);
