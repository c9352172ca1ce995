//! What the explanation says: whole texts for a few jobs, and what holds for every preset.
//!
//! The texts begin at section 2 (section 1 is read back instead). Where one is meant to change:
//! `halflife-server explain ... | sed -n '/^2\./,$p'`, and read the difference.

use halflife_optim::{OptimizerConfig, Preset};

use super::layout::WIDTH;
use super::{ExplainArguments, Run, explain, presets};
use crate::config::JobSpec;

const DIGITS: &str = include_str!("../../../deploy/examples/digits.toml");
const SOFTMAX: &str = include_str!("../../../deploy/examples/softmax.toml");

fn of_preset(name: &str, set: &[&str]) -> String {
    let set = set.iter().map(|&set| set.to_owned()).collect();
    let arguments = ExplainArguments { preset: Some(name.to_owned()), set, ..ExplainArguments::default() };
    explain(&arguments.run().unwrap())
}

fn of_job(text: &str, set: &[&str]) -> String {
    let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
    let job = JobSpec::parse("job", text, &set).unwrap();
    explain(&Run::new("job", &job, &[]).unwrap())
}

/// The sections from 2 on are the text.
fn says(explained: &str, text: &str) {
    let start = explained.find("2. Update rule").unwrap();
    assert!(explained[start..] == *text, "expected\n{text}\nfound\n{}", &explained[start..]);
}

fn contains(explained: &str, parts: &[&str]) {
    let flat = explained.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(flat.contains(part), "expected {part:?} in\n{explained}");
    }
}

#[test]
fn pytorch_adamw_is_explained_in_full() {
    says(&of_preset("pytorch-adamw", &[]), include_str!("golden/pytorch-adamw.txt"));
}

#[test]
fn bert_is_explained_in_full() {
    let warmup = "optimizer.lr={ kind = \"warmup\", steps = 100, clock = \"runs\", then = { kind = \"polynomial\", \
                  base = 5e-5 } }";
    says(&of_preset("bert", &[warmup, "job.steps=1000"]), include_str!("golden/bert.txt"));
}

#[test]
fn coupled_adam_is_explained_in_full() {
    says(&of_preset("caffe", &[]), include_str!("golden/caffe.txt"));
}

#[test]
fn the_default_job_is_explained_in_full() {
    says(&of_job(DIGITS, &[]), include_str!("golden/digits.txt"));
}

#[test]
fn every_preset_fits_the_width_and_prints_a_job_that_means_the_same() {
    for preset in Preset::ALL {
        let name = presets::name(preset);
        let text = of_preset(&name, &[]);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH && line.trim_end() == line, "{name}: {line:?}");
        }
        let (_, rest) = text.split_once("# A job file").unwrap();
        let (job, _) = rest.split_once("\n2. Update rule").unwrap();
        let job = JobSpec::parse("printed", &format!("#{job}"), &[]).unwrap();
        let expected = OptimizerConfig { preset: Some(preset), lr: preset.config().lr, ..OptimizerConfig::default() };
        assert_eq!(job.optimizer, expected.expanded().unwrap(), "{name}");
        assert_eq!((job.job.name, job.job.steps), (name, 1000));
    }
}

#[test]
fn jobs_fit_the_width() {
    let many = format!("optimizer.lr={{ kind = \"table\", values = {:?} }}", vec![0.001; 200]);
    for text in [of_job(DIGITS, &[]), of_job(SOFTMAX, &[]), of_job(DIGITS, &[&many])] {
        let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > WIDTH).collect();
        assert!(wide.is_empty(), "{wide:?}");
    }
}

#[test]
fn a_half_life_is_answered_with_its_value() {
    let asked = [
        "optimizer.weight_decay={ mode = \"decoupled\", half_life = \"500 steps\" }",
        "optimizer.lr=0.01",
        "optimizer.steps_per_epoch=100",
    ];
    contains(
        &of_job(DIGITS, &asked),
        &[
            "wd 0.138533, which under this schedule gives a half-life of 500 steps",
            "half-life 500 steps 5 epochs",
            "sum of ln(1 - d) -1.386 25 % of an untouched weight is left",
            "EMA timescale 721.3 steps 7.213 epochs",
        ],
    );
}

