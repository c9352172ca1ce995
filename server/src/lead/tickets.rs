//! Tickets: who computes which step in the asynchronous modes, and who waits.
//!
//! A ticket is the number of a step, given to one push. It is *open* from its grant until every server
//! has applied it on all blocks; then it is *done* and its worker's clock rises. When its worker is gone
//! first, it is *void*: the servers refuse it from then on and say what they had applied of it. A push
//! that was applied on some blocks and not on others is *torn*: what is applied stays, and it is counted.
//! The job is at its end when every ticket is done or void.
//!
//! A worker has at most one open ticket, and gets the next once that is done: so a grant acknowledges
//! the push before, and whatever a worker reads has its own pushes in it. With a bound `s` (stale
//! synchronous parallel: Ho et al., NIPS 2013) it gets none while its clock is more than `s` ahead of the
//! slowest living worker's. Then, of W workers, none makes more than 2 s + 1 pushes between another's
//! grant and the application of its push (from `c - s` to `c + s + 1` for a clock `c`), so an update's
//! staleness is at most (W - 1)(2 s + 1). A worker that is gone holds the others back as long as its push may
//! still be taken: until every server has said what became of it.
//!
//! At most [`TICKETS_OUT_MAX`] tickets are out at a time, open or void and not closed by every server yet: servers refuse a
//! push that this rules out.
//!
//! A plain state machine: no I/O, no clock of its own. It does not know of leases: it is told who is gone.

use std::collections::{BTreeMap, BTreeSet};

use halflife_proto::ids::{Incarnation, ServerIndex, Step, Ticket};
use halflife_proto::membership::{TicketAnswer, VoidedTicket};
use halflife_proto::refusal::{Refusal, RefusalCause};

use crate::planted::{Bug, planted};
use crate::staleness::Distribution;
use crate::ticket_set::TICKETS_OUT_MAX;

/// What the lead knows of the tickets.
#[derive(Clone, Debug)]
pub struct Tickets {
    steps: Step,
    /// Pushes that a worker may start ahead of the slowest; `None`: any number.
    bound: Option<u64>,
    granted: u64,
    workers: BTreeMap<Incarnation, Pusher>,
    open: BTreeMap<Ticket, Open>,
    voiding: BTreeMap<Ticket, Voiding>,
    done: u64,
    voided: u64,
    torn: u64,
    clock_staleness: Distribution,
    update_staleness: Distribution,
}

/// A living worker.
#[derive(Clone, Debug, Default)]
struct Pusher {
    /// Completed pushes, on top of the slowest clock when it joined.
    clock: u64,
    /// Of its newest ticket; 0 before the first.
    sequence: u64,
    /// Its newest ticket.
    ticket: Option<Ticket>,
    /// It was told to wait, and not yet that it need not.
    waits: bool,
}

#[derive(Clone, Debug)]
struct Open {
    worker: Incarnation,
    /// Servers that have applied it on all blocks.
    applied: BTreeSet<ServerIndex>,
}

/// What servers say they had applied of a void ticket.
#[derive(Clone, Debug, Default)]
struct Voiding {
    /// Its worker's.
    clock: u64,
    answered: BTreeSet<ServerIndex>,
    applied: u64,
    missing: u64,
}

/// What follows from an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consequences {
    /// Every server is to refuse these and to say what became of them.
    pub void: Vec<Ticket>,
    /// Workers that were told to wait and would now be told something else.
    pub ready: Vec<Incarnation>,
    /// The last ticket is done or void.
    pub finished: bool,
}

impl Tickets {
    /// The tickets of a job of `steps` steps, none of which is given.
    #[must_use]
    pub fn new(steps: Step, bound: Option<u64>) -> Tickets {
        Tickets {
            steps,
            bound,
            granted: 0,
            workers: BTreeMap::new(),
            open: BTreeMap::new(),
            voiding: BTreeMap::new(),
            done: 0,
            voided: 0,
            torn: 0,
            clock_staleness: Distribution::default(),
            update_staleness: Distribution::default(),
        }
    }

    /// The same, of a job that goes on where a checkpoint was made: every ticket up to `settled` was given and is done, or
    /// one of the void ones.
    #[must_use]
    pub fn resumed(mut self, settled: Step, voided: u64, torn: u64) -> Tickets {
        self.granted = settled.0;
        (self.voided, self.torn) = (voided.min(settled.0), torn);
        self.done = self.granted - self.voided;
        self
    }

