//! Decides what work there is, from what is known: assignments, weights, nodes sent. No I/O.
//!
//! Repeated and superfluous work is harmless (the servers count each node once), missing work stops
//! the job: whatever is assigned and not known to be sent is work.

use halflife_proto::ids::Step;
use halflife_proto::job::{Consistency, Wire};
use halflife_proto::membership::Assignment;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::slots::{SlotRange, SlotTree};

use crate::planted::{Bug, planted};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Make the initial weights.
    Initialize,
    /// Compute these nodes of this step, at the weights of the step before.
    Compute { step: Step, nodes: Vec<SlotRange> },
    /// The weights at hand are the last.
    Finished,
    /// Nothing, until something arrives.
    Wait,
}

/// Whether nodes of several slots are refused: by a lossy wire, which encodes each slot alone, and by a
/// quorum. A push is all slots on any wire.
pub(crate) fn takes_single_slots(consistency: Consistency, slots: u32, wire: Wire) -> bool {
    let chooses = consistency.partial_quorum(slots).is_some();
    !consistency.mode.has_tickets() && (wire.gradients.is_lossy() || chooses)
}

/// All that bears on the next decision.
#[derive(Clone, Debug)]
pub(crate) struct WorkState {
    tree: SlotTree,
    last_step: Step,
    /// In effect or still to come, by rising epoch and rising first step: the one in effect at a step
    /// is the last whose first step is not beyond it.
    assignments: Vec<Assignment>,
    epoch: Option<u64>,
    /// Newest complete weights.
    weights: Option<Step>,
    /// What was sent for step `sent_step`.
    sent: Vec<SlotRange>,
    sent_step: Step,
    /// Some server has no weights yet.
    uninitialized: bool,
    initial_weights_sent: bool,
    /// Steps beyond it are not started.
    hold: Option<Step>,
    /// Slots are handed out one by one: on a lossy wire each is encoded alone (DESIGN.md rule 2), and a
    /// quorum chooses among them.
    single_slots: bool,
    /// In the asynchronous modes: the step of the newest ticket.
    ticket: Option<Step>,
    /// The lead has said that the job is done.
    finished: bool,
    /// The last weights alone do not say so.
    awaits_finish: bool,
}

impl WorkState {
    /// Nothing known of a job of `steps` steps, which is computed node by node or slot by slot.
    pub(crate) fn new(tree: SlotTree, steps: u64, single_slots: bool) -> WorkState {
        WorkState {
            tree,
            last_step: Step(steps),
            assignments: Vec::new(),
            epoch: None,
            weights: None,
            sent: Vec::new(),
            sent_step: Step::ZERO,
            uninitialized: false,
            initial_weights_sent: false,
            hold: None,
            single_slots,
            ticket: None,
            finished: false,
            awaits_finish: false,
        }
    }

    /// The job keeps checkpoints: it is done when the lead says so, not with the last weights.
    pub(crate) fn await_finish(&mut self) {
        self.awaits_finish = true;
    }

    /// The job's slots.
    pub(crate) fn tree(&self) -> SlotTree {
        self.tree
    }

    /// The step whose weights are the result.
    pub(crate) fn last_step(&self) -> Step {
        self.last_step
    }

    /// The step being computed: 0 before there are weights.
    pub(crate) fn current_step(&self) -> Step {
        if let Some(ticket) = self.ticket {
            return ticket;
        }
        self.weights.map_or(Step::ZERO, |weights| weights.next().min(self.last_step))
    }

    /// The lead assigns; one that is not newer than those known says nothing new.
    ///
    /// # Errors
    /// `MISALIGNED_SLOTS` for a range that is not a node of the job's tree; nothing has changed then.
    pub(crate) fn assign(&mut self, assignment: Assignment) -> Result<(), Refusal> {
        if let Some(range) = assignment.nodes.iter().find(|range| !self.tree.is_node(**range)) {
            let expected = format!("nodes of {}", self.tree.root());
            return Err(Refusal::mismatch(RefusalCause::MisalignedSlots, "assignment", expected, range));
        }
        if self.epoch.is_some_and(|epoch| assignment.epoch <= epoch) {
            return Ok(());
        }
        self.epoch = Some(assignment.epoch);
        self.assignments.retain(|older| older.from_step < assignment.from_step);
        self.assignments.push(assignment);
        self.forget_ended();
        Ok(())
    }

    /// A server has no weights.
    pub(crate) fn note_uninitialized(&mut self) {
        self.uninitialized = true;
    }

