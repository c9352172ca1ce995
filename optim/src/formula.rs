//! The update rule in plain notation, with a configuration's own numbers.
//!
//! For people: what `explain` prints. Mirrors `rule/`, `decay.rs` and `gradient.rs`; the numbers
//! come from the expanded configuration.

use crate::config::{
    Algorithm, DecayMode, DecayOrder, DecayScale, EpsPlacement, GradientOp, MomentumForm, NormForm, OptimizerConfig,
    StateDtype, WeightDecayConfig, filled,
};
use crate::error::ConfigError;
use crate::schedule::ScheduleConfig;

impl OptimizerConfig {
    /// The update rule, one line per assignment, in the order in which they happen.
    ///
    /// w weight, g gradient, t updates of the tensor, lr and wd of the step with the group's
    /// multipliers, bc = 1 - beta^t.
    ///
    /// # Errors
    /// Those of [`OptimizerConfig::expanded`].
    pub fn formula(&self) -> Result<Vec<String>, ConfigError> {
        let config = self.expanded()?;
        let gradient = filled(config.gradient.as_ref());
        let mut lines: Vec<String> = gradient.iter().map(stage).collect();
        lines.extend(rule(&config));
        if config.state_dtype == Some(StateDtype::Bf16) {
            lines.push("moments are kept for the next step in bf16, rounded to nearest, ties to even".into());
        }
        let decay = filled(config.weight_decay.as_ref());
        if decay.mode == Some(DecayMode::Decoupled) && decay.inside_trust_ratio != Some(true) {
            lines.push(strength(decay));
        }
        lines.extend(application(decay).iter().map(|&line| line.into()));
        Ok(lines)
    }
}

fn stage(op: &GradientOp) -> String {
    match op {
        GradientOp::Rescale { by } => format!("g = {by} g"),
        GradientOp::ClipValue { at } => format!("g = min(max(g, -{at}), {at})"),
        GradientOp::ClipNorm { max_norm, form } => {
            format!("n = norm of the tensor's g;  g = {} g", clip(*form, *max_norm))
        }
        GradientOp::ClipGlobalNorm { max_norm, form } => {
            format!("n = norm of all tensors' g;  g = {} g", clip(*form, *max_norm))
        }
        GradientOp::L2 => "g = g + wd w".into(),
        GradientOp::L1 => "g = g + wd sign(w)".into(),
    }
}

fn clip(form: NormForm, max: f64) -> String {
    match form {
        NormForm::Torch => format!("min(1, {max} / (n + 1e-6))"),
        NormForm::Tf => format!("({max} / max(n, {max}))"),
        NormForm::Optax => format!("(1 if n < {max} else {max} / n)"),
        NormForm::Caffe => format!("({max} / n if n > {max} else 1)"),
    }
}

fn rule(config: &OptimizerConfig) -> Vec<String> {
    let [b1, b2] = config.betas.unwrap_or_default();
    let m = format!("m = {b1} m + (1 - {b1}) g");
    let v = format!("v = {b2} v + (1 - {b2}) g^2");
    match filled(config.algorithm) {
        Algorithm::Adam if config.amsgrad == Some(true) => {
            vec![m, v, "x = max(x, v)".into(), divided(config, "m", "x")]
        }
        Algorithm::Adam => vec![m, v, divided(config, "m", "v")],
        Algorithm::NadamOptax => {
            let mixed = format!("({b1} m / (1 - {b1}^(t+1)) + (1 - {b1}) g / bc1)");
            vec![m, v, format!("u = lr {mixed} {}", denominator(config, "v"))]
        }
        Algorithm::NadamTorch => {
            let psi = config.momentum_decay.unwrap_or_default();
            let mu = format!("mu(t) = {b1} (1 - 0.5 0.96^({psi} t));  p = mu(1) ... mu(t)");
            let mixed = "((1 - mu(t)) g / (1 - p) + mu(t+1) m / (1 - p mu(t+1)))";
            vec![m, v, mu, format!("u = lr {mixed} {}", denominator(config, "v"))]
        }
        Algorithm::Radam => {
            let rho = format!("rho = 2 / (1 - {b2}) - 1 - 2 t {b2}^t / bc2");
            let early = "u = lr m / bc1 while rho <= 5, and after that".into();
            vec![m, v, rho, early, format!("{} times RAdam's rectification", divided(config, "m", "v"))]
        }
        Algorithm::Sgd => sgd(config),
        Algorithm::Lion => {
            let direction = format!("u = lr sign({b1} m + (1 - {b1}) g)");
            vec![direction, format!("m = {b2} m + (1 - {b2}) g")]
        }
        Algorithm::Lamb => {
            let inside = config.weight_decay.as_ref().is_some_and(|decay| decay.inside_trust_ratio == Some(true));
            let decay = if inside { " + wd w" } else { "" };
            let r = format!("r = {}{decay}", divided(config, "m", "v").replace("u = lr ", ""));
            vec![m, v, r, "u = lr (|w| / |r|, or 1 if either is 0) r".into()]
        }
        Algorithm::AdafactorTorch => adafactor(config),
    }
}