    // ---- workers ----

    /// A worker has joined: its clock is the slowest one's. Harmless when it is known.
    pub fn join(&mut self, worker: Incarnation) {
        let fastest =
            self.workers.values().map(|pusher| pusher.clock).max().filter(|_| planted(Bug::JoinerAtFastestClock));
        let clock = fastest.or(self.slowest()).unwrap_or(0);
        self.workers.entry(worker).or_insert(Pusher { clock, ..Pusher::default() });
    }

    /// A worker is gone: its open ticket is void, and whoever waited for it may not have to any more.
    pub fn remove(&mut self, worker: Incarnation) -> Consequences {
        let Some(Pusher { clock, .. }) = self.workers.remove(&worker).filter(|_| !planted(Bug::TicketNeverExpires))
        else {
            return Consequences::default();
        };
        let void: Vec<Ticket> =
            self.open.iter().filter(|(_, open)| open.worker == worker).map(|(ticket, _)| *ticket).collect();
        for ticket in &void {
            self.open.remove(ticket);
            self.voiding.insert(*ticket, Voiding { clock, ..Voiding::default() });
        }
        Consequences { void, ready: self.take_ready(), finished: false }
    }

    /// A worker asks for its ticket of this sequence number.
    ///
    /// # Errors
    /// `FENCED` for a worker that is not known, `MALFORMED` for a sequence number that is neither its
    /// newest nor the one after.
    pub fn ask(&mut self, worker: Incarnation, sequence: u64) -> Result<TicketAnswer, Refusal> {
        let (slowest, slowest_push) = (self.slowest().unwrap_or(0), self.slowest_push());
        let (finished, steps, any_left) = (self.is_finished(), self.steps, self.any_left());
        let Some(pusher) = self.workers.get_mut(&worker) else {
            let message = format!("{worker} is no member, or not any more: it gets no ticket");
            return Err(Refusal::new(RefusalCause::Fenced, message));
        };
        if let Some(ticket) = pusher.ticket.filter(|_| sequence == pusher.sequence) {
            return Ok(TicketAnswer::Granted(ticket));
        }
        if sequence != pusher.sequence + 1 {
            let expected = match pusher.sequence {
                0 => "1".to_owned(),
                newest => format!("{newest} or {}", newest + 1),
            };
            return Err(Refusal::mismatch(RefusalCause::Malformed, "sequence number of a ticket", expected, sequence));
        }
        if finished {
            return Ok(TicketAnswer::Finished(steps));
        }
        let may = may_start(pusher, slowest_push, self.bound, &self.open) && any_left;
        if !may {
            pusher.waits = true;
            return Ok(TicketAnswer::Wait);
        }
        self.granted += 1;
        let ticket = Ticket(self.granted);
        (pusher.sequence, pusher.ticket, pusher.waits) = (sequence, Some(ticket), false);
        self.clock_staleness.add(pusher.clock - slowest, 1);
        self.open.insert(ticket, Open { worker, applied: BTreeSet::new() });
        Ok(TicketAnswer::Granted(ticket))
    }

    /// Whether a request of this sequence number is for another ticket, not for one that was given.
    #[must_use]
    pub fn is_new(&self, worker: Incarnation, sequence: u64) -> bool {
        self.workers.get(&worker).is_some_and(|pusher| sequence == pusher.sequence + 1)
    }

    /// No more tickets than were given: the last one, and what follows for those who wait.
    pub fn end(&mut self) -> (Step, Consequences) {
        self.steps = Step(self.granted);
        let consequences = Consequences { void: Vec::new(), ready: self.take_ready(), finished: self.is_finished() };
        (self.steps, consequences)
    }

    // ---- servers ----

    /// `server` has applied these on all its blocks; `servers` have blocks that change. A ticket that is
    /// not open is passed over: it is done, or void and asked about, or a stranger's, which the server tells again when its
    /// worker pushes it.
    pub fn applied(&mut self, server: ServerIndex, tickets: &[Ticket], servers: usize) -> Consequences {
        for ticket in tickets {
            let Some(open) = self.open.get_mut(ticket) else { continue };
            open.applied.insert(server);
            if open.applied.len() < servers && !planted(Bug::DoneOnOneServer) {
                continue;
            }
            let worker = open.worker;
            self.open.remove(ticket);
            self.done += 1;
            if let Some(pusher) = self.workers.get_mut(&worker) {
                pusher.clock += 1;
            }
        }
        Consequences { void: Vec::new(), ready: self.take_ready(), finished: self.is_finished() }
    }

