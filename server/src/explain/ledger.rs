//! Section 4: how much of a weight the decay leaves, in half-lives, timescales and other systems'
//! numbers.

use halflife_optim::{DecayLedger, DecayMode, Optimizer, TensorRule};

use super::conventions;
use super::coupled::{self, Coupled};
use super::group::{self, Group};
use super::layout::{columns, hanging, wrapped};
use super::number;
use super::run::Run;
use super::workload::samples_per_step;

pub(super) fn lines(run: &Run) -> Vec<String> {
    match run.decay_mode() {
        DecayMode::None => vec!["  No weight decay is configured: nothing to account for.".to_owned()],
        _ if !group::in_play(run).iter().any(|group| group.rule.decays()) => {
            groups(run, &run.optimizer, &run.optimizer.group_rules(), 1.0)
        }
        DecayMode::Decoupled => decoupled(run),
        DecayMode::L2 | DecayMode::L1 => match coupled::on_the_weight(run) {
            Coupled::Decays { optimizer, rules, gain, note } => {
                let mut lines = wrapped("  ", &note);
                lines.push(String::new());
                lines.extend(groups(run, &optimizer, &rules, gain));
                lines
            }
            Coupled::HasNoFactor { reason } => wrapped("  ", &reason),
        },
    }
}

fn decoupled(run: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    if run.decay().inside_trust_ratio == Some(true) {
        let note = "Decay stands inside LAMB's trust ratio |w| / |r|, which multiplies it: the numbers are those of a \
                    ratio of 1.";
        lines.extend(wrapped("  ", note));
        lines.push(String::new());
    }
    if run.decay().cautious == Some(true) {
        lines.extend(wrapped(
            "  ",
            "Cautious decay spares some weights at each step: the numbers are the most it takes.",
        ));
        lines.push(String::new());
    }
    lines.extend(groups(run, &run.optimizer, &run.optimizer.group_rules(), 1.0));
    lines
}

/// `optimizer` and `rules` are the job's, or those of a decoupled stand-in; see
/// [`conventions::lines`] for `gain`.
fn groups(run: &Run, optimizer: &Optimizer, rules: &[TensorRule], gain: f64) -> Vec<String> {
    let mut lines = Vec::new();
    for group in group::in_play(run) {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(hanging("  ", "    ", &heading(run, &group)));
        if group.rule.decays() {
            lines.extend(one_group(run, optimizer, &rules[group.place], gain));
        }
    }
    lines.extend(how_to_get_epochs(run));
    lines
}

fn heading(run: &Run, group: &Group) -> String {
    let tensors = match (group.tensors.is_empty(), run.tensors.own) {
        (false, _) => format!(" ({})", group.tensors.join(", ")),
        (true, true) => " (no tensor of this model)".to_owned(),
        (true, false) => String::new(),
    };
    let spared = match (group.rule.decays(), group.rule.decay_mult() == 0.0) {
        (true, _) => "",
        (false, true) => ": spared, never decays",
        (false, false) => ": a decay of 0, never decays",
    };
    let mult = group.rule.decay_mult();
    let scaled = if spared.is_empty() && mult != 1.0 { format!(", decay_mult {mult}") } else { String::new() };
    format!("{}{tensors}{scaled}{spared}", group.title)
}

fn one_group(run: &Run, optimizer: &Optimizer, rule: &TensorRule, gain: f64) -> Vec<String> {
    let ledger = optimizer.ledger(rule, run.steps());
    if ledger.log_remaining == f64::NEG_INFINITY {
        return wrapped(
            "    ",
            "sum of ln(1 - d) is -inf: at some step d is 1 or more, and nothing of a weight is left.",
        );
    }
    let mut lines = columns("    ", &totals(run, &ledger));
    if ledger.log_remaining == 0.0 {
        return lines;
    }
    lines.push("    The same decay over this run, as a constant value under each convention:".to_owned());
    lines.extend(conventions::lines(optimizer, rule, run.decay(), gain));
    if run.config().bias_correction != Some(true) {
        lines.push("      (This rule corrects no bias: its corrected_lr is its lr.)".to_owned());
    }
    lines
}

fn totals(run: &Run, ledger: &DecayLedger) -> Vec<Vec<String>> {
    let left = format!("{} % of an untouched weight is left", number::short(100.0 * ledger.remaining()));
    let mut rows = vec![vec!["sum of ln(1 - d)".to_owned(), number::short(ledger.log_remaining), left]];
    for (name, span) in [("half-life", ledger.half_life_steps()), ("EMA timescale", ledger.timescale_steps())] {
        let steps = span.map_or("none".to_owned(), |steps| format!("{} steps", number::short(steps)));
        let epochs = span.zip(run.steps_per_epoch);
        let epochs = epochs.map(|(steps, epoch)| format!("{} epochs", number::short(steps / epoch)));
        rows.push([Some(name.to_owned()), Some(steps), epochs].into_iter().flatten().collect());
    }
    rows
}

fn how_to_get_epochs(run: &Run) -> Vec<String> {
    let text = match (run.steps_per_epoch, samples_per_step(&run.job)) {
        (Some(steps), _) => format!("An epoch is {} steps.", number::short(steps)),
        (None, Some(samples)) => format!(
            "In epochs: --steps-per-epoch N (or optimizer.steps_per_epoch), with N the training samples / {}.",
            number::short(samples)
        ),
        (None, None) => "In epochs: --steps-per-epoch N (or optimizer.steps_per_epoch), with N the training samples / \
                         samples of a step."
            .to_owned(),
    };
    std::iter::once(String::new()).chain(wrapped("  ", &text)).collect()
}
