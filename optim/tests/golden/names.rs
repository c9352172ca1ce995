//! The name files: which variables are decayed.

use crate::case::{files, read_json};
use halflife_optim::{DecayMode, GroupConfig, Optimizer, OptimizerConfig, WeightDecayConfig};
use serde_json::Value;

/// An optimizer that spares the names in which any of `patterns` is found.
pub(crate) fn excluding(weight_decay: f64, patterns: &[&str]) -> Optimizer {
    let group = GroupConfig {
        name: "excluded".into(),
        patterns: patterns.iter().map(|&pattern| pattern.into()).collect(),
        rank_max: None,
        lr_mult: 1.0,
        decay_mult: 0.0,
        lr: None,
    };
    let config = OptimizerConfig {
        lr: 0.1.into(),
        weight_decay: Some(WeightDecayConfig {
            mode: Some(DecayMode::Decoupled),
            value: Some(weight_decay.into()),
            ..WeightDecayConfig::default()
        }),
        strip_name_suffix: Some(true),
        groups: if patterns.is_empty() { vec![] } else { vec![group] },
        ..OptimizerConfig::default()
    };
    Optimizer::new(&config, 1).expect("optimizer")
}

#[test]
fn every_name_file_passes() {
    for path in files("names") {
        let file = read_json(&path);
        for case in file["cases"].as_array().expect("cases") {
            let patterns = case["patterns"].as_array().into_iter().flatten();
            let patterns: Vec<&str> = patterns.filter_map(Value::as_str).collect();
            let decay = case["weight_decay"].as_f64().expect("weight_decay");
            let optimizer = excluding(decay, &patterns);
            let rule = optimizer.tensor(case["variable"].as_str().expect("variable"), &[1]);
            assert_eq!(Some(rule.decays()), case["decayed"].as_bool(), "{case}");
            assert_eq!(optimizer.factors(&rule, 1, 1).decay() > 0.0, rule.decays(), "{case}");
        }
    }
}
