//! Filling in what a configuration leaves open: first from its preset, then with the defaults of
//! its algorithm. The only place where defaults live.

use super::{
    Algorithm, DecayMode, DecayOrder, DecayScale, EpsPlacement, GradientOp, HyperRounding, MomentumForm,
    OptimizerConfig, StateDtype, StepCounter, WeightDecayConfig,
};
use crate::error::ConfigError;

/// A choice of an expanded configuration.
pub(crate) fn filled<T>(choice: Option<T>) -> T {
    choice.expect("an expanded configuration leaves no choice of its algorithm open")
}

impl OptimizerConfig {
    /// The configuration with every choice of its preset and every default written out. Means the
    /// same, names no preset, and expands to itself.
    ///
    /// # Errors
    /// [`ConfigError`] for an algorithm that is not the preset's.
    pub fn expanded(&self) -> Result<Self, ConfigError> {
        let mut config = match self.preset {
            Some(preset) => self.over(preset.config())?,
            None => self.clone(),
        };
        config.fill_defaults();
        Ok(config)
    }

    /// This configuration's choices; where it makes none, those of `preset`. Its groups come
    /// first. The lr is always its own.
    fn over(&self, preset: Self) -> Result<Self, ConfigError> {
        if self.algorithm.is_some() && self.algorithm != preset.algorithm {
            return Err(ConfigError::Conflict {
                left: format!("algorithm = {}", self.algorithm.unwrap_or_default()),
                right: format!("a preset of {}", preset.algorithm.unwrap_or_default()),
                reason: "a preset fills in the choices of its own algorithm",
            });
        }
        let own = self.clone();
        let decay = match (own.weight_decay, preset.weight_decay) {
            (Some(own), Some(preset)) => Some(own.over(preset)),
            (own, preset) => own.or(preset),
        };
        Ok(Self {
            preset: None,
            algorithm: preset.algorithm,
            lr: own.lr,
            betas: own.betas.or(preset.betas),
            eps: own.eps.or(preset.eps),
            eps_placement: own.eps_placement.or(preset.eps_placement),
            eps_root: own.eps_root.or(preset.eps_root),
            bias_correction: own.bias_correction.or(preset.bias_correction),
            step_counter: own.step_counter.or(preset.step_counter),
            amsgrad: own.amsgrad.or(preset.amsgrad),
            state_dtype: own.state_dtype.or(preset.state_dtype),
            hyper_rounding: own.hyper_rounding.or(preset.hyper_rounding),
            momentum: own.momentum.or(preset.momentum),
            momentum_form: own.momentum_form.or(preset.momentum_form),
            dampening: own.dampening.or(preset.dampening),
            nesterov: own.nesterov.or(preset.nesterov),
            momentum_decay: own.momentum_decay.or(preset.momentum_decay),
            beta2_decay: own.beta2_decay.or(preset.beta2_decay),
            eps1: own.eps1.or(preset.eps1),
            eps2: own.eps2.or(preset.eps2),
            update_clip: own.update_clip.or(preset.update_clip),
            gradient: own.gradient.or(preset.gradient),
            weight_decay: decay,
            steps_per_epoch: own.steps_per_epoch,
            strip_name_suffix: own.strip_name_suffix.or(preset.strip_name_suffix),
            groups: own.groups.into_iter().chain(preset.groups).collect(),
        })
    }

    fn fill_defaults(&mut self) {
        let algorithm = *self.algorithm.get_or_insert_default();
        if algorithm.averages() {
            let beta2 = if algorithm == Algorithm::Lion { 0.99 } else { 0.999 };
            self.betas.get_or_insert([0.9, beta2]);
            self.hyper_rounding.get_or_insert(HyperRounding::default());
        }
        if algorithm.has_second_moment() {
            let uncorrected = algorithm == Algorithm::Radam;
            self.eps.get_or_insert(if algorithm == Algorithm::Lamb { 1e-6 } else { 1e-8 });
            self.eps_placement.get_or_insert(if uncorrected {
                EpsPlacement::Uncorrected
            } else {
                EpsPlacement::Corrected
            });
            self.eps_root.get_or_insert(0.0);
            self.bias_correction.get_or_insert(true);
        }
        if algorithm.counts_updates() {
            self.step_counter.get_or_insert(StepCounter::PerTensor);
        }
        if algorithm.keeps_moments() {
            self.state_dtype.get_or_insert(StateDtype::F32);
        }
        match algorithm {
            Algorithm::Adam => {
                self.amsgrad.get_or_insert(false);
            }
            Algorithm::NadamTorch => {
                self.momentum_decay.get_or_insert(4e-3);
            }
            Algorithm::Sgd => {
                self.momentum.get_or_insert(0.0);
                self.momentum_form.get_or_insert(MomentumForm::LrOutside);
                self.dampening.get_or_insert(0.0);
                self.nesterov.get_or_insert(false);
            }
            Algorithm::AdafactorTorch => {
                self.beta2_decay.get_or_insert(-0.8);
                self.eps1.get_or_insert(f64::from(f32::EPSILON));
                self.eps2.get_or_insert(1e-3);
                self.update_clip.get_or_insert(1.0);
            }
            Algorithm::NadamOptax | Algorithm::Radam | Algorithm::Lion | Algorithm::Lamb => {}
        }
        self.strip_name_suffix.get_or_insert(false);
        self.fill_decay(algorithm);
    }

    fn fill_decay(&mut self, algorithm: Algorithm) {
        let none = WeightDecayConfig { mode: Some(DecayMode::None), ..WeightDecayConfig::default() };
        let decay = self.weight_decay.get_or_insert(none);
        if decay.mode == Some(DecayMode::Decoupled) {
            let lamb = algorithm == Algorithm::Lamb;
            let inside = lamb && *decay.inside_trust_ratio.get_or_insert(true);
            decay.scaled_by.get_or_insert(DecayScale::Lr);
            decay.order.get_or_insert(if inside { DecayOrder::Fused } else { DecayOrder::Before });
            decay.cautious.get_or_insert(false);
        }
        let gradient = self.gradient.get_or_insert_default();
        // Coupled decay that is not placed goes last, where PyTorch puts it: clips do not see it.
        let coupled = match decay.mode {
            Some(DecayMode::L2) => Some(GradientOp::L2),
            Some(DecayMode::L1) => Some(GradientOp::L1),
            _ => None,
        };
        let placed = gradient.iter().any(|op| matches!(op, GradientOp::L2 | GradientOp::L1));
        gradient.extend(coupled.filter(|_| !placed));
    }
}

impl WeightDecayConfig {
    /// This decay's choices; where it makes none, those of `preset`. Another mode takes nothing
    /// from the preset, and a span takes its place as the strength.
    fn over(self, preset: Self) -> Self {
        if self.mode.is_some() && self.mode != preset.mode {
            return self;
        }
        let spanned = self.half_life.is_some() || self.timescale.is_some();
        Self {
            mode: preset.mode,
            value: self.value.or(preset.value.filter(|_| !spanned)),
            half_life: self.half_life,
            timescale: self.timescale,
            scaled_by: self.scaled_by.or(preset.scaled_by),
            order: self.order.or(preset.order),
            schedule: self.schedule.or(preset.schedule),
            cautious: self.cautious.or(preset.cautious),
            inside_trust_ratio: self.inside_trust_ratio.or(preset.inside_trust_ratio),
        }
    }
}
