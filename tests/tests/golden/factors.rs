//! Schedules and exclusions as servers use them: the lr and decay they report with the weights, and
//! what those do to a weight without gradient.

use std::collections::BTreeMap;
use std::path::Path;

use halflife_optim::{Algorithm, DecayMode, GroupConfig, OptimizerConfig, ScheduleConfig, WeightDecayConfig};
use halflife_tests::cluster::Cluster;
use halflife_tests::tool::{Tool, ToolTensor};
use serde_json::Value;

use crate::case::{numbers, read_json};
use crate::run::{Layout, spec};
use crate::schedules;

const LAYOUT: Layout = Layout { servers: 3, block_elements: 1 };

/// SGD whose lr follows a schedule.
fn sgd(lr: ScheduleConfig) -> OptimizerConfig {
    OptimizerConfig { algorithm: Some(Algorithm::Sgd), lr, ..OptimizerConfig::default() }
}

/// Runs a job as long as the file's schedule and compares the lr reported with every step.
pub(crate) async fn check_schedule(path: &Path) {
    let file = read_json(path);
    let what = path.display();
    let config = schedules::schedule(&file["schedule"]).unwrap_or_else(|| panic!("{what}: cannot run it"));
    let expected = numbers(&file["lr"]).expect("lr");
    let global_steps: Vec<u64> =
        file["global_step"].as_array().expect("global_step").iter().filter_map(Value::as_u64).collect();
    let steps = global_steps.iter().max().expect("steps") + 1;
    let rtol = file["tolerance"]["rtol_of_peak"].as_f64().expect("rtol");
    let peak = expected.iter().copied().fold(0.0, f64::max);
    // A schedule that names no length takes the run's, which is the file's number of values.
    let job = spec(&sgd(config), (steps.max(expected.len() as u64), 1), "mean", LAYOUT)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let cluster = Cluster::start(job).await;
    let mut tool =
        Tool::join(cluster.lead_url(), vec![ToolTensor::trainable("w", &[1])]).await.expect("the tool joins");
    tool.initialize(0, &[0.0]).await.expect("w is set");
    tool.wait_for(0).await;
    let mut reported = BTreeMap::new();
    for step in 1..=steps {
        tool.push(step, (0, 1), 0, Some(&[0.0]), 1.0).await.expect("a gradient is taken");
        tool.wait_for(step).await;
        reported.insert(step - 1, tool.factors(0, step).await.0);
    }
    for (global_step, expected) in global_steps.iter().zip(&expected) {
        let found = reported[global_step];
        assert!(
            (found - expected).abs() <= rtol * peak,
            "{what}: step {global_step}: expected {expected}, found {found}"
        );
    }
}

/// Runs one step without gradient for all variables of a list of patterns: the decayed ones shrink, the
/// others keep their bits.
pub(crate) async fn check_names(path: &Path) {
    let file = read_json(path);
    let mut jobs: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for case in file["cases"].as_array().expect("cases") {
        jobs.entry(format!("{} {}", case["weight_decay"], case["patterns"])).or_default().push(case);
    }
    assert!(!jobs.is_empty());
    for cases in jobs.values() {
        check_exclusions(cases).await;
    }
}

async fn check_exclusions(cases: &[&Value]) {
    let patterns = cases[0]["patterns"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let patterns: Vec<String> = patterns.collect();
    let excluded =
        GroupConfig { name: "excluded".into(), patterns, rank_max: None, lr_mult: 1.0, decay_mult: 0.0, lr: None };
    let weight_decay = WeightDecayConfig {
        mode: Some(DecayMode::Decoupled),
        value: Some(cases[0]["weight_decay"].as_f64().expect("weight_decay").into()),
        ..WeightDecayConfig::default()
    };
    let config = OptimizerConfig {
        weight_decay: Some(weight_decay),
        strip_name_suffix: Some(true),
        groups: if excluded.patterns.is_empty() { Vec::new() } else { vec![excluded] },
        ..sgd(0.5.into())
    };
    let mut names: Vec<&str> = cases.iter().map(|case| case["variable"].as_str().expect("variable")).collect();
    names.sort_unstable();
    names.dedup();
    let cluster = Cluster::start(spec(&config, (1, 1), "mean", LAYOUT).expect("a job")).await;
    let tensors = names.iter().map(|name| ToolTensor::trainable(name, &[1])).collect();
    let mut tool = Tool::join(cluster.lead_url(), tensors).await.expect("the tool joins");
    for tensor in 0..names.len() {
        tool.initialize(tensor, &[1.0]).await.expect("a weight is set");
    }
    tool.wait_for(0).await;
    for tensor in 0..names.len() {
        tool.push(1, (0, 1), tensor, Some(&[0.0]), 1.0).await.expect("a gradient is taken");
    }
    tool.wait_for(1).await;
    for case in cases {
        let tensor = names.iter().position(|name| case["variable"] == **name).expect("one of the names");
        let weight = tool.pull(tensor, "", 1).await.expect("weights")[0];
        let decay = tool.factors(tensor, 1).await.1;
        let decayed = case["decayed"].as_bool().expect("decayed");
        assert_eq!((weight < 1.0, decay > 0.0), (decayed, decayed), "{case}");
    }
}
