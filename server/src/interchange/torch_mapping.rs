//! Which optimizer of PyTorch computes what a job does, and what it calls the planes.
//!
//! Promises: what is mapped is the same formula (`tests/golden/README.md`), so training goes on in either. Whatever makes it
//! another one is refused by name. Does not look at schedules, clipping or rescaling: in torch they are the training
//! loop's, not the optimizer's.

use std::fmt;

use halflife_optim::{
    Algorithm, ConfigError, DecayMode, DecayOrder, DecayScale, EpsPlacement, GradientOp, HyperRounding, MomentumForm,
    OptimizerConfig, StepCounter, WeightDecayConfig,
};
use thiserror::Error;

/// A class of `torch.optim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchKind {
    /// Decoupled decay.
    AdamW,
    /// L2 in the gradient, or none.
    Adam,
    /// L2 in the gradient, or none.
    Sgd,
}

impl fmt::Display for TorchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TorchKind::AdamW => "AdamW",
            TorchKind::Adam => "Adam",
            TorchKind::Sgd => "SGD",
        })
    }
}

/// Why PyTorch has no state for a job's optimizer.
#[derive(Debug, Error)]
pub enum NoTorchState {
    /// A choice that none of the three makes.
    #[error("optimizer.{setting}: expected {expected} for the state of torch.optim.AdamW, Adam or SGD, found {found}")]
    Choice {
        /// The setting.
        setting: &'static str,
        /// What torch computes.
        expected: &'static str,
        /// The job's.
        found: String,
    },
    /// Settings that are no optimizer.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// How a job's optimizer is torch's.
#[derive(Clone, Debug)]
pub struct TorchMapping {
    /// The class.
    pub kind: TorchKind,
    /// Whether there is no decay at all: then AdamW and Adam are one.
    pub undecayed: bool,
    /// The job's name of each plane, and torch's.
    pub planes: Vec<(&'static str, &'static str)>,
    /// The optimizer with every choice written out.
    pub config: OptimizerConfig,
}

impl TorchMapping {
    /// Finds the class of `torch.optim` that computes the same.
    ///
    /// # Errors
    /// [`NoTorchState`] names the first choice that none does.
    pub fn of(config: &OptimizerConfig) -> Result<TorchMapping, NoTorchState> {
        let config = config.expanded()?;
        let decay = config.weight_decay.clone().unwrap_or_default();
        let undecayed = matches!(decay.mode, None | Some(DecayMode::None));
        check_gradient(config.gradient.as_deref().unwrap_or_default())?;
        let (kind, planes): (_, &[_]) = match config.algorithm.unwrap_or_default() {
            Algorithm::Adam => {
                check_adam(&config)?;
                let second = &[("m", "exp_avg"), ("v", "exp_avg_sq"), ("vmax", "max_exp_avg_sq")];
                let kept = if config.amsgrad == Some(true) { 3 } else { 2 };
                (adam_kind(&decay)?, &second[..kept])
            }
            Algorithm::Sgd => {
                check_sgd(&config, &decay)?;
                let kept = usize::from(config.momentum.is_some_and(|momentum| momentum != 0.0));
                (TorchKind::Sgd, &[("m", "momentum_buffer")][..kept])
            }
            other => return refuse("algorithm", "adam or sgd", other),
        };
        Ok(TorchMapping { kind, undecayed, planes: planes.to_vec(), config })
    }

