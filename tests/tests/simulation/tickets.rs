//! The lead's ticket desk in virtual time, as `lead/ticket_desk.rs` has it: a request waits until there is something to
//! say, but not for ever. And the passages where the tickets' promises are looked at (`ledger.rs`).

use halflife_proto::blocks::BlockId;
use halflife_proto::ids::Incarnation;
use halflife_proto::membership::{PushesReport, TicketAnswer};

use crate::coverage::Transition;
use crate::event::{Down, Event};
use crate::faults::Point;
use crate::ledger::{Kept, Ledger};
use crate::network::ConnectionId;
use crate::promises::Expected;
use crate::world::World;

/// As in `lead/ticket_desk.rs`.
const WAIT_MAX_US: u64 = 1_000_000;
const LOOK_AGAIN_US: u64 = 100_000;

/// A request that waits.
pub struct Asking {
    connection: ConnectionId,
    incarnation: Incarnation,
    sequence: u64,
    begun: u64,
    /// When it looks again.
    look_at: u64,
}

impl Asking {
    /// Whether it came by this connection.
    pub fn is_of(&self, connection: ConnectionId) -> bool {
        self.connection == connection
    }

    /// What it came by.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }
}

impl World<'_> {
    /// A worker asks for a ticket.
    pub(crate) fn lead_asked(&mut self, connection: ConnectionId, incarnation: Incarnation, sequence: u64) {
        let (begun, look_at) = (self.now, self.now);
        self.lead.asking.push(Asking { connection, incarnation, sequence, begun, look_at });
        self.desk_looks(connection);
    }

    /// A request gets its turn.
    pub(crate) fn desk_looks(&mut self, connection: ConnectionId) {
        let now = self.now;
        let place = self.lead.asking.iter().position(|asking| asking.connection == connection && asking.look_at == now);
        let Some(place) = place else { return };
        let Asking { incarnation, sequence, begun, .. } = self.lead.asking[place];
        let answer = self.lead.state.ticket(incarnation, sequence);
        let patience_us = if self.lead.state.is_drained(incarnation) { LOOK_AGAIN_US } else { WAIT_MAX_US };
        if answer == Ok(TicketAnswer::Wait) && now < begun + patience_us {
            return self.look_again(place, LOOK_AGAIN_US);
        }
        self.lead.asking.remove(place);
        let worker = self.network.get(connection).worker;
        match &answer {
            Ok(TicketAnswer::Granted(ticket)) => {
                let numbers = [10, worker as u64, ticket.0, sequence];
                self.trace
                    .note(now, &numbers, || format!("lead: {ticket} to worker {worker} as its number {sequence}"));
                let mut is_new = false;
                self.ledger(|ledger| ledger.grant(incarnation, sequence, *ticket).map(|new| is_new = new));
                self.coverage.pass(if is_new { Transition::Granted } else { Transition::GrantedAgain });
            }
            Ok(TicketAnswer::Wait) => self.coverage.pass(Transition::ToldToWait),
            Ok(TicketAnswer::Finished(step)) => self.ledger(|ledger| ledger.finish(*step)),
            Err(refusal) => self.coverage.count("refusal", refusal.cause),
        }
        let is_granted = matches!(answer, Ok(TicketAnswer::Granted(_)));
        self.push_down(connection, Down::Ticket(answer));
        if is_granted {
            self.reached(Point::Granted, worker);
        }
    }

    fn look_again(&mut self, place: usize, after_us: u64) {
        let asking = &mut self.lead.asking[place];
        asking.look_at = self.now + after_us;
        self.queue.push(asking.look_at, Event::DeskLooks(asking.connection));
    }

    /// A worker that was told to wait need not any more.
    pub(crate) fn call_to_desk(&mut self, incarnation: Incarnation) {
        self.coverage.pass(Transition::TicketReady);
        if let Some(place) = self.lead.asking.iter().position(|asking| asking.incarnation == incarnation) {
            let after_us = self.random.below(300);
            self.look_again(place, after_us);
        }
    }

    // ---- promises ----

    /// Has the ledger look at something, in a job that has one.
    pub(crate) fn ledger(&mut self, look: impl FnOnce(&mut Ledger<'_>) -> Kept) {
        if let Expected::Tickets(ledger) = &mut self.promises.expected
            && let Err(violation) = look(ledger)
        {
            self.promises.fail(violation);
        }
    }

    /// The blocks of a server that change, and how many servers have such.
    fn changing(&self, server: usize) -> (Vec<BlockId>, usize) {
        let of = |server| {
            let mut blocks = self.promises.blocks_of(server, self.lead.state.model());
            blocks.retain(|block| self.scenario.job.changes(block.tensor));
            blocks
        };
        (of(server), (0..self.servers.len()).filter(|server| !of(*server).is_empty()).count())
    }

    /// The lead has taken a server's news of pushes.
    pub(crate) fn check_pushes(&mut self, server: usize, report: &PushesReport) {
        let (blocks, servers) = self.changing(server);
        self.ledger(|ledger| {
            ledger.done(server, &blocks, &report.done, servers)?;
            ledger.voided(server, &blocks, &report.voided, servers)
        });
        let before = self.lead.settled;
        let Some(tickets) = self.lead.state.tickets() else {
            return self.promises.fail("a server tells of pushes in a job without tickets".to_owned());
        };
        let now = (tickets.done(), tickets.void(), tickets.torn());
        if let Expected::Tickets(ledger) = &mut self.promises.expected
            && let Err(violation) = ledger.check_counts(tickets)
        {
            self.promises.fail(violation);
        }
        self.lead.settled = now;
        for (before, now, transition) in [
            (before.0, now.0, Transition::TicketDone),
            (before.1, now.1, Transition::TicketVoid),
            (before.2, now.2, Transition::TicketTorn),
        ] {
            (before..now).for_each(|_| self.coverage.pass(transition));
        }
        self.steps_may_be_complete();
    }

    /// The job is over.
    pub(crate) fn check_end_of_tickets(&mut self) {
        let (Some(tickets), Expected::Tickets(ledger)) = (self.lead.state.tickets(), &self.promises.expected) else {
            return;
        };
        if let Err(violation) = ledger.check_end(tickets) {
            self.promises.fail(violation);
        }
    }
}