#[test]
fn l2_has_a_ledger_under_sgd_alone() {
    let plain = of_job(SOFTMAX, &["optimizer.momentum=0", "optimizer.lr=0.1"]);
    contains(&plain, &["L2 decay is the same as decoupled decay scaled by lr", "half-life 69,314 steps"]);
    contains(&plain, &["lr lr wd 0.0001 PyTorch"]);
    // Momentum 0.9 repeats what it is given ten times.
    let momentum = of_job(SOFTMAX, &["optimizer.momentum=0.9", "optimizer.lr=0.1"]);
    contains(&momentum, &["about d = 10 lr wd a step", "half-life 6,931 steps", "lr lr wd 0.001 PyTorch"]);
    let dampened = of_job(SOFTMAX, &["optimizer.dampening=0.9", "optimizer.lr=0.1"]);
    contains(&dampened, &["lr lr wd 0.0001 PyTorch"]);
    let clipped = of_job(SOFTMAX, &["optimizer.gradient=[{ op = \"l2\" }, { op = \"clip_value\", at = 1.0 }]"]);
    contains(&clipped, &["a clip after it cuts both"]);
    for (preset, reason) in
        [("pytorch-adam", "divides it by sqrt(v)"), ("torch7", "divides it by sqrt(v)"), ("mxnet", "no half-life")]
    {
        contains(&of_preset(preset, &[]), &[reason, "no number under another convention does the same"]);
    }
    let l1 = of_job(SOFTMAX, &["optimizer.weight_decay.mode=l1"]);
    contains(&l1, &["L1 decay takes the same amount off every weight"]);
}

#[test]
fn what_cannot_be_meant_is_warned_of() {
    contains(
        &of_preset("tf-contrib-adamw", &["optimizer.weight_decay.value=0.01"]),
        &["decay takes 0.01 of a weight every step, because the lr itself does not scale it"],
    );
    contains(&of_job(DIGITS, &["job.steps=20"]), &["the warmup of 50 steps is longer than the run of 20"]);
    contains(&of_job(DIGITS, &["optimizer.groups=[]"]), &["usually they are spared: layers.0.bias, layers.1.bias"]);
    // MXNet's patterns do not know the built-in worker's names.
    let mxnet = of_job(DIGITS, &["optimizer.preset=mxnet-0.7", "optimizer.groups=[]"]);
    contains(&mxnet, &["the groups spare every tensor", "\"weights and gammas\" (no tensor of this model)"]);
    let whole = of_job(DIGITS, &["optimizer.weight_decay.scaled_by=nothing", "optimizer.weight_decay.value=1.5"]);
    contains(&whole, &["decay takes 1.5 of a weight at step 1", "nothing of a weight is left"]);
    assert!(of_job(DIGITS, &[]).ends_with("6. Warnings\n-----------\n  none\n"));
}

#[test]
fn costs_name_what_a_step_waits_for() {
    contains(&of_preset("bert", &[]), &["A global norm: sums cross servers", "20 bytes per parameter"]);
    contains(&of_preset("optax-lamb", &[]), &["A trust ratio per tensor", "the numbers are those of a ratio of 1"]);
    contains(&of_preset("pytorch-adafactor", &[]), &["Whole tensors", "0 bytes per parameter"]);
    contains(&of_job(DIGITS, &[]), &["No reductions", "8 bytes per parameter 150.1 KiB m, v"]);
}

#[test]
fn a_lossy_wire_says_what_it_costs_and_whether_p2_holds() {
    let bf16 = ["wire.gradients=bf16", "wire.weights=bf16"];
    contains(
        &of_job(DIGITS, &bf16),
        &[
            "weights as sent 4 bytes per parameter 75.04 KiB the same in bf16",
            "together 20 bytes per parameter",
            "gradients up bf16 2 bytes per parameter 37.52 KiB each slot, encoded alone",
            "weights down bf16 2 bytes per parameter 37.52 KiB each worker",
            "Workers compute at weights rounded to bf16",
            "P2 holds:",
        ],
    );
    contains(
        &of_job(DIGITS, &["wire.gradients=i8"]),
        &["gradients up i8 1.016 bytes per parameter", "error feedback", "P2 is off, the trained bits depend on"],
    );
}

#[test]
fn epochs_come_from_the_job_or_the_built_in_data_or_are_asked_for() {
    contains(&of_job(DIGITS, &[]), &["An epoch is 11.23 steps"]);
    contains(&of_job(DIGITS, &["data.holdout_fraction=0.5"]), &["An epoch is 5.609 steps"]);
    contains(&of_job(DIGITS, &["optimizer.steps_per_epoch=50"]), &["An epoch is 50 steps"]);
    let csv = of_job(DIGITS, &["data={ kind = \"csv\", path = \"x.csv\" }"]);
    contains(&csv, &["--steps-per-epoch N", "the training samples / 128"]);
}

#[test]
fn groups_with_an_lr_or_a_decay_of_their_own_have_columns_of_their_own() {
    let groups = "optimizer.groups=[{ name = \"head\", patterns = [\"layers.1.weight\"], lr_mult = 0.5 }, \
                  { name = \"biases\", patterns = [\"bias$\"], decay_mult = 0.0 }]";
    contains(
        &of_job(DIGITS, &[groups]),
        &[
            "A: tensors of no group; B: group \"head\"",
            "step epoch lr A d A lr B d B",
            "51 4.45 0.02 0.002 0.01 0.001",
            "group \"head\" (layers.1.weight)",
        ],
    );
}
