//! What a member does in the asynchronous modes, as `member/pushing.rs` of the client does it: a ticket, the newest
//! weights behind a mark, the push computed at them. Asked again until answered, marked again until it is back, pushed
//! again where a stream was opened since.

use std::collections::VecDeque;

use halflife_client::simulation::{Sight, Snapshot};
use halflife_proto::contribution::Push;
use halflife_proto::ids::{ServerIndex, Step, Ticket};
use halflife_proto::membership::TicketAnswer;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::slots::SlotRange;

use crate::coverage::Transition;
use crate::event::{Timer, Up};
use crate::gradient::slot_gradient;
use crate::network::{ConnectionId, Kind};
use crate::streams::BACKOFF_MIN_US;
use crate::working::{Activity, Sent};
use crate::world::World;

/// As in the client.
const MARK_PATIENCE_US: u64 = 5_000_000;
const FLUSH_PATIENCE_US: u64 = 500_000;

/// What goes to each server.
pub type Parts = Vec<(usize, VecDeque<Up>)>;

/// Where a worker is with its tickets.
pub struct Pushing {
    /// Of the newest ticket; 0 before the first.
    sequence: u64,
    held: Option<(Ticket, Snapshot)>,
    /// The push that is not acknowledged by another ticket, and the streams opened before it was sent.
    pushed: Option<(u64, Parts)>,
    marks: u64,
    snapshot: Option<Snapshot>,
    backoff_us: u64,
}

impl Pushing {
    /// No ticket yet.
    pub fn new() -> Pushing {
        Pushing { sequence: 0, held: None, pushed: None, marks: 0, snapshot: None, backoff_us: BACKOFF_MIN_US }
    }

    /// Whether a ticket is held that is not pushed.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

/// Why a member reads the newest weights.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    Granted(Ticket),
    Finished(Step),
    /// So that leaving tears no push.
    Leaving,
}