    /// This worker has sent the initial weights.
    pub(crate) fn note_initialized(&mut self) {
        self.initial_weights_sent = true;
    }

    /// A version is complete; an older one than the newest says nothing new.
    pub(crate) fn receive_weights(&mut self, step: Step) {
        if self.weights.is_none_or(|newest| newest < step) {
            self.weights = Some(step);
            self.forget_ended();
        }
    }

    /// The lead has given this worker a ticket, which nobody gets before every server has weights.
    pub(crate) fn note_ticket(&mut self, step: Step) {
        self.ticket = Some(step);
        self.uninitialized = false;
    }

    /// This worker has sent a node.
    pub(crate) fn note_sent(&mut self, step: Step, node: SlotRange) {
        if step > self.sent_step {
            self.sent.clear();
            self.sent_step = step;
        }
        if step == self.sent_step && !self.sent.iter().any(|sent| sent.covers(node)) {
            self.sent.push(node);
        }
    }

    /// What was sent may not have arrived everywhere: all that is assigned is work again. What did
    /// arrive counts once.
    pub(crate) fn forget_sent(&mut self) {
        if planted(Bug::SentNotForgotten) {
            return;
        }
        self.sent.clear();
        self.initial_weights_sent = false;
    }

    /// The job ends with the weights of this step.
    pub(crate) fn finish(&mut self, step: Step) {
        self.last_step = self.last_step.min(step);
        self.finished = true;
    }

    /// No step beyond this one is started; `None`: any is.
    pub(crate) fn hold(&mut self, after: Option<Step>) {
        self.hold = after;
    }

    /// What to do next.
    pub(crate) fn decide(&self) -> Decision {
        let Some(weights) = self.weights else {
            let asked = self.assignments.last().is_some_and(|newest| newest.initialize);
            return match asked && self.uninitialized && !self.initial_weights_sent {
                true => Decision::Initialize,
                false => Decision::Wait,
            };
        };
        if weights >= self.last_step {
            // Whoever left now could be missed: the job may have to go back until its last checkpoint is made.
            return if self.finished || !self.awaits_finish { Decision::Finished } else { Decision::Wait };
        }
        let step = weights.next();
        match self.nodes_left(step) {
            nodes if nodes.is_empty() => Decision::Wait,
            nodes => Decision::Compute { step, nodes },
        }
    }

    /// Whether weights of `step`, were they at hand, would give this worker something to do.
    pub(crate) fn needs_weights(&self, step: Step) -> bool {
        self.weights.is_none_or(|newest| newest < step)
            && (step >= self.last_step || !self.nodes_left(step.next()).is_empty())
    }

    /// The assigned nodes of a step, less what was sent of them.
    fn nodes_left(&self, step: Step) -> Vec<SlotRange> {
        if self.hold.is_some_and(|hold| step > hold) {
            return Vec::new();
        }
        let sent: &[SlotRange] = if self.sent_step == step { &self.sent } else { &[] };
        let mut left = Vec::new();
        if let Some(assignment) = self.assignments.iter().rfind(|assignment| assignment.from_step <= step) {
            for node in &assignment.nodes {
                collect_unsent(*node, sent, &mut left);
            }
        }
        if self.single_slots { left.into_iter().flat_map(leaves).collect() } else { left }
    }

    /// Drops assignments that another follows before the step to come.
    fn forget_ended(&mut self) {
        let step = self.weights.map_or(Step::ZERO, Step::next);
        let in_effect = self.assignments.iter().rposition(|assignment| assignment.from_step <= step);
        self.assignments.drain(..in_effect.unwrap_or(0));
    }
}

fn leaves(node: SlotRange) -> impl Iterator<Item = SlotRange> {
    (node.begin..node.end).map(|slot| SlotRange { begin: slot, end: slot + 1 })
}

