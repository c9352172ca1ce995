//! What a member's tasks know in common: the place where they meet.
//!
//! Written by the heartbeat's reader (assignments, the end), the assembler (weights, losses), the
//! streams' readers (refusals) and the member (what it sent); read by the member. Every change
//! wakes the member; nothing here waits.

use std::collections::BTreeSet;
use std::sync::Arc;

use halflife_proto::ids::{ServerIndex, Step};
use tokio::sync::watch;

use crate::assembly::Snapshot;
use crate::error::ClientError;
use crate::weights::WeightsVersion;
use crate::work::WorkState;

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
    /// Servers this worker cannot reach just now.
    pub(crate) unreachable: BTreeSet<ServerIndex>,
    /// Why tasks have ended, at most one per task.
    pub(crate) failures: Vec<ClientError>,
}

impl Session {
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
        let (weights, snapshot, torn_at, unreachable, failures) = (None, None, None, BTreeSet::new(), Vec::new());
        SessionHandle(watch::Sender::new(Session { work, weights, snapshot, torn_at, unreachable, failures }))
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

    /// A task ends because of `failure`.
    pub(crate) fn fail(&self, failure: ClientError) {
        tracing::debug!(%failure, "a member's task ends");
        self.change(|session| session.failures.push(failure));
    }

    /// Says whether this worker reaches a server just now.
    pub(crate) fn note_reach(&self, server: ServerIndex, reached: bool) {
        self.change(|session| match reached {
            true => _ = session.unreachable.remove(&server),
            false => _ = session.unreachable.insert(server),
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
