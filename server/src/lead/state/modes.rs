//! The part of the lead's decisions that depends on the mode: which slots a quorum closes a step with, and
//! the tickets of the asynchronous modes. The decisions themselves are `quorum.rs` and `tickets.rs`; this
//! joins them to membership, servers and the end of the job.

use std::collections::BTreeSet;

use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::job::{Consistency, Mode};
use halflife_proto::manifest::{Manifest, Role};
use halflife_proto::membership::{Order, PushesReport, TicketAnswer};
use halflife_proto::placement::Placement;
use halflife_proto::refusal::{Refusal, RefusalCause};

use super::{Effect, Keeping, LeadState, Settings};
use crate::lead::cuts::Cuts;
use crate::lead::quorum::{Closed, Quorum};
use crate::lead::tickets::{Consequences, Tickets};
use crate::planted::{Bug, planted};

/// What the lead decides besides who computes which slots.
#[derive(Debug)]
pub(super) enum Decider {
    /// Nothing: a step is made of all slots.
    AllSlots,
    /// Which slots make a step.
    Quorum(Quorum),
    /// Who computes which step.
    Tickets(Tickets),
}

impl Decider {
    pub(super) fn new(settings: &Settings) -> Decider {
        let Consistency { mode, staleness, .. } = settings.consistency;
        let slots = settings.slots.slots();
        let begins_with = settings.checkpoints.as_ref().and_then(|keeping| keeping.plan.restore);
        match (mode, settings.consistency.partial_quorum(slots)) {
            (Mode::Sync, None) => Decider::AllSlots,
            (Mode::Sync, Some(quorum)) => {
                let begins_with = begins_with.filter(|_| !planted(Bug::QuorumNotResumed));
                let after = begins_with.map_or(Step::ZERO, |name| name.step);
                Decider::Quorum(Quorum::new(quorum, slots).resumed(after))
            }
            (Mode::Bounded | Mode::Async, _) => {
                let tickets = Tickets::new(settings.steps, staleness);
                let restored = settings.checkpoints.as_ref().and_then(Keeping::settled_tickets);
                Decider::Tickets(match restored {
                    Some((settled, void, torn)) => tickets.resumed(settled, void, torn),
                    None => tickets,
                })
            }
        }
    }
}

impl LeadState {
    // ---- quorum ----

    /// All blocks of a server have these slots of a step.
    pub fn slots_complete(&mut self, index: ServerIndex, step: Step, slots: &[u32]) -> Vec<Effect> {
        let servers = self.changing_servers.len();
        // Nothing is closed that servers may have agreed not to compute.
        if self.ending.as_ref().is_some_and(|ending| step > ending.step) && !planted(Bug::ClosedBeyondTheEnd) {
            return Vec::new();
        }
        let Decider::Quorum(quorum) = &mut self.decider else { return Vec::new() };
        match quorum.report(index, step, slots, servers) {
            Some(Closed { step, slots }) => self.order_all(&Order::Close { step, slots }),
            None => Vec::new(),
        }
    }

    /// What is known of the quorum, in a job that has one.
    #[must_use]
    pub fn quorum(&self) -> Option<&Quorum> {
        match &self.decider {
            Decider::Quorum(quorum) => Some(quorum),
            Decider::AllSlots | Decider::Tickets(_) => None,
        }
    }

    // ---- tickets ----

    /// A worker asks for its ticket of this sequence number.
    ///
    /// # Errors
    /// `FENCED` for one that is no member, `JOB_STOPPED` after the end, `MALFORMED` for a sequence number
    /// out of turn or in a job without tickets.
    pub fn ticket(&mut self, worker: Incarnation, sequence: u64) -> Result<TicketAnswer, Refusal> {
        self.check_not_stopped()?;
        let initialized = self.complete_step().is_some();
        let (hold, now) = (self.rest_after(), self.now);
        let Decider::Tickets(tickets) = &mut self.decider else {
            let what = "request for a ticket";
            return Err(Refusal::mismatch(RefusalCause::Malformed, what, "mode bounded or async", "sync"));
        };
        let is_member = self.workers.contains_key(&worker);
        let granted = tickets.granted();
        let limit = self.cuts.as_mut().map(|cuts| cuts.limit(now, granted));
        let rests = !initialized || hold.into_iter().chain(limit).any(|rest| granted >= rest.0);
        let drained = self.workers.get(&worker).is_some_and(|worker| worker.drained);
        let done = tickets.is_finished() && self.cuts.as_ref().is_none_or(Cuts::is_settled);
        if is_member && (rests || drained || tickets.is_finished()) && !done && tickets.is_new(worker, sequence) {
            return Ok(TicketAnswer::Wait);
        }
        tickets.ask(worker, sequence)
    }

