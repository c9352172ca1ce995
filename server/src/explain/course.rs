//! Section 3: lr and decay at chosen steps, as a table and as plots.

use halflife_optim::DecayMode;

use super::group::{self, Group};
use super::layout::{columns, wrapped};
use super::number;
use super::plot::plot;
use super::run::Run;

/// Groups that fit beside each other in the table.
const GROUPS_MAX: usize = 3;

pub(super) fn lines(run: &Run) -> Vec<String> {
    let steps = chosen_steps(run);
    let groups = that_differ(run, &steps);
    let mut lines = Vec::new();
    if groups.len() > 1 || run.config().groups.len() > 1 {
        let titles = groups.iter().zip('A'..).map(|(group, letter)| format!("{letter}: {}", group.title));
        lines.extend(wrapped("  ", &titles.collect::<Vec<_>>().join(";  ")));
        lines.push(String::new());
    }
    lines.extend(columns("  ", &table(run, &groups, &steps)));
    lines.push(String::new());
    lines.extend(wrapped("  ", what_decay_is(run.decay_mode())));
    lines.extend(plots(run, &groups[0]));
    lines
}

fn what_decay_is(mode: DecayMode) -> &'static str {
    match mode {
        DecayMode::None => "There is no weight decay.",
        DecayMode::L2 => "wd is the coefficient of w in the gradient; what it takes off w, section 4 says.",
        DecayMode::L1 => "wd is the coefficient of sign(w) in the gradient.",
        DecayMode::Decoupled => "d is the part that a step takes off a weight: w loses d w.",
    }
}

fn decay_name(mode: DecayMode) -> &'static str {
    if mode == DecayMode::Decoupled { "d" } else { "wd" }
}

/// As asked for; otherwise the first step, the first after the warmup, the quarters, the last.
fn chosen_steps(run: &Run) -> Vec<u64> {
    let last = run.steps();
    let mut steps = run.at.clone();
    if steps.is_empty() {
        let peak = run.optimizer.lr_schedule().warmup_steps().saturating_add(1).min(last);
        let quarter = last.div_ceil(4);
        steps = vec![1, peak, quarter, last.div_ceil(2), last - last / 4, last];
    }
    steps.sort_unstable();
    steps.dedup();
    steps
}

/// The first group, and those whose lr or decay is another at some chosen step; a spared group
/// only for its lr.
fn that_differ(run: &Run, steps: &[u64]) -> Vec<Group> {
    let mut differing: Vec<Group> = Vec::new();
    let alike = |a: &Group, b: &Group| {
        steps.iter().all(|&step| {
            let (a, b) = (run.optimizer.factors(&a.rule, step, step), run.optimizer.factors(&b.rule, step, step));
            a.lr() == b.lr() && (a.decay() == b.decay() || b.decay() == 0.0)
        })
    };
    for group in group::in_play(run) {
        if differing.len() < GROUPS_MAX && !differing.iter().any(|shown| alike(shown, &group)) {
            differing.push(group);
        }
    }
    differing
}

fn table(run: &Run, groups: &[Group], steps: &[u64]) -> Vec<Vec<String>> {
    let decays = run.decay_mode() != DecayMode::None;
    let mut heading = vec!["step".to_owned()];
    heading.extend(run.steps_per_epoch.map(|_| "epoch".to_owned()));
    for letter in ('A'..).take(groups.len()) {
        let of_group = if groups.len() > 1 { format!(" {letter}") } else { String::new() };
        heading.push(format!("lr{of_group}"));
        heading.extend(decays.then(|| format!("{}{of_group}", decay_name(run.decay_mode()))));
    }
    let row = |&step: &u64| {
        let mut row = vec![number::count(step)];
        #[allow(clippy::cast_precision_loss)] // exact below 2^53 steps
        row.extend(run.steps_per_epoch.map(|epoch| format!("{:.2}", (step - 1) as f64 / epoch)));
        for group in groups {
            let factors = run.optimizer.factors(&group.rule, step, step);
            row.push(number::short(factors.lr()));
            row.extend(decays.then(|| number::short(factors.decay())));
        }
        row
    };
    std::iter::once(heading).chain(steps.iter().map(row)).collect()
}

fn plots(run: &Run, group: &Group) -> Vec<String> {
    let at = |step: u64| run.optimizer.factors(&group.rule, step, step);
    let mut lines = vec![String::new()];
    lines.extend(plot("lr", run.steps(), |step| at(step).lr()));
    if group.rule.decays() {
        lines.push(String::new());
        lines.extend(plot(decay_name(run.decay_mode()), run.steps(), |step| at(step).decay()));
    }
    lines
}
