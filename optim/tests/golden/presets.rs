//! Presets against the vectors of their system: with a file's numbers filled in, a preset's
//! remaining choices must be the file's.

use crate::case::{Case, own_golden_dir};
use crate::{compare, configure, run};
use halflife_optim::{Optimizer, OptimizerConfig, Preset, WeightDecayConfig};

/// A preset, and the vectors of its system.
const SOURCES: [(Preset, &[&str]); 24] = [
    (Preset::PytorchAdam, &["torch_adam_l2"]),
    (Preset::PytorchAdamw, &["torch_adamw", "torch_adamw_cosine", "torch_adamw_param_groups"]),
    (Preset::PytorchSgd, &["torch_sgd_plain_l2", "torch_sgd_momentum_l2"]),
    (Preset::PytorchNadamw, &["torch_nadam_decoupled"]),
    (Preset::PytorchRadamw, &["torch_radam_decoupled"]),
    (Preset::PytorchAdafactor, &["torch_adafactor"]),
    (Preset::KerasAdamw, &["keras_adamw"]),
    (Preset::OptaxAdamw, &["optax_adamw", "optax_adamw_mask_warmup_cosine"]),
    (Preset::OptaxNadamw, &["optax_nadamw"]),
    (Preset::OptaxLion, &["optax_lion"]),
    (Preset::OptaxLamb, &["optax_lamb"]),
    (Preset::Bert, &["bert_create_optimizer", "bert_create_optimizer_nowarmup"]),
    (Preset::Mxnet07, &["mxnet07_adam_basic"]),
    (Preset::Mxnet, &["mxnet1_adam_basic"]),
    (Preset::Mxnet20, &["mxnet2_adam_clip_before_wd"]),
    (Preset::MxnetContribAdamw, &["mxnet1_contrib_adamw_eta"]),
    (Preset::Caffe, &["caffe_adam_l2"]),
    (Preset::Torch7, &["torch7_adam_l2_lrdecay"]),
    (Preset::Tf1AdamL2, &["tf1_adam_l2_loss"]),
    (Preset::TfContribAdamw, &["tf1_contrib_adamw_all", "tf1_contrib_adamw_piecewise"]),
    (Preset::TfContribMomentumw, &["tf1_contrib_momentumw_plain"]),
    (Preset::SecondSgd, &["lucasb_sgd1_trick_ref_vars"]),
    (Preset::LoshchilovHutter, &["lh_paper_adamw_warm_restarts"]),
    (Preset::LoshchilovHutterCode, &["lh_adamw_code"]),
];

/// The preset, with only what a user would state taken from the file.
fn with_numbers(preset: Preset, file: OptimizerConfig) -> OptimizerConfig {
    let choices = preset.config();
    let value = file.weight_decay.and_then(|decay| decay.value);
    OptimizerConfig {
        preset: Some(preset),
        lr: file.lr,
        betas: file.betas,
        eps: file.eps,
        eps_root: file.eps_root,
        momentum: file.momentum,
        // A system's own clip and exclusions are part of its preset.
        gradient: if choices.gradient.is_some() { None } else { file.gradient },
        weight_decay: Some(WeightDecayConfig { value, ..WeightDecayConfig::default() }),
        groups: if choices.groups.is_empty() { file.groups } else { vec![] },
        ..OptimizerConfig::default()
    }
}

#[test]
fn every_preset_is_its_system() {
    assert_eq!(SOURCES.map(|(preset, _)| preset), Preset::ALL);
    for (preset, files) in SOURCES {
        for file in files {
            let case = Case::read(&own_golden_dir().join("optimizers").join(format!("{file}.json")));
            let config = with_numbers(preset, configure::configure(&case).unwrap());
            let optimizer = Optimizer::new(&config, case.steps).unwrap_or_else(|e| panic!("{preset:?}: {e}"));
            let history = run::together(&case, &optimizer);
            compare::compare(&case, &history).unwrap_or_else(|e| panic!("{preset:?} {file}: {e}"));
        }
    }
}

#[test]
fn expanding_a_preset_writes_out_the_same_optimizer() {
    for preset in Preset::ALL {
        let config = OptimizerConfig { preset: Some(preset), ..preset.config() };
        let expanded = config.expanded().unwrap();
        assert_eq!(expanded.preset, None);
        assert_eq!(expanded.expanded().unwrap(), expanded, "{preset:?}");
        let text = toml::to_string(&expanded).unwrap();
        assert_eq!(toml::from_str::<OptimizerConfig>(&text).unwrap(), expanded, "{text}");
        Optimizer::new(&expanded, 10).unwrap_or_else(|e| panic!("{preset:?}: {e}\n{text}"));
    }
}
