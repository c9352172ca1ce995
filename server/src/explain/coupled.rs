//! Coupled decay, on the weight: only gradient descent leaves a factor, everything else does not.
//!
//! SGD subtracts lr (g + wd w), so L2 takes lr wd off the weight. Momentum mu repeats what it is
//! given 1 / (1 - mu) times and dampening passes (1 - dampening) of it: after some 1 / (1 - mu)
//! steps the weight shrinks by about lr wd (1 - dampening) / (1 - mu) a step, to first order in
//! lr wd. The ledger of a decoupled stand-in with that factor is then the ledger of the job.

use halflife_optim::{
    Algorithm, DecayMode, DecayOrder, DecayScale, GradientOp, GroupConfig, Optimizer, OptimizerConfig, TensorRule,
    WeightDecayConfig,
};

use super::number;
use super::run::Run;

/// What coupled decay does to a weight without other gradients.
pub(super) enum Coupled {
    /// It shrinks as under a decoupled decay.
    Decays {
        /// The job with that decay instead.
        optimizer: Box<Optimizer>,
        /// Its rules, in the order of the job's own.
        rules: Vec<TensorRule>,
        /// How much of its decay is in its groups' multipliers, beyond the job's.
        gain: f64,
        /// Why, and how exactly.
        note: String,
    },
    /// No factor describes it.
    HasNoFactor {
        /// Why.
        reason: String,
    },
}

pub(super) fn on_the_weight(run: &Run) -> Coupled {
    let config = run.config();
    if let Some(reason) = no_factor(config, run.decay_mode()) {
        return Coupled::HasNoFactor { reason };
    }
    let gain = gain(config);
    let stand_in = decoupled(config, gain);
    match Optimizer::new(&stand_in, run.steps()) {
        Ok(optimizer) => {
            Coupled::Decays { rules: rules(&optimizer), optimizer: Box::new(optimizer), gain, note: note(gain) }
        }
        Err(error) => Coupled::HasNoFactor { reason: format!("No decoupled decay stands in for this one: {error}.") },
    }
}

/// The stand-in's last group takes the tensors that have none in the job.
fn rules(optimizer: &Optimizer) -> Vec<TensorRule> {
    let mut rules = optimizer.group_rules();
    rules.swap_remove(0);
    rules
}

fn no_factor(config: &OptimizerConfig, mode: DecayMode) -> Option<String> {
    if mode == DecayMode::L1 {
        return Some(
            "L1 decay takes the same amount off every weight, however large it is: there is no factor, so no half-life \
             and no timescale, and no number under another convention does the same."
                .to_owned(),
        );
    }
    let by_lr = "it shrinks by about lr a step, whatever wd and the weight are";
    let (swallowed, alone) = match config.algorithm.unwrap_or_default() {
        Algorithm::Sgd => return clipped_after_l2(config),
        Algorithm::Lion => ("takes the sign of it", by_lr),
        Algorithm::Lamb | Algorithm::AdafactorTorch => (
            "divides it by the size of that gradient and rescales the whole update",
            "a tensor shrinks by about the part lr of itself a step, whatever wd is",
        ),
        _ => ("divides it by sqrt(v), the size of that gradient", by_lr),
    };
    Some(format!(
        "L2 decay is part of the gradient, and the rule {swallowed}. How fast a weight shrinks then depends on its \
         gradients, not on wd alone: where they are large it hardly decays; without any, {alone}. So it has no half-life and no timescale, and no number under another \
         convention does the same. For decay that means what it says: weight_decay.mode = \"decoupled\"."
    ))
}

fn clipped_after_l2(config: &OptimizerConfig) -> Option<String> {
    let clips = after_l2(config).any(|op| !matches!(op, GradientOp::Rescale { .. }));
    clips.then(|| {
        "L2 decay is part of the gradient, and a clip after it cuts both: how fast a weight shrinks depends on its \
         gradients, so it has no half-life, no timescale, and no number under another convention. A clip before l2 in \
         optimizer.gradient would leave the decay alone."
            .to_owned()
    })
}

fn after_l2(config: &OptimizerConfig) -> impl Iterator<Item = &GradientOp> {
    let ops = config.gradient.iter().flatten();
    ops.skip_while(|op| !matches!(op, GradientOp::L2)).skip(1)
}

/// What SGD makes of the decay in its gradient, as a multiple of lr wd.
fn gain(config: &OptimizerConfig) -> f64 {
    let rescaled = after_l2(config).fold(1.0, |product, op| match op {
        GradientOp::Rescale { by } => product * by,
        _ => product,
    });
    let momentum = config.momentum.unwrap_or_default();
    // Without momentum there is no buffer to dampen.
    let dampening = if momentum == 0.0 { 0.0 } else { config.dampening.unwrap_or_default() };
    rescaled * (1.0 - dampening) / (1.0 - momentum)
}

#[allow(clippy::float_cmp)] // exactly 1 without momentum
fn note(gain: f64) -> String {
    if gain == 1.0 {
        return "SGD without momentum: L2 decay is the same as decoupled decay scaled by lr, d = lr wd.".to_owned();
    }
    format!(
        "SGD with momentum: L2 decay passes through the momentum, which repeats it; once that has settled, a weight \
         shrinks by about d = {} lr wd a step (for lr that changes slowly). The numbers below are that.",
        number::short(gain)
    )
}

/// The job with decoupled decay, `gain` times as large in every group.
fn decoupled(config: &OptimizerConfig, gain: f64) -> OptimizerConfig {
    let mut config = config.clone();
    let value = config.weight_decay.take().and_then(|decay| decay.value);
    config.weight_decay = Some(WeightDecayConfig {
        mode: Some(DecayMode::Decoupled),
        value,
        scaled_by: Some(DecayScale::Lr),
        order: Some(DecayOrder::Fused),
        ..WeightDecayConfig::default()
    });
    config.gradient = config.gradient.map(|ops| ops.into_iter().filter(|op| *op != GradientOp::L2).collect());
    for group in &mut config.groups {
        group.decay_mult *= gain;
    }
    let rest = GroupConfig {
        name: "tensors of no group".to_owned(),
        patterns: vec![String::new()],
        rank_max: None,
        lr_mult: 1.0,
        decay_mult: gain,
        lr: None,
    };
    config.groups.push(rest);
    config
}