/// The fewest nodes below `node` that nothing sent covers.
fn collect_unsent(node: SlotRange, sent: &[SlotRange], left: &mut Vec<SlotRange>) {
    if sent.iter().any(|sent| sent.covers(node)) {
        return;
    }
    let overlaps = |sent: &SlotRange| sent.begin < node.end && node.begin < sent.end;
    match node.children() {
        Some((first, second)) if sent.iter().any(overlaps) => {
            collect_unsent(first, sent, left);
            collect_unsent(second, sent, left);
        }
        _ => left.push(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a line of a table does to the state.
    enum Event {
        Assign(u64, u64, &'static [(u32, u32)]),
        AssignInitializer(u64),
        Uninitialized,
        Initialized,
        Weights(u64),
        Ticket(u64),
        Sent(u64, (u32, u32)),
        ForgetSent,
        Hold(Option<u64>),
        Finish(u64),
    }
    use Event::*;

    fn range((begin, end): (u32, u32)) -> SlotRange {
        SlotRange::new(begin, end).unwrap()
    }

    fn feed(state: &mut WorkState, event: &Event) {
        let assignment = |epoch, from_step, nodes: &[(u32, u32)], initialize| Assignment {
            epoch,
            from_step: Step(from_step),
            nodes: nodes.iter().copied().map(range).collect(),
            initialize,
        };
        match event {
            Assign(epoch, from, nodes) => state.assign(assignment(*epoch, *from, nodes, false)).unwrap(),
            AssignInitializer(epoch) => state.assign(assignment(*epoch, 0, &[(0, 8)], true)).unwrap(),
            Uninitialized => state.note_uninitialized(),
            Initialized => state.note_initialized(),
            Weights(step) => state.receive_weights(Step(*step)),
            Ticket(step) => state.note_ticket(Step(*step)),
            Sent(step, node) => state.note_sent(Step(*step), range(*node)),
            ForgetSent => state.forget_sent(),
            Hold(after) => state.hold(after.map(Step)),
            Finish(step) => state.finish(Step(*step)),
        }
    }

    /// Feeds a table to a job of 8 slots and 10 steps and compares the decision after each line.
    fn play(table: &[(Event, &str)]) {
        let mut state = WorkState::new(SlotTree::new(8).unwrap(), 10, false);
        for (line, (event, expected)) in table.iter().enumerate() {
            feed(&mut state, event);
            let found = match state.decide() {
                Decision::Initialize => "initialize".to_owned(),
                Decision::Wait => "wait".to_owned(),
                Decision::Finished => "finished".to_owned(),
                Decision::Compute { step, nodes } => {
                    let nodes: Vec<_> = nodes.iter().map(|node| format!("{}-{}", node.begin, node.end)).collect();
                    format!("{}: {}", step.0, nodes.join(" "))
                }
            };
            assert_eq!(found, *expected, "line {line}");
        }
    }

    #[test]
    fn on_a_lossy_wire_slots_are_work_one_by_one() {
        let mut state = WorkState::new(SlotTree::new(8).unwrap(), 10, true);
        feed(&mut state, &Assign(1, 1, &[(0, 2), (4, 8)]));
        feed(&mut state, &Weights(0));
        for sent in [5, 0] {
            feed(&mut state, &Sent(1, (sent, sent + 1)));
        }
        let Decision::Compute { nodes, .. } = state.decide() else { panic!("expected work") };
        assert_eq!(nodes, [(1, 2), (4, 5), (6, 7), (7, 8)].map(range));
    }

    #[test]
    fn a_step_is_computed_once_its_weights_are_there() {
        play(&[
            (Assign(1, 1, &[(0, 4)]), "wait"),
            (Weights(0), "1: 0-4"),
            (Sent(1, (0, 4)), "wait"),
            (Weights(1), "2: 0-4"),
            (Weights(4), "5: 0-4"),
            (Weights(3), "5: 0-4"),
        ]);
    }

    #[test]
    fn nodes_assigned_in_the_middle_of_a_step_are_work_of_that_step() {
        play(&[
            (Weights(2), "wait"),
            (Assign(1, 1, &[(0, 2)]), "3: 0-2"),
            (Sent(3, (0, 2)), "wait"),
            (Assign(2, 3, &[(0, 2), (4, 8)]), "3: 4-8"),
            (Assign(3, 3, &[(0, 8)]), "3: 2-4 4-8"),
            (Sent(3, (4, 8)), "3: 2-4"),
            (Assign(4, 3, &[(0, 1)]), "wait"),
            (Weights(3), "4: 0-1"),
        ]);
    }

    #[test]
    fn an_assignment_waits_for_its_step_and_the_one_before_stays_till_then() {
        play(&[
            (Weights(0), "wait"),
            (Assign(1, 1, &[(0, 8)]), "1: 0-8"),
            (Assign(2, 3, &[(0, 4)]), "1: 0-8"),
            (Weights(1), "2: 0-8"),
            (Weights(2), "3: 0-4"),
            (Assign(3, 5, &[(0, 2)]), "3: 0-4"),
            (Assign(4, 4, &[(4, 8)]), "3: 0-4"),
            (Weights(5), "6: 4-8"),
        ]);
    }

    #[test]
    fn an_older_assignment_that_arrives_late_is_ignored() {
        play(&[
            (Weights(0), "wait"),
            (Assign(5, 1, &[(0, 4)]), "1: 0-4"),
            (Assign(4, 1, &[(4, 8)]), "1: 0-4"),
            (Assign(5, 1, &[(4, 8)]), "1: 0-4"),
        ]);
    }

    #[test]
    fn an_assignment_of_slots_that_are_no_node_is_refused() {
        let mut state = WorkState::new(SlotTree::new(8).unwrap(), 10, false);
        let nodes = vec![range((0, 4)), range((3, 5))];
        let refusal = state.assign(Assignment { epoch: 1, from_step: Step(1), nodes, initialize: false }).unwrap_err();
        assert_eq!(refusal.cause, RefusalCause::MisalignedSlots);
        assert!(refusal.to_string().contains("found slots [3, 5)"), "{refusal}");
    }

    #[test]
    fn a_spare_only_waits_until_the_end() {
        play(&[(Assign(1, 1, &[]), "wait"), (Weights(7), "wait"), (Weights(10), "finished")]);
    }

    #[test]
    fn the_initializer_initializes_once_and_only_without_weights() {
        play(&[
            (AssignInitializer(1), "wait"),
            (Uninitialized, "initialize"),
            (Initialized, "wait"),
            (AssignInitializer(2), "wait"),
            (Weights(0), "1: 0-8"),
        ]);
        play(&[(Uninitialized, "wait"), (AssignInitializer(1), "initialize"), (Weights(0), "1: 0-8")]);
    }

    #[test]
    fn whoever_has_had_a_ticket_does_not_initialize_again_after_a_reconnection() {
        play(&[
            (AssignInitializer(1), "wait"),
            (Uninitialized, "initialize"),
            (Initialized, "wait"),
            (ForgetSent, "initialize"),
            (Initialized, "wait"),
            (Ticket(1), "wait"),
            (ForgetSent, "wait"),
        ]);
    }

    #[test]
    fn an_early_finish_waits_for_its_weights() {
        play(&[
            (Assign(1, 1, &[(0, 8)]), "wait"),
            (Weights(3), "4: 0-8"),
            (Finish(4), "4: 0-8"),
            (Weights(4), "finished"),
        ]);
    }

    #[test]
    fn a_job_that_rests_finishes_the_step_it_rests_after() {
        play(&[
            (Assign(1, 1, &[(0, 8)]), "wait"),
            (Weights(3), "4: 0-8"),
            (Hold(Some(4)), "4: 0-8"),
            (Weights(4), "wait"),
            (Hold(None), "5: 0-8"),
        ]);
    }

    #[test]
    fn what_may_be_lost_is_work_again() {
        play(&[
            (Assign(1, 1, &[(0, 8)]), "wait"),
            (Weights(3), "4: 0-8"),
            (Sent(4, (0, 4)), "4: 4-8"),
            (Sent(4, (4, 8)), "wait"),
            (ForgetSent, "4: 0-8"),
        ]);
        play(&[
            (AssignInitializer(1), "wait"),
            (Uninitialized, "initialize"),
            (Initialized, "wait"),
            (ForgetSent, "initialize"),
        ]);
    }

    #[test]
    fn contributions_to_a_past_step_hide_no_work() {
        play(&[
            (Assign(1, 1, &[(0, 8)]), "wait"),
            (Weights(3), "4: 0-8"),
            (Sent(3, (0, 8)), "4: 0-8"),
            (Sent(4, (0, 4)), "4: 4-8"),
            (Sent(3, (0, 8)), "4: 4-8"),
        ]);
    }

    #[test]
    fn weights_are_needed_when_there_is_work_at_them() {
        let mut state = WorkState::new(SlotTree::new(8).unwrap(), 10, false);
        assert!(!state.needs_weights(Step(3)));
        assert!(state.needs_weights(Step(10)), "the last weights are the result");
        feed(&mut state, &Assign(1, 4, &[(0, 8)]));
        assert!(!state.needs_weights(Step(2)));
        assert!(state.needs_weights(Step(3)));
        feed(&mut state, &Weights(3));
        assert!(!state.needs_weights(Step(3)));
    }
}
