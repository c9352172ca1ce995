//! From a case's neutral fields to an optimizer configuration. Never looks at the file's name.

use crate::case::{Case, TensorCase, numbers};
use crate::schedules;
use halflife_optim::*;
use serde_json::Value;

/// The configuration of a case, or why it cannot be run.
pub(crate) fn configure(case: &Case) -> Result<OptimizerConfig, String> {
    let neutral = &case.raw["optimizer"];
    let decay = &neutral["decay"];
    let algorithm: Algorithm = read(&neutral["algorithm"])?;
    let lr = schedule_of(case, "lr")?;
    let betas = match (neutral["beta1"].as_f64(), neutral["beta2"].as_f64()) {
        (Some(beta1), Some(beta2)) => Some([beta1, beta2]),
        _ => None,
    };
    // The files state amsgrad = false for rules that have no such choice.
    let amsgrad = neutral["amsgrad"].as_bool().filter(|&on| on || algorithm == Algorithm::Adam);
    let counts = algorithm != Algorithm::Sgd && algorithm != Algorithm::Lion;
    Ok(OptimizerConfig {
        algorithm: Some(algorithm),
        lr,
        betas,
        eps: neutral["eps"].as_f64(),
        eps_placement: read(&neutral["eps_placement"])?,
        eps_root: neutral["eps_root"].as_f64(),
        bias_correction: neutral["bias_correction"].as_bool(),
        step_counter: if counts { read(&neutral["step_counter"])? } else { None },
        amsgrad,
        hyper_rounding: read(&neutral["hyper_rounding"])?,
        momentum: neutral["momentum"].as_f64(),
        momentum_form: read(&neutral["momentum_form"])?,
        dampening: neutral["dampening"].as_f64(),
        nesterov: neutral["nesterov"].as_bool(),
        momentum_decay: neutral["momentum_decay"].as_f64(),
        beta2_decay: neutral["beta2_decay"].as_f64(),
        eps1: neutral["eps1"].as_f64(),
        eps2: neutral["eps2"].as_f64(),
        update_clip: neutral["d"].as_f64(),
        gradient: Some(pipeline(neutral)?),
        weight_decay: Some(weight_decay(case, decay)?),
        groups: groups(case)?,
        ..OptimizerConfig::default()
    })
}

/// Reads a value whose spelling is the same in the files and in our configuration.
fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|error| format!("{value}: {error}"))
}

/// The schedule of `key`, checked against the values in `steps`.
fn schedule_of(case: &Case, key: &str) -> Result<ScheduleConfig, String> {
    let values = numbers(&case.raw["steps"][key]).ok_or(format!("no steps.{key}"))?;
    let Some(config) = schedules::schedule(&case.raw["schedule"][key]) else {
        return Ok(Curve::Table { values }.into());
    };
    let compiled = Schedule::new(key, &config, case.steps).map_err(|e| e.to_string())?;
    let steps: Vec<u64> = (0..case.steps).collect();
    let what = format!("{} {key}", case.path.display());
    schedules::check(&what, &compiled, &steps, &values, 1e-12);
    Ok(config)
}

fn pipeline(neutral: &Value) -> Result<Vec<GradientOp>, String> {
    let ops = neutral["grad_pipeline"].as_array();
    ops.into_iter().flatten().map(read).collect()
}

fn weight_decay(case: &Case, decay: &Value) -> Result<WeightDecayConfig, String> {
    let mode: DecayMode = read(&decay["kind"])?;
    if mode == DecayMode::None {
        return Ok(WeightDecayConfig { mode: Some(mode), ..WeightDecayConfig::default() });
    }
    let value = Some(schedule_of(case, "wd")?);
    if mode != DecayMode::Decoupled {
        return Ok(WeightDecayConfig { mode: Some(mode), value, ..WeightDecayConfig::default() });
    }
    let scaled_by = match decay["scaling"].as_str() {
        Some("by_lr") => DecayScale::Lr,
        Some("by_corrected_lr") => DecayScale::CorrectedLr,
        Some("by_schedule_only") => DecayScale::Schedule,
        Some("raw") => DecayScale::Nothing,
        other => return Err(format!("decay.scaling {other:?}")),
    };
    let order = match decay["order"].as_str() {
        Some("before_update") => DecayOrder::Before,
        Some("fused") => DecayOrder::Fused,
        Some("after_update") => DecayOrder::After,
        other => return Err(format!("decay.order {other:?}")),
    };
    Ok(WeightDecayConfig {
        mode: Some(mode),
        value,
        scaled_by: Some(scaled_by),
        order: Some(order),
        schedule: eta(case, scaled_by)?,
        inside_trust_ratio: decay["inside_trust_ratio"].as_bool(),
        ..WeightDecayConfig::default()
    })
}

/// The multiplier, named only when it is not the lr's own, so that the default is tested too.
fn eta(case: &Case, scaled_by: DecayScale) -> Result<Option<ScheduleConfig>, String> {
    if scaled_by != DecayScale::Schedule {
        return Ok(None);
    }
    let config = schedule_of(case, "eta")?;
    let lr = schedule_of(case, "lr")?;
    let lr = Schedule::new("lr", &lr, case.steps).map_err(|e| e.to_string())?;
    let eta = Schedule::new("eta", &config, case.steps).map_err(|e| e.to_string())?;
    let follows = |step| (lr.value(step) / lr.base() - eta.value(step)).abs() < 1e-12;
    Ok((!(0..case.steps).all(follows)).then_some(config))
}

/// One group per tensor: the files state the outcome of each system's own exclusion rule.
fn groups(case: &Case) -> Result<Vec<GroupConfig>, String> {
    let own_lr = &case.raw["steps"]["lr_per_tensor"];
    let group = |tensor: &TensorCase| GroupConfig {
        name: tensor.name.clone(),
        patterns: vec![format!("^{}$", regex_escape(&tensor.name))],
        rank_max: None,
        lr_mult: tensor.lr_mult,
        decay_mult: if tensor.decayed { tensor.decay_mult } else { 0.0 },
        lr: numbers(&own_lr[&tensor.name]).map(|values| Curve::Table { values }.into()),
    };
    Ok(case.tensors.iter().map(group).collect())
}

fn regex_escape(name: &str) -> String {
    let special = |c: char| !(c.is_alphanumeric() || c == '_' || c == '/');
    name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