    /// A server has news of pushes.
    pub fn pushes(&mut self, index: ServerIndex, report: &PushesReport) -> Vec<Effect> {
        let servers = self.changing_servers.len();
        let Decider::Tickets(tickets) = &mut self.decider else { return Vec::new() };
        tickets.measure(&report.update_staleness);
        let applied = tickets.applied(index, &report.done, servers);
        let voided = tickets.voided(index, &report.voided, servers);
        let mut effects = self.follow(applied);
        effects.extend(self.follow(voided));
        effects.extend(self.look_for_cut());
        effects
    }

    /// What is known of the tickets, in a job that has them.
    #[must_use]
    pub fn tickets(&self) -> Option<&Tickets> {
        match &self.decider {
            Decider::Tickets(tickets) => Some(tickets),
            Decider::AllSlots | Decider::Quorum(_) => None,
        }
    }

    /// A server has its first weights: if it is the last to, whoever waits for a ticket may ask again.
    pub(super) fn open_tickets(&self) -> Vec<Effect> {
        match self.complete_step() {
            Some(_) => self.workers.keys().copied().map(Effect::TicketReady).collect(),
            None => Vec::new(),
        }
    }

    /// The operator ends the job: no ticket is given any more, and the last one given is its last step.
    pub(super) fn end_tickets(&mut self) -> Option<(Step, Vec<Effect>)> {
        let Decider::Tickets(tickets) = &mut self.decider else { return None };
        let (last, consequences) = tickets.end();
        let mut effects = self.shorten(last);
        effects.extend(self.follow(consequences));
        Some((last, effects))
    }

    /// A worker has joined.
    pub(super) fn admit_to_tickets(&mut self, worker: Incarnation) {
        if let Decider::Tickets(tickets) = &mut self.decider {
            tickets.join(worker);
        }
    }

    /// A worker is gone, by itself or by the end of its lease.
    pub(super) fn void_tickets_of(&mut self, worker: Incarnation) -> Vec<Effect> {
        let Decider::Tickets(tickets) = &mut self.decider else { return Vec::new() };
        let consequences = tickets.remove(worker);
        self.follow(consequences)
    }

    fn follow(&mut self, Consequences { void, ready, finished }: Consequences) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !void.is_empty() {
            let shown: Vec<_> = void.iter().map(ToString::to_string).collect();
            effects.push(Effect::Warn(format!("{} is void: its worker is gone", shown.join(", "))));
            effects.extend(self.order_all(&Order::Void(void)));
        }
        effects.extend(ready.into_iter().map(Effect::TicketReady));
        if finished {
            effects.extend(self.finish_once());
        }
        effects
    }

    /// The newest step that is complete everywhere: with tickets, the one up to which all are settled.
    pub(super) fn settled_step(&self, initialized: Step) -> Step {
        self.tickets().map_or(initialized, Tickets::settled)
    }
}

/// The servers that have blocks that change.
pub(super) fn changing_servers(manifest: &Manifest, placement: &Placement) -> BTreeSet<ServerIndex> {
    let tensors = manifest.tensors().iter().zip(placement.owners());
    let changing = tensors.filter(|(tensor, _)| matches!(tensor.role, Role::Trainable | Role::Buffer));
    let owners = changing.flat_map(|(_, blocks)| blocks.iter().filter_map(|owners| owners.first()));
    owners.copied().collect()
}