    /// `server` says what it had applied of void tickets; `servers` have blocks that change.
    pub fn voided(&mut self, server: ServerIndex, answers: &[VoidedTicket], servers: usize) -> Consequences {
        for VoidedTicket { ticket, applied, missing } in answers {
            let Some(voiding) = self.voiding.get_mut(ticket) else { continue };
            if !voiding.answered.insert(server) {
                continue;
            }
            voiding.applied += applied;
            voiding.missing += missing;
            if voiding.answered.len() < servers {
                continue;
            }
            match (voiding.applied, voiding.missing) {
                // The push had come whole before its worker was gone: it counts as any other.
                (_, 0) => self.done += 1,
                (0, _) => self.voided += 1,
                _ => {
                    self.voided += 1;
                    self.torn += 1;
                }
            }
            self.voiding.remove(ticket);
        }
        Consequences { void: Vec::new(), ready: self.take_ready(), finished: self.is_finished() }
    }

    /// So many updates of blocks were so stale.
    pub fn measure(&mut self, update_staleness: &[(u64, u64)]) {
        for (staleness, updates) in update_staleness {
            self.update_staleness.add(*staleness, *updates);
        }
    }

    // ---- decisions ----

    /// The workers that wait and need not any more; they are told once.
    fn take_ready(&mut self) -> Vec<Incarnation> {
        let slowest = self.slowest_push();
        let (finished, any_left) = (self.is_finished(), self.any_left());
        let mut ready = Vec::new();
        for (worker, pusher) in &mut self.workers {
            let answer = finished || (any_left && may_start(pusher, slowest, self.bound, &self.open));
            if pusher.waits && answer {
                pusher.waits = false;
                ready.push(*worker);
            }
        }
        ready
    }

    /// Whether another ticket may be given to anybody.
    fn any_left(&self) -> bool {
        let out = self.open.len() + self.voiding.len();
        self.granted < self.steps.0 && (out as u64) < TICKETS_OUT_MAX
    }

    fn slowest(&self) -> Option<u64> {
        self.workers.values().map(|pusher| pusher.clock).min()
    }

    /// The same, with those that are gone and whose push may still be taken.
    fn slowest_push(&self) -> u64 {
        let gone = self.voiding.values().map(|voiding| voiding.clock);
        self.slowest().into_iter().chain(gone).min().unwrap_or(0)
    }

    // ---- reading ----

    /// Whether every ticket is done or void.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.done + self.voided == self.steps.0
    }

    /// Every ticket up to this one is done or void.
    #[must_use]
    pub fn settled(&self) -> Step {
        let pending = self.open.keys().chain(self.voiding.keys()).min();
        Step(pending.map_or(self.granted, |first| first.0 - 1))
    }

    /// Given so far.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// Applied on every block.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Void, and every server has said what became of them.
    #[must_use]
    pub fn void(&self) -> u64 {
        self.voided
    }

    /// Void ones that some blocks had applied.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// At each grant: how far the worker's clock was ahead of the slowest.
    #[must_use]
    pub fn clock_staleness(&self) -> &Distribution {
        &self.clock_staleness
    }

    /// At each update of a block: how many other updates its gradient had not seen.
    #[must_use]
    pub fn update_staleness(&self) -> &Distribution {
        &self.update_staleness
    }

    /// A living worker's clock.
    #[must_use]
    pub fn clock(&self, worker: Incarnation) -> Option<u64> {
        self.workers.get(&worker).map(|pusher| pusher.clock)
    }

    /// The open ticket of a worker.
    #[must_use]
    pub fn open_ticket(&self, worker: Incarnation) -> Option<Ticket> {
        self.workers.get(&worker)?.ticket.filter(|ticket| self.open.contains_key(ticket))
    }
}

/// Whether a worker may start another push: its last one is done, and it is not too far ahead.
fn may_start(pusher: &Pusher, slowest: u64, bound: Option<u64>, open: &BTreeMap<Ticket, Open>) -> bool {
    let idle = pusher.ticket.is_none_or(|ticket| !open.contains_key(&ticket));
    let bound = bound.map(|bound| bound + u64::from(planted(Bug::StalenessOffByOne)));
    idle && bound.is_none_or(|bound| pusher.clock - slowest <= bound)
}

#[cfg(test)]
#[path = "tickets_tests.rs"]
mod tests;
