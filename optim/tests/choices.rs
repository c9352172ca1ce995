//! What every preset and every algorithm fills in, and the formula it says it follows.

use halflife_optim::{Optimizer, OptimizerConfig, Preset};
use std::fmt::Write as _;
use std::path::Path;

/// Configurations beside the presets, so that each line of a formula is seen.
const OTHERS: [&str; 15] = [
    "lr = 0.1",
    "lr = 0.1\namsgrad = true",
    "lr = 0.1\neps_root = 1e-9",
    "lr = 0.1\nstate_dtype = \"bf16\"",
    "lr = 0.1\nbias_correction = false",
    "lr = 0.1\nalgorithm = \"sgd\"",
    "lr = 0.1\nalgorithm = \"sgd\"\nmomentum = 0.9\nmomentum_form = \"lr_inside\"",
    "lr = 0.1\nalgorithm = \"sgd\"\nmomentum = 0.9\nnesterov = true",
    "lr = 0.1\nalgorithm = \"sgd\"\nmomentum = 0.9\ndampening = 0.5",
    "lr = 0.1\nalgorithm = \"lamb\"\nweight_decay = { mode = \"decoupled\", value = 0.1, inside_trust_ratio = false }",
    "lr = 0.1\nweight_decay = { mode = \"l1\", value = 0.1 }\n\
     gradient = [{ op = \"rescale\", by = 0.5 }, { op = \"l1\" }, { op = \"clip_value\", at = 2.0 }]",
    "lr = 0.1\ngradient = [{ op = \"clip_norm\", max_norm = 1.0, form = \"torch\" }, \
     { op = \"clip_norm\", max_norm = 2.0, form = \"tf\" }]",
    "lr = 0.1\ngradient = [{ op = \"clip_global_norm\", max_norm = 1.0, form = \"optax\" }, \
     { op = \"clip_global_norm\", max_norm = 2.0, form = \"caffe\" }]",
    "lr = 0.1\nweight_decay = { mode = \"decoupled\", value = 0.1, scaled_by = \"lr_squared\", cautious = true }",
    "lr = 0.1\nweight_decay = { mode = \"decoupled\", half_life = \"9 steps\", scaled_by = \"independent\" }",
];

fn shown(title: &str, config: &OptimizerConfig) -> String {
    Optimizer::new(config, 100).unwrap_or_else(|e| panic!("{title}: {e}"));
    let expanded = config.expanded().unwrap_or_else(|e| panic!("{title}: {e}"));
    let formula = config.formula().unwrap_or_else(|e| panic!("{title}: {e}"));
    let mut text =
        format!("=== {title}\n{}--- formula\n", toml::to_string(&expanded).expect("a configuration is TOML"));
    for line in formula {
        writeln!(text, "{line}").expect("a string takes all");
    }
    text
}

#[test]
fn every_choice_and_formula_is_the_one_on_record() {
    let presets = Preset::ALL.map(|preset| shown(&format!("preset {preset:?}"), &preset.config()));
    let others = OTHERS.map(|text| {
        let config = toml::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        shown(&text.replace('\n', "; "), &config)
    });
    let found = [&presets[..], &others[..]].concat().join("\n");
    if found != include_str!("choices.txt") {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("choices.txt");
        std::fs::write(&path, found).expect("the target directory is writable");
        panic!("choices or formulas changed: compare {} with tests/choices.txt", path.display());
    }
}