/// u = lr m-hat / (root + eps), in the form of the placement.
fn divided(config: &OptimizerConfig, m: &str, v: &str) -> String {
    match (config.bias_correction, config.eps_placement) {
        (Some(false), _) => format!("u = lr {m} {}", denominator(config, v)),
        (_, Some(EpsPlacement::Uncorrected)) => format!("u = lr sqrt(bc2)/bc1 {m} {}", denominator(config, v)),
        _ => format!("u = lr ({m}/bc1) {}", denominator(config, v)),
    }
}

fn denominator(config: &OptimizerConfig, v: &str) -> String {
    let eps = config.eps.unwrap_or_default();
    let corrected = config.bias_correction != Some(false) && config.eps_placement == Some(EpsPlacement::Corrected);
    let v = if corrected { format!("{v}/bc2") } else { v.into() };
    match config.eps_root {
        Some(root) if root > 0.0 => format!("/ (sqrt({v} + {root:e}) + {eps:e})"),
        _ => format!("/ (sqrt({v}) + {eps:e})"),
    }
}

fn sgd(config: &OptimizerConfig) -> Vec<String> {
    let mu = config.momentum.unwrap_or_default();
    let nesterov = config.nesterov == Some(true);
    if mu == 0.0 {
        return vec!["u = lr g".into()];
    }
    if config.momentum_form == Some(MomentumForm::LrInside) {
        let u = if nesterov { format!("u = lr g + {mu} m") } else { "u = m".into() };
        return vec![format!("m = {mu} m + lr g"), u];
    }
    let m = match config.dampening {
        Some(dampening) if dampening > 0.0 => format!("m = {mu} m + (1 - {dampening}) g;  m = g at t = 1"),
        _ => format!("m = {mu} m + g"),
    };
    vec![m, if nesterov { format!("u = lr (g + {mu} m)") } else { "u = lr m".into() }]
}

fn adafactor(config: &OptimizerConfig) -> Vec<String> {
    let value = |choice: Option<f64>| choice.unwrap_or_default();
    vec![
        format!("b = 1 - t^{}", value(config.beta2_decay)),
        "row = b row + (1 - b) mean over columns of g^2;  col likewise over rows".into(),
        format!("var = row col / max(mean(row), {:e})  (rank 0 and 1: v = b v + (1 - b) g^2)", value(config.eps1)),
        format!("U = g / sqrt(max(var, {:e}^2))", value(config.eps1)),
        format!(
            "u = max({}, rms(w)) min(lr, 1/sqrt(t)) U / max(1, rms(U) / {})",
            value(config.eps2),
            value(config.update_clip)
        ),
    ]
}

fn strength(decay: &WeightDecayConfig) -> String {
    let wd = match &decay.value {
        Some(ScheduleConfig::Constant(value)) => format!("{value}"),
        _ => "wd".into(),
    };
    let cautious = if decay.cautious == Some(true) { ", only where u w >= 0" } else { "" };
    let factor = match decay.scaled_by.unwrap_or_default() {
        DecayScale::Lr => format!("lr {wd}"),
        DecayScale::CorrectedLr => format!("lr sqrt(bc2)/bc1 {wd}"),
        DecayScale::Schedule => format!("eta {wd}  (eta: the schedule's multiplier)"),
        DecayScale::LrSquared => format!("lr (lr / largest lr) {wd}"),
        DecayScale::Nothing => wd,
    };
    format!("d = {factor}{cautious}")
}

fn application(decay: &WeightDecayConfig) -> &'static [&'static str] {
    if decay.mode != Some(DecayMode::Decoupled) {
        return &["w = w - u"];
    }
    if decay.inside_trust_ratio == Some(true) {
        return &["w = w - u"];
    }
    match decay.order.unwrap_or_default() {
        DecayOrder::Before => &["w = w - d w", "w = w - u"],
        DecayOrder::Fused => &["w = w - (u + d w)"],
        DecayOrder::After => &["w = w - u", "w = w - d w"],
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Preset;

    fn formula(preset: Preset) -> Vec<String> {
        preset.config().formula().unwrap()
    }

    #[test]
    fn the_formula_of_a_preset_is_the_one_in_the_semantic_table() {
        assert_eq!(
            formula(Preset::PytorchAdamw),
            [
                "m = 0.9 m + (1 - 0.9) g",
                "v = 0.999 v + (1 - 0.999) g^2",
                "u = lr (m/bc1) / (sqrt(v/bc2) + 1e-8)",
                "d = lr 0.01",
                "w = w - d w",
                "w = w - u",
            ]
        );
        assert_eq!(
            formula(Preset::Mxnet07)[2..],
            ["u = lr sqrt(bc2)/bc1 m / (sqrt(v) + 1e-8)", "d = lr sqrt(bc2)/bc1 0.0001", "w = w - u", "w = w - d w",]
        );
        assert_eq!(formula(Preset::Bert)[3..], ["u = lr m / (sqrt(v) + 1e-6)", "d = lr 0.01", "w = w - (u + d w)"]);
        assert_eq!(formula(Preset::PytorchSgd), ["g = g + wd w", "m = 0.9 m + g", "u = lr m", "w = w - u"]);
    }

    #[test]
    fn every_preset_has_a_formula() {
        for preset in Preset::ALL {
            assert!(formula(preset).iter().any(|line| line.starts_with("w = ")), "{preset:?}");
        }
    }
}