impl World<'_> {
    /// The ticket that is held is computed, or the next one asked for.
    pub(crate) fn next_push(&mut self, worker: usize) {
        let root = self.scenario.job.root();
        let Some(member) = self.workers[worker].member() else { return };
        match &member.pushing.held {
            Some((ticket, snapshot)) => {
                let (step, weights) = (ticket.step(), snapshot.weights().clone());
                member.activity = Activity::Computing { step, nodes: VecDeque::from([root]), weights };
                self.workers[worker].blocks_sent = 0;
                let own_us = u64::from(root.count()) * self.workers[worker].slot_us;
                self.set_timer(worker, own_us, Timer::Computed);
            }
            // Nobody else has a push that a stream lacks: it is sent before anything is asked for.
            None if member.pushing.pushed.as_ref().is_some_and(|(before, _)| *before < member.opened) => {
                self.push_again(worker);
            }
            None => self.ask_for_ticket(worker),
        }
    }

    fn ask_for_ticket(&mut self, worker: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        let sequence = member.pushing.sequence + 1;
        let call = self.open(worker, self.servers.len(), Kind::Call, Up::Ticket(sequence));
        if let Some(member) = self.workers[worker].member() {
            member.activity = Activity::Asking(Some(call));
        }
    }

    /// No answer came: it is asked for again.
    pub(crate) fn asking_failed(&mut self, worker: usize, connection: ConnectionId) {
        let Some(member) = self.workers[worker].member() else { return };
        if !matches!(member.activity, Activity::Asking(Some(call)) if call == connection) {
            return;
        }
        member.activity = Activity::Asking(None);
        let backoff_us = member.pushing.backoff_us;
        let (wait, next) = self.next_backoff(backoff_us);
        if let Some(member) = self.workers[worker].member() {
            member.pushing.backoff_us = next;
        }
        self.set_timer(worker, wait, Timer::Ask);
    }

    pub(crate) fn ask_again(&mut self, worker: usize) {
        if let Some(member) = self.workers[worker].member()
            && matches!(member.activity, Activity::Asking(None))
        {
            self.ask_for_ticket(worker);
        }
    }

    pub(crate) fn ticket_answered(
        &mut self,
        worker: usize,
        connection: ConnectionId,
        answer: Result<TicketAnswer, Refusal>,
    ) {
        let Some(member) = self.workers[worker].member() else { return };
        if !matches!(member.activity, Activity::Asking(Some(call)) if call == connection) {
            return;
        }
        member.activity = Activity::Waiting;
        member.pushing.backoff_us = BACKOFF_MIN_US;
        match answer {
            Ok(TicketAnswer::Wait) => self.push_again(worker),
            Ok(TicketAnswer::Granted(ticket)) => {
                member.pushing.pushed = None;
                member.decisions.note_ticket(ticket.step());
                self.read_newest(worker, Reading::Granted(ticket));
            }
            Ok(TicketAnswer::Finished(step)) => self.read_newest(worker, Reading::Finished(step)),
            Err(refusal) if refusal.cause == RefusalCause::Fenced => self.rejoin(worker),
            Err(refusal) if refusal.cause == RefusalCause::WrongGeneration => {
                self.coverage.pass(Transition::HeardOfAGeneration);
                self.rejoin(worker);
            }
            // Nobody leads just now.
            Err(refusal) if refusal.cause == RefusalCause::NotReady => {
                member.activity = Activity::Asking(Some(connection));
                self.asking_failed(worker, connection);
            }
            // A notice says so, too.
            Err(refusal) if refusal.cause == RefusalCause::JobStopped => {}
            Err(refusal) => self.promises.fail(format!("an honest worker gets no ticket: {refusal}")),
        }
    }

    /// A stream was opened again: whoever only waits for a ticket looks first whether its push is there.
    pub(crate) fn push_may_be_lost(&mut self, worker: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        let opened = member.opened;
        match (&member.activity, &member.pushing.pushed) {
            (Activity::Asking(call), Some((before, _))) if *before < opened => {
                let call = *call;
                member.activity = Activity::Waiting;
                if let Some(call) = call {
                    self.close(call);
                }
                self.push_again(worker);
            }
            _ => self.changed(worker),
        }
    }

    /// Sends the newest push once more if a stream was opened since.
    fn push_again(&mut self, worker: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        let opened = member.opened;
        match member.pushing.pushed.take_if(|(before, _)| *before < opened) {
            Some((_, parts)) => {
                self.coverage.pass(Transition::PushedAgain);
                self.send_push(worker, parts);
            }
            None => self.changed(worker),
        }
    }

    /// The gradient of the ticket that is held is there.
    pub(crate) fn push_computed(&mut self, worker: usize, step: Step, node: SlotRange) {
        let (job, servers) = (&self.scenario.job, self.servers.len());
        let Some(member) = self.workers[worker].member() else { return };
        let Some((ticket, snapshot)) = member.pushing.held.take() else { return };
        let values = &snapshot.weights().values;
        let gradient = member.decisions.sum(node, |slot| slot_gradient(job, step, slot, values));
        let push = Push { ticket, sequence: member.pushing.sequence };
        let cut = |server: usize| {
            let pushes = member.decisions.pushes(ServerIndex(server as u32), push, &snapshot, &gradient);
            pushes.into_iter().map(Up::Contribution).collect()
        };
        let parts = (0..servers).map(|server| (server, cut(server))).collect();
        self.send_push(worker, parts);
    }

    fn send_push(&mut self, worker: usize, parts: Parts) {
        let Some(member) = self.workers[worker].member() else { return };
        let opened = member.opened;
        member.pushing.pushed = Some((opened, parts.clone()));
        member.activity = Activity::Sending { sent: Sent::Push, opened, left: parts, then: None };
        self.sending_may_go_on(worker);
    }

    // ---- the newest weights ----

    fn read_newest(&mut self, worker: usize, why: Reading) {
        let Some(member) = self.workers[worker].member() else { return };
        let wanted = member.pushing.marks + 1;
        self.send_marks(worker, wanted, why);
    }

    fn send_marks(&mut self, worker: usize, wanted: u64, why: Reading) {
        let servers = self.servers.len();
        let Some(member) = self.workers[worker].member() else { return };
        member.pushing.marks += 1;
        let number = member.pushing.marks;
        member.activity = Activity::Reading { wanted, opened: member.opened, why };
        let mut queued = Vec::new();
        for stream in member.streams.iter_mut().take(servers).filter(|stream| stream.is_open) {
            stream.shipments.push_back(VecDeque::from([Up::Mark(number)]));
            queued.extend(stream.connection);
        }
        if number > wanted {
            self.coverage.pass(Transition::MarkedAgain);
        }
        self.set_timer(worker, MARK_PATIENCE_US, Timer::Mark(number));
        for connection in queued {
            self.pump_up(connection);
        }
    }

    /// A mark is not back: another is sent, unless one was.
    pub(crate) fn mark_is_late(&mut self, worker: usize, number: u64) {
        if let Some(member) = self.workers[worker].member()
            && let Activity::Reading { wanted, why, .. } = member.activity
            && member.pushing.marks == number
        {
            self.send_marks(worker, wanted, why);
        }
    }

    /// A mark is back from a server.
    pub(crate) fn mark_back(&mut self, worker: usize, server: usize, number: u64) {
        let Some(member) = self.workers[worker].member() else { return };
        if let Some(snapshot) = member.decisions.mark(ServerIndex(server as u32), number) {
            member.pushing.snapshot = Some(snapshot);
            self.changed(worker);
        }
    }

    /// Something has changed while the newest weights were read.
    pub(crate) fn reading_may_be_over(&mut self, worker: usize, wanted: u64, opened: u64, why: Reading) {
        let Some(member) = self.workers[worker].member() else { return };
        let snapshot = member.pushing.snapshot.clone().filter(|snapshot| snapshot.mark() >= wanted);
        let Some(snapshot) = snapshot else {
            if member.opened > opened {
                self.send_marks(worker, wanted, why);
            }
            return;
        };
        self.coverage.pass(Transition::SnapshotTaken);
        self.check_snapshot(worker, &snapshot, why);
        let Some(member) = self.workers[worker].member() else { return };
        member.activity = Activity::Waiting;
        match why {
            Reading::Granted(ticket) => {
                member.pushing.sequence += 1;
                member.pushing.held = Some((ticket, snapshot));
            }
            Reading::Finished(step) => member.decisions.finish_with(step, &snapshot),
            Reading::Leaving => return self.say_goodbye(worker),
        }
        self.changed(worker);
    }

    fn check_snapshot(&mut self, worker: usize, snapshot: &Snapshot, why: Reading) {
        let ticket = match why {
            Reading::Granted(ticket) => Some(ticket),
            Reading::Finished(_) => None,
            Reading::Leaving => return,
        };
        if !self.is_up_to_date(worker) {
            return;
        }
        let crate::worker::State::Member(member) = &self.workers[worker].state else { return };
        if let crate::promises::Expected::Tickets(ledger) = &mut self.promises.expected
            && let Err(violation) = ledger.check_snapshot(ticket, member.decisions.blocks_of_snapshot(snapshot))
        {
            self.promises.fail(format!("worker {worker}: {violation}"));
        }
    }

    /// Leaving waits until the newest push has been read everywhere, but not for long. Whether it waits.
    pub(crate) fn flush(&mut self, worker: usize) -> bool {
        let Some(member) = self.workers[worker].member() else { return false };
        if member.pushing.pushed.is_none() {
            return false;
        }
        self.read_newest(worker, Reading::Leaving);
        self.set_timer(worker, FLUSH_PATIENCE_US, Timer::Flush);
        true
    }

    pub(crate) fn flush_is_over(&mut self, worker: usize) {
        if let Some(member) = self.workers[worker].member()
            && matches!(member.activity, Activity::Reading { why: Reading::Leaving, .. })
        {
            self.say_goodbye(worker);
        }
    }

    /// What a member with tickets does when it has time.
    pub(crate) fn look_for_push(&mut self, worker: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        match member.decisions.look() {
            Sight::Finished => self.leave(worker),
            // What is held is computed first: a ticket that is handed back is lost to the job.
            _ if member.is_drained && !member.pushing.is_held() => self.leave(worker),
            Sight::Initialize => self.begin_to_initialize(worker),
            _ => self.next_push(worker),
        }
    }
}
