//! The groups that can hold tensors, each with the tensors known to be in it.

use halflife_optim::TensorRule;

use super::run::Run;

/// Tensors that learn and decay alike.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) rule: TensorRule,
    /// Its place in [`halflife_optim::Optimizer::group_rules`].
    pub(super) place: usize,
    /// For headings.
    pub(super) title: String,
    /// The job's own tensors in it; empty when they are not known.
    pub(super) tensors: Vec<String>,
}

/// The groups in play: those that decay first, otherwise tensors of no group, then the groups in
/// the order written.
pub(super) fn in_play(run: &Run) -> Vec<Group> {
    let rules = run.optimizer.group_rules().into_iter().enumerate();
    let groups =
        rules.map(|(place, rule)| Group { title: title(run, &rule), tensors: tensors(run, &rule), rule, place });
    let reachable = |group: &Group| group.rule.group().is_some() || default_is_reachable(run);
    let mut groups: Vec<Group> = groups.filter(reachable).collect();
    groups.sort_by_key(|group| !group.rule.decays());
    groups
}

/// Whether a tensor that no pattern names would be of no group: a last group may take all.
fn default_is_reachable(run: &Run) -> bool {
    let (no_name, no_rank) = ("\u{0}", [1; 16]);
    run.optimizer.tensor(no_name, &no_rank).group().is_none()
}

fn title(run: &Run, rule: &TensorRule) -> String {
    match rule.group() {
        Some(name) => format!("group {name:?}"),
        None if run.config().groups.is_empty() => "all tensors".to_owned(),
        None => "tensors of no group".to_owned(),
    }
}

fn tensors(run: &Run, rule: &TensorRule) -> Vec<String> {
    let tensors = run.tensors.iter().filter(|_| run.tensors.own);
    let inside = tensors.filter(|(name, shape)| run.optimizer.tensor(name, shape) == *rule);
    inside.map(|(name, _)| name.to_owned()).collect()
}
