//! The same decay under every other convention: what `weight_decay.value` would have to be.

use halflife_optim::{DecayScale, Optimizer, TensorRule, WeightDecayConfig};

use super::layout::{columns, wrapped};
use super::number;

/// A way to scale decay, how it is written, and who does it.
const CONVENTIONS: [(DecayScale, &str, &str, &str); 5] = [
    (DecayScale::Lr, "lr", "lr wd", "PyTorch, Keras, optax, BERT"),
    (DecayScale::CorrectedLr, "corrected_lr", "lr sqrt(bc2)/bc1 wd", "MXNet 0.7"),
    (DecayScale::Schedule, "schedule", "(lr / base lr) wd", "the paper, MXNet contrib"),
    (DecayScale::LrSquared, "lr_squared", "lr (lr / peak lr) wd", "AdamC"),
    (DecayScale::Nothing, "nothing", "wd", "TF contrib, a second SGD"),
];

/// The table for one group. `own` is the job's decay; `gain` is what is hidden in the group's
/// multiplier when `optimizer` is a stand-in for the job's, and belongs to the value.
pub(super) fn lines(optimizer: &Optimizer, rule: &TensorRule, own: &WeightDecayConfig, gain: f64) -> Vec<String> {
    let mut rows =
        vec![["scaled_by", "d at each step", "value", "who"].into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let mut reasons = Vec::new();
    for (scale, name, formula, who) in CONVENTIONS {
        let value = match optimizer.equivalent_decay(rule, scale) {
            Ok(Some(value)) => number::value(value * gain),
            Ok(None) => "none".to_owned(),
            Err(error) => {
                reasons.push(format!("{name} has no such number: {error}."));
                "none".to_owned()
            }
        };
        let own_eta = scale == DecayScale::Schedule && own.schedule.is_some();
        let formula = if own_eta { "eta wd" } else { formula };
        let mark = if own.scaled_by == Some(scale) { " <- this job" } else { "" };
        rows.push(vec![name.to_owned(), formula.to_owned(), value, format!("{who}{mark}")]);
    }
    let mut lines = columns("      ", &rows);
    lines.extend(reasons.iter().flat_map(|reason| wrapped("      ", reason)));
    lines
}
