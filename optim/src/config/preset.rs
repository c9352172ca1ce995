//! Presets: a system's optimizer as the choices it makes.
//!
//! A preset only fills in what the configuration leaves open. `golden/README.md` has the formulas
//! and where they come from; each preset is checked against the vectors of its system.

use super::{
    Algorithm, BiasRounding, DecayMode, DecayOrder, DecayScale, EpsPlacement, GradientOp, GroupConfig, HyperRounding,
    MomentRounding, MomentumForm, NormForm, OptimizerConfig, StepCounter, WeightDecayConfig,
};
use serde::{Deserialize, Serialize};

/// A system whose choices a configuration takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preset {
    /// `torch.optim.Adam`: L2 in the gradient, divided by Adam's second moment.
    PytorchAdam,
    /// `torch.optim.AdamW`: w *= 1 - lr wd, then Adam.
    PytorchAdamw,
    /// `torch.optim.SGD`.
    PytorchSgd,
    /// `torch.optim.NAdam(decoupled_weight_decay=True)`.
    PytorchNadamw,
    /// `torch.optim.RAdam(decoupled_weight_decay=True)`.
    PytorchRadamw,
    /// `torch.optim.Adafactor`.
    PytorchAdafactor,
    /// `keras.optimizers.AdamW`.
    KerasAdamw,
    /// `optax.adamw`.
    OptaxAdamw,
    /// `optax.nadamw`.
    OptaxNadamw,
    /// `optax.lion`.
    OptaxLion,
    /// `optax.lamb`.
    OptaxLamb,
    /// `AdamWeightDecayOptimizer` and `create_optimizer` of google-research/bert.
    Bert,
    /// `mxnet.optimizer.Adam` of `MXNet` 0.7.
    #[serde(rename = "mxnet-0.7")]
    Mxnet07,
    /// `mxnet.optimizer.Adam` of `MXNet` 1.x: write clips after L2.
    Mxnet,
    /// `mxnet.optimizer.Adam` of `MXNet` 2.0: write clips before L2.
    #[serde(rename = "mxnet-2.0")]
    Mxnet20,
    /// `mx.nd.contrib.adamw_update` of `MXNet` 1.x.
    MxnetContribAdamw,
    /// Caffe's `AdamSolver`.
    Caffe,
    /// `optim.adam` of Torch7.
    Torch7,
    /// `tf.train.AdamOptimizer` on a loss with `l2_loss` terms.
    Tf1AdamL2,
    /// `tf.contrib.opt.AdamWOptimizer`: decay is not scaled by lr.
    TfContribAdamw,
    /// `tf.contrib.opt.MomentumWOptimizer`: decay is not scaled by lr.
    TfContribMomentumw,
    /// A second optimizer, SGD with lr 1, on the L2 term alone, run after Adam (reference
    /// variables: it reads the updated weight).
    SecondSgd,
    /// Algorithm 2 of "Decoupled Weight Decay Regularization" (arXiv 1711.05101).
    LoshchilovHutter,
    /// The code published with it.
    LoshchilovHutterCode,
}

const F32_MOMENTS: HyperRounding = HyperRounding { moments: MomentRounding::F32, bias_correction: BiasRounding::F64 };
const F32_POWERS: HyperRounding = HyperRounding { moments: MomentRounding::F64, bias_correction: BiasRounding::F32 };
const CAFFE: HyperRounding = HyperRounding { moments: MomentRounding::F32, bias_correction: BiasRounding::F32 };
const TF1: HyperRounding =
    HyperRounding { moments: MomentRounding::F32, bias_correction: BiasRounding::F32RunningProduct };

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 24] = [
        Self::PytorchAdam,
        Self::PytorchAdamw,
        Self::PytorchSgd,
        Self::PytorchNadamw,
        Self::PytorchRadamw,
        Self::PytorchAdafactor,
        Self::KerasAdamw,
        Self::OptaxAdamw,
        Self::OptaxNadamw,
        Self::OptaxLion,
        Self::OptaxLamb,
        Self::Bert,
        Self::Mxnet07,
        Self::Mxnet,
        Self::Mxnet20,
        Self::MxnetContribAdamw,
        Self::Caffe,
        Self::Torch7,
        Self::Tf1AdamL2,
        Self::TfContribAdamw,
        Self::TfContribMomentumw,
        Self::SecondSgd,
        Self::LoshchilovHutter,
        Self::LoshchilovHutterCode,
    ];

    /// The system's choices, with its default lr and decay (a common choice where it has none).
    #[must_use]
    pub fn config(self) -> OptimizerConfig {
        match self {
            Self::PytorchAdam => adam(1e-3, l2(0.01)),
            Self::PytorchAdamw => adam(1e-3, by_lr(DecayOrder::Before, 0.01)),
            Self::PytorchSgd => sgd(1e-3, 0.9, MomentumForm::LrOutside, l2(1e-4)),
            Self::PytorchNadamw => of(Algorithm::NadamTorch, 2e-3, by_lr(DecayOrder::Before, 0.01)),
            Self::PytorchRadamw => of(Algorithm::Radam, 1e-3, by_lr(DecayOrder::Before, 0.01)),
            Self::PytorchAdafactor => of(Algorithm::AdafactorTorch, 1e-2, by_lr(DecayOrder::Before, 0.01)),
            Self::KerasAdamw => {
                let config = eps_hat(1e-7, adam(1e-3, by_lr(DecayOrder::Before, 0.004)));
                global(OptimizerConfig { hyper_rounding: Some(F32_POWERS), ..config })
            }
            Self::OptaxAdamw => rounded(F32_POWERS, adam(1e-3, by_lr(DecayOrder::Fused, 1e-4))),
            Self::OptaxNadamw => rounded(F32_POWERS, of(Algorithm::NadamOptax, 1e-3, by_lr(DecayOrder::Fused, 1e-4))),
            Self::OptaxLion => of(Algorithm::Lion, 1e-4, by_lr(DecayOrder::Fused, 1e-3)),
            Self::OptaxLamb => rounded(F32_POWERS, of(Algorithm::Lamb, 1e-3, by_lr(DecayOrder::Fused, 0.01))),
            Self::Bert => bert(),
            Self::Mxnet07 => {
                let config = eps_hat(1e-8, adam(2e-3, decoupled(DecayScale::CorrectedLr, DecayOrder::After, 1e-4)));
                OptimizerConfig { groups: mxnet_groups(), ..config }
            }
            Self::Mxnet | Self::Mxnet20 => {
                let config = rounded(F32_MOMENTS, eps_hat(1e-8, adam(1e-3, l2(1e-4))));
                OptimizerConfig { groups: mxnet_groups(), ..config }
            }
            Self::MxnetContribAdamw => {
                let config = eps_hat(1e-8, adam(1e-3, decoupled(DecayScale::Schedule, DecayOrder::Fused, 0.01)));
                OptimizerConfig { bias_correction: Some(false), ..rounded(F32_MOMENTS, config) }
            }
            Self::Caffe => rounded(CAFFE, eps_hat(1e-8, adam(1e-3, l2(5e-4)))),
            Self::Torch7 => eps_hat(1e-8, adam(1e-3, l2(1e-4))),
            Self::Tf1AdamL2 => tf1(l2(1e-4)),
            Self::TfContribAdamw => tf1(decoupled(DecayScale::Nothing, DecayOrder::Before, 1e-5)),
            Self::TfContribMomentumw => {
                let decay = decoupled(DecayScale::Nothing, DecayOrder::Before, 1e-5);
                sgd(1e-3, 0.9, MomentumForm::LrOutside, decay)
            }
            Self::SecondSgd => tf1(decoupled(DecayScale::Nothing, DecayOrder::After, 1e-5)),
            Self::LoshchilovHutter => adam(1e-3, decoupled(DecayScale::Schedule, DecayOrder::Fused, 1e-5)),
            Self::LoshchilovHutterCode => {
                eps_hat(1e-8, adam(1e-3, decoupled(DecayScale::Schedule, DecayOrder::Fused, 1e-5)))
            }
        }
    }
}

