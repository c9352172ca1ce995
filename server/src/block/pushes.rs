//! The pushes of the asynchronous modes that a block has taken, and which come next.
//!
//! A push is taken once per ticket and never given back: from then on it counts. One is applied at a time,
//! in the order in which they came; the others wait, at most one for each worker.

use std::collections::VecDeque;

use halflife_proto::ids::{Step, Ticket};

use super::gathering::Held;
use crate::planted::{Bug, planted};
use crate::ticket_set::TicketSet;

/// A push that has been taken and is not applied yet.
#[derive(Debug)]
pub(super) struct Pushed {
    pub(super) ticket: Ticket,
    /// The version of the block that the gradient was computed at.
    pub(super) read: Step,
    pub(super) held: Held,
}

/// A push that has been applied, and is seen by whoever reads the block's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its ticket.
    pub ticket: Ticket,
    /// How many updates its gradient had not seen.
    pub staleness: u64,
}

/// The pushes of one block.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    /// Taken or void.
    closed: TicketSet,
    pub(super) applying: Option<Settled>,
    pub(super) waiting: VecDeque<Pushed>,
}

impl Pushes {
    /// None is taken up to this step: the checkpoint that the block goes on from has them, or they are void.
    pub(super) fn resume(&mut self, settled: Step) {
        self.closed = TicketSet::up_to(settled.0);
    }

    /// Whether this ticket is new here; from now on it is not.
    pub(super) fn close(&mut self, ticket: Ticket) -> bool {
        self.closed.insert(ticket.0)
    }

    /// Whether this ticket was new here; it is taken no more.
    pub(super) fn void(&mut self, ticket: Ticket) -> bool {
        match planted(Bug::VoidedPushApplied) {
            true => self.closed.clone().insert(ticket.0),
            false => self.close(ticket),
        }
    }

    /// Whether a ticket that was taken is not applied yet.
    pub(super) fn is_pending(&self, ticket: Ticket) -> bool {
        self.applying.is_some_and(|applying| applying.ticket == ticket)
            || self.waiting.iter().any(|pushed| pushed.ticket == ticket)
    }

    /// Bytes of gradients that wait.
    pub(super) fn bytes(&self) -> usize {
        self.waiting.iter().map(|pushed| pushed.held.payload.bytes()).sum()
    }
}