    /// Whether a state of this class is the job's.
    #[must_use]
    pub fn accepts(&self, class: &str) -> bool {
        let either = self.undecayed && self.kind != TorchKind::Sgd;
        class == self.kind.to_string() || (either && class == TorchKind::AdamW.to_string())
    }
}

fn refuse<T>(setting: &'static str, expected: &'static str, found: impl fmt::Display) -> Result<T, NoTorchState> {
    Err(NoTorchState::Choice { setting, expected, found: found.to_string() })
}

/// L2 must be what the optimizer sees last: torch adds it after whatever the training loop did.
fn check_gradient(gradient: &[GradientOp]) -> Result<(), NoTorchState> {
    match gradient.iter().position(|op| matches!(op, GradientOp::L2)) {
        Some(at) if at + 1 < gradient.len() => {
            refuse("gradient", "l2 last", format!("{:?} after it", gradient[at + 1]))
        }
        _ => Ok(()),
    }
}

fn check_adam(config: &OptimizerConfig) -> Result<(), NoTorchState> {
    if config.eps_placement != Some(EpsPlacement::Corrected) {
        return refuse("eps_placement", "\"corrected\"", "\"uncorrected\"");
    }
    if config.eps_root.is_some_and(|root| root != 0.0) {
        return refuse("eps_root", "0", config.eps_root.unwrap_or_default());
    }
    if config.bias_correction != Some(true) {
        return refuse("bias_correction", "true", false);
    }
    if config.step_counter != Some(StepCounter::PerTensor) {
        return refuse("step_counter", "\"per_tensor\"", "\"global\"");
    }
    if config.hyper_rounding != Some(HyperRounding::default()) {
        return refuse("hyper_rounding", "f64 betas", format!("{:?}", config.hyper_rounding.unwrap_or_default()));
    }
    Ok(())
}

fn adam_kind(decay: &WeightDecayConfig) -> Result<TorchKind, NoTorchState> {
    match decay.mode.unwrap_or_default() {
        DecayMode::None | DecayMode::L2 => return Ok(TorchKind::Adam),
        DecayMode::L1 => return refuse("weight_decay.mode", "none, l2 or decoupled", "l1"),
        DecayMode::Decoupled => {}
    }
    if decay.scaled_by != Some(DecayScale::Lr) {
        let found = format!("{:?}", decay.scaled_by.unwrap_or_default());
        return refuse("weight_decay.scaled_by", "lr", found.to_lowercase());
    }
    // Fused is the same in exact arithmetic.
    if decay.order == Some(DecayOrder::After) {
        return refuse("weight_decay.order", "before or fused", "after");
    }
    if decay.cautious == Some(true) {
        return refuse("weight_decay.cautious", "false", true);
    }
    Ok(TorchKind::AdamW)
}

fn check_sgd(config: &OptimizerConfig, decay: &WeightDecayConfig) -> Result<(), NoTorchState> {
    let inside = config.momentum_form == Some(MomentumForm::LrInside);
    if inside && config.momentum.is_some_and(|momentum| momentum != 0.0) {
        return refuse("momentum_form", "\"lr_outside\"", "\"lr_inside\", whose buffer holds lr");
    }
    match decay.mode.unwrap_or_default() {
        DecayMode::None | DecayMode::L2 => Ok(()),
        DecayMode::L1 => refuse("weight_decay.mode", "none or l2 with sgd", "l1"),
        DecayMode::Decoupled => refuse("weight_decay.mode", "none or l2 with sgd", "decoupled"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_optim::Preset;

    fn config(text: &str) -> OptimizerConfig {
        toml::from_str(&format!("lr = 0.1\n{text}")).unwrap()
    }

    #[test]
    fn torchs_own_presets_are_mapped_to_its_classes_and_state_names() {
        let sgd: &[(&str, &str)] = &[("m", "momentum_buffer")];
        let adam: &[(&str, &str)] = &[("m", "exp_avg"), ("v", "exp_avg_sq")];
        let amsgrad: &[(&str, &str)] = &[adam[0], adam[1], ("vmax", "max_exp_avg_sq")];
        for (text, kind, planes) in [
            ("preset = \"pytorch-adamw\"", TorchKind::AdamW, adam),
            ("preset = \"pytorch-adamw\"\namsgrad = true", TorchKind::AdamW, amsgrad),
            ("preset = \"pytorch-adam\"", TorchKind::Adam, adam),
            ("algorithm = \"adam\"", TorchKind::Adam, adam),
            ("preset = \"pytorch-sgd\"", TorchKind::Sgd, sgd),
            ("algorithm = \"sgd\"", TorchKind::Sgd, &[]),
        ] {
            let mapping = TorchMapping::of(&config(text)).unwrap();
            assert_eq!((mapping.kind, mapping.planes.as_slice()), (kind, planes), "{text}");
        }
        assert!(TorchMapping::of(&config("algorithm = \"adam\"")).unwrap().accepts("AdamW"));
        assert!(!TorchMapping::of(&config("preset = \"pytorch-adam\"")).unwrap().accepts("AdamW"));
    }

    #[test]
    fn what_torch_computes_otherwise_is_refused_by_name() {
        let mapped = [Preset::PytorchAdam, Preset::PytorchAdamw, Preset::PytorchSgd];
        for preset in Preset::ALL {
            let found = TorchMapping::of(&preset.config()).is_ok();
            assert_eq!(found, mapped.contains(&preset), "{preset:?}");
        }
        for (text, part) in [
            ("preset = \"keras-adamw\"", "optimizer.eps_placement: expected \"corrected\""),
            ("preset = \"optax-lion\"", "optimizer.algorithm: expected adam or sgd"),
            ("preset = \"optax-adamw\"", "optimizer.hyper_rounding"),
            ("preset = \"pytorch-adamw\"\nstep_counter = \"global\"", "optimizer.step_counter"),
            ("preset = \"pytorch-adamw\"\neps_root = 1e-8", "optimizer.eps_root: expected 0"),
            ("preset = \"pytorch-adamw\"\nbias_correction = false", "optimizer.bias_correction: expected true"),
            ("preset = \"pytorch-adamw\"\nweight_decay = { scaled_by = \"nothing\" }", "scaled_by: expected lr"),
            ("preset = \"pytorch-adamw\"\nweight_decay = { order = \"after\" }", "weight_decay.order"),
            ("preset = \"pytorch-adamw\"\nweight_decay = { cautious = true }", "weight_decay.cautious"),
            ("algorithm = \"sgd\"\nmomentum = 0.9\nmomentum_form = \"lr_inside\"", "optimizer.momentum_form"),
            (
                "algorithm = \"sgd\"\nweight_decay = { mode = \"decoupled\", value = 0.1 }",
                "expected none or l2 with sgd",
            ),
            (
                "algorithm = \"adam\"\ngradient = [{ op = \"l2\" }, { op = \"clip_value\", at = 1.0 }]\nweight_decay = { mode = \"l2\", value = 0.1 }",
                "optimizer.gradient: expected l2 last",
            ),
        ] {
            let error = TorchMapping::of(&config(text)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
