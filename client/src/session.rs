//! What a member's tasks know in common: the place where they meet.
//!
//! Written by the heartbeat's reader (assignments, the end), the assembler (weights, streams that were
//! opened again), the streams' readers (refusals) and the member (what it sent); read by the member. Every change
//! wakes the member; nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use halflife_proto::ids::{ServerIndex, Step};
use tokio::sync::{mpsc, watch};

use crate::assembly::Snapshot;
use crate::error::ClientError;
use crate::shipment::Shipment;
use crate::weights::WeightsVersion;
use crate::work::WorkState;

/// Time before something is sent again that was refused: the lead and its servers agree on an end in a round trip
/// or two.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The common knowledge.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) work: WorkState,
    /// Newest complete version.
    pub(crate) weights: Option<Arc<WeightsVersion>>,
    /// In the asynchronous modes: what was copied when the newest mark was back from every server.
    pub(crate) snapshot: Option<Snapshot>,
    /// A step that every server has reached while some are ahead: see `Assembly::torn_at`.
    pub(crate) torn_at: Option<Step>,
    /// By server: where shipments are put in. A broken one stays until another takes its place.
    pub(crate) streams: BTreeMap<ServerIndex, mpsc::Sender<Shipment>>,
    /// Streams opened so far.
    pub(crate) opened: u64,
    /// Servers this worker cannot reach just now.
    pub(crate) unreachable: BTreeSet<ServerIndex>,
    /// The operator asks this worker to leave.
    pub(crate) drained: bool,
    /// What was sent is about to be sent again.
    pub(crate) sends_again: bool,
    /// Why tasks have ended, at most one per task.
    pub(crate) failures: Vec<ClientError>,
}

impl Session {
    /// Whether every block's weights have come, of one step or of some: work can begin where the job waits for it.
    pub(crate) fn is_ready(&self) -> bool {
        self.weights.is_some() || self.torn_at.is_some() || self.snapshot.is_some()
    }

    /// The failure that says most, `None` without any: a reason for the end before a broken stream.
    pub(crate) fn failure(&self) -> Option<&ClientError> {
        // Of equals the first: what follows is mostly its consequence.
        self.failures.iter().rev().max_by_key(|failure| failure.weight())
    }
}

/// A handle to the common knowledge; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SessionHandle(watch::Sender<Session>);

impl SessionHandle {
    /// A session about which only `work` is known.
    pub(crate) fn new(work: WorkState) -> SessionHandle {
        SessionHandle(watch::Sender::new(Session {
            work,
            weights: None,
            snapshot: None,
            torn_at: None,
            streams: BTreeMap::new(),
            opened: 0,
            unreachable: BTreeSet::new(),
            drained: false,
            sends_again: false,
            failures: Vec::new(),
        }))
    }

    /// Looks; the guard must not be held across an await.
    pub(crate) fn look(&self) -> watch::Ref<'_, Session> {
        self.0.borrow()
    }

    /// Changes something and wakes whoever waits.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Session)) {
        self.0.send_modify(change);
    }

    /// Wakes at every change from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Session> {
        self.0.subscribe()
    }

    /// Something was refused that may be taken soon: everything is sent once more after a while, unless the
    /// job has ended by then.
    pub(crate) fn send_again_later(&self) {
        let mut waits_already = false;
        self.change(|session| waits_already = std::mem::replace(&mut session.sends_again, true));
        if waits_already {
            return;
        }
        let session = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SEND_AGAIN_AFTER).await;
            session.change(|session| {
                session.sends_again = false;
                session.work.forget_sent();
            });
        });
    }

    /// A task ends because of `failure`.
    pub(crate) fn fail(&self, failure: ClientError) {
        tracing::debug!(%failure, "a member's task ends");
        self.change(|session| session.failures.push(failure));
    }

    /// This worker does not reach a server just now.
    pub(crate) fn note_unreachable(&self, server: ServerIndex) {
        self.change(|session| _ = session.unreachable.insert(server));
    }

    /// A stream to a server is open whose newest complete step is `step`. Whatever was sent on the one before
    /// may be lost.
    pub(crate) fn note_opened(&self, server: ServerIndex, shipments: mpsc::Sender<Shipment>, step: Option<Step>) {
        self.change(|session| {
            session.unreachable.remove(&server);
            session.streams.insert(server, shipments);
            session.opened += 1;
            session.work.forget_sent();
            if step.is_none() {
                session.work.note_uninitialized();
            }
        });
    }

    /// A version is complete; older ones than the newest are dropped.
    pub(crate) fn publish(&self, version: Arc<WeightsVersion>) {
        self.change(|session| {
            if session.weights.as_ref().is_none_or(|newest| newest.step < version.step) {
                session.work.receive_weights(version.step);
                session.weights = Some(version);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::refusal::{Refusal, RefusalCause};
    use halflife_proto::slots::SlotTree;

    #[test]
    fn the_failure_told_is_the_one_that_explains_the_end() {
        let session = SessionHandle::new(WorkState::new(SlotTree::new(1).unwrap(), 1, false));
        let lost = |url: &str| ClientError::LeadLost { url: url.to_owned(), cause: "gone".to_owned() };
        let told = || session.look().failure().map(ToString::to_string).unwrap_or_default();
        session.fail(lost("http://first"));
        session.fail(lost("http://second"));
        assert!(told().contains("http://first"));
        session.fail(ClientError::refused("http://a", Refusal::new(RefusalCause::WrongSize, "size")));
        assert!(told().contains("size"));
        session.fail(ClientError::refused("http://a", Refusal::new(RefusalCause::JobStopped, "nan")));
        assert!(told().contains("nan"));
    }
}