fn of(algorithm: Algorithm, lr: f64, decay: WeightDecayConfig) -> OptimizerConfig {
    OptimizerConfig {
        algorithm: Some(algorithm),
        lr: lr.into(),
        weight_decay: Some(decay),
        ..OptimizerConfig::default()
    }
}

fn adam(lr: f64, decay: WeightDecayConfig) -> OptimizerConfig {
    of(Algorithm::Adam, lr, decay)
}

fn sgd(lr: f64, momentum: f64, form: MomentumForm, decay: WeightDecayConfig) -> OptimizerConfig {
    let config = of(Algorithm::Sgd, lr, decay);
    OptimizerConfig { momentum: Some(momentum), momentum_form: Some(form), ..config }
}

fn eps_hat(eps: f64, config: OptimizerConfig) -> OptimizerConfig {
    OptimizerConfig { eps: Some(eps), eps_placement: Some(EpsPlacement::Uncorrected), ..config }
}

fn rounded(rounding: HyperRounding, config: OptimizerConfig) -> OptimizerConfig {
    OptimizerConfig { hyper_rounding: Some(rounding), ..config }
}

fn global(config: OptimizerConfig) -> OptimizerConfig {
    OptimizerConfig { step_counter: Some(StepCounter::Global), ..config }
}

fn tf1(decay: WeightDecayConfig) -> OptimizerConfig {
    global(rounded(TF1, eps_hat(1e-8, adam(1e-3, decay))))
}

fn bert() -> OptimizerConfig {
    let config = eps_hat(1e-6, adam(5e-5, by_lr(DecayOrder::Fused, 0.01)));
    OptimizerConfig {
        bias_correction: Some(false),
        gradient: Some(vec![GradientOp::ClipGlobalNorm { max_norm: 1.0, form: NormForm::Tf }]),
        strip_name_suffix: Some(true),
        groups: vec![group("exclude_from_weight_decay", &["LayerNorm", "layer_norm", "bias"], 0.0)],
        ..config
    }
}

/// With `param_idx2name`, every name that does not end in `_weight` or `_gamma` is spared.
fn mxnet_groups() -> Vec<GroupConfig> {
    vec![group("weights and gammas", &["_weight$", "_gamma$"], 1.0), group("everything else", &[""], 0.0)]
}

fn group(name: &str, patterns: &[&str], decay_mult: f64) -> GroupConfig {
    GroupConfig {
        name: name.into(),
        patterns: patterns.iter().map(|&pattern| pattern.into()).collect(),
        rank_max: None,
        lr_mult: 1.0,
        decay_mult,
        lr: None,
    }
}

fn l2(value: f64) -> WeightDecayConfig {
    WeightDecayConfig { mode: Some(DecayMode::L2), value: Some(value.into()), ..WeightDecayConfig::default() }
}

fn by_lr(order: DecayOrder, value: f64) -> WeightDecayConfig {
    decoupled(DecayScale::Lr, order, value)
}

fn decoupled(scale: DecayScale, order: DecayOrder, value: f64) -> WeightDecayConfig {
    WeightDecayConfig {
        mode: Some(DecayMode::Decoupled),
        value: Some(value.into()),
        scaled_by: Some(scale),
        order: Some(order),
        ..WeightDecayConfig::default()
    }
}
