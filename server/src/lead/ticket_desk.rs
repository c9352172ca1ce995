//! Where workers wait for tickets: the edge around `tickets.rs`.
//!
//! A request waits on the lead until there is something to say, but not for ever: a connection that is cut
//! unseen must not hold it. Each worker is woken by name, so that a ticket done by one of a thousand
//! workers does not wake the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halflife_proto::ids::Incarnation;
use halflife_proto::membership::TicketAnswer;
use halflife_proto::refusal::Refusal;
use halflife_proto::v1;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Lead, Quorum, Tickets};

/// How long a request waits at most.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A request that is told to wait looks again after so long in any case: before the job is initialized,
/// and when it stops, nobody is called.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct TicketDesk {
    waiting: Mutex<HashMap<Incarnation, Arc<Notify>>>,
}

impl TicketDesk {
    /// Wakes a worker's request, now or as soon as it waits.
    pub(super) fn call(&self, worker: Incarnation) {
        if let Some(bell) = self.lock().get(&worker) {
            bell.notify_one();
        }
    }

    fn wait(&self, worker: Incarnation) -> Waiting<'_> {
        Waiting { desk: self, worker, bell: self.lock().entry(worker).or_default().clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Incarnation, Arc<Notify>>> {
        // Moving handles in and out does not panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits, until it is answered or its connection is gone.
struct Waiting<'a> {
    desk: &'a TicketDesk,
    worker: Incarnation,
    bell: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.desk.lock();
        // The list's handle and this one: no other request of the worker waits.
        if waiting.get(&self.worker).is_some_and(|bell| Arc::strong_count(bell) <= 2) {
            waiting.remove(&self.worker);
        }
    }
}

impl Lead {
    /// A worker's ticket of this sequence number, as soon as it can be granted, or that it is to ask again.
    pub(super) async fn ticket(self: &Arc<Self>, worker: Incarnation, sequence: u64) -> Result<TicketAnswer, Refusal> {
        let begun = Instant::now();
        // Before the first look: what happens after it rings.
        let waiting = self.tickets.wait(worker);
        loop {
            let (answer, is_drained) =
                self.decide(|state, _| ((state.ticket(worker, sequence), state.is_drained(worker)), Vec::new()));
            // It gets no ticket any more, and others may wait for it to go.
            let patience = if is_drained { LOOK_AGAIN } else { WAIT_MAX };
            if answer != Ok(TicketAnswer::Wait) || begun.elapsed() >= patience {
                return answer;
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, waiting.bell.notified()).await;
        }
    }
}

impl From<&Quorum> for v1::QuorumStatus {
    fn from(quorum: &Quorum) -> v1::QuorumStatus {
        v1::QuorumStatus { quorum: quorum.quorum(), closed: quorum.closed(), dropped: quorum.dropped() }
    }
}

impl From<&Tickets> for v1::TicketStatus {
    fn from(tickets: &Tickets) -> v1::TicketStatus {
        v1::TicketStatus {
            granted: tickets.granted(),
            done: tickets.done(),
            voided: tickets.void(),
            torn: tickets.torn(),
            clock_staleness: Some(tickets.clock_staleness().into()),
            update_staleness: Some(tickets.update_staleness().into()),
        }
    }
}
