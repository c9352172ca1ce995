//! The registry of blocks and sessions: the one file that touches dashmap.
//!
//! Guards never leave this file: a look-up clones an `Arc` and lets go of its shard before anything
//! else happens, so no guard lives across an await or a second key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dashmap::DashMap;
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::Incarnation;
use halflife_proto::refusal::{Refusal, RefusalCause};
use tonic::Status;

use crate::block::{Block, Version};
use crate::outbox::Outbox;

/// Blocks by id. Fixed once a placement is known.
#[derive(Debug, Default)]
pub struct Blocks {
    blocks: DashMap<BlockId, Arc<Block>>,
}

impl Blocks {
    /// Adds a block.
    pub fn insert(&self, block: Block) {
        self.blocks.insert(block.id(), Arc::new(block));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The block of an id.
    #[must_use]
    pub fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        self.blocks.get(&id).map(|entry| entry.value().clone())
    }

    /// All blocks, in canonical order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Block>> {
        let mut all: Vec<_> = self.blocks.iter().map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by_key(|block| block.id());
        all
    }
}

/// Most step streams that a server holds open. A job has one for each worker, and for each tool that follows it.
pub const SESSIONS_MAX: usize = 8192;

/// Names an open session of this process; a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

#[derive(Debug)]
struct Session {
    id: SessionId,
    /// Its peer.
    incarnation: Incarnation,
    outbox: Arc<Outbox>,
}

/// The open sessions: a list, since it is gone through for every block of every step and rarely
/// changed (going through a dashmap allocates for each of its shards).
#[derive(Debug, Default)]
pub struct Sessions {
    sessions: RwLock<Vec<Session>>,
    opened: AtomicU64,
}

impl Sessions {
    /// Adds a session.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` when others have [`SESSIONS_MAX`].
    pub fn open(&self, incarnation: Incarnation, outbox: Arc<Outbox>) -> Result<SessionId, Refusal> {
        let mut sessions = self.write();
        // Those of the same peer are about to be replaced.
        let others = sessions.iter().filter(|session| session.incarnation != incarnation).count();
        if others >= SESSIONS_MAX {
            let (what, expected) = ("step streams to a server", format!("at most {SESSIONS_MAX}"));
            return Err(Refusal::mismatch(RefusalCause::OutOfMemory, what, expected, "one more"));
        }
        let id = SessionId(self.opened.fetch_add(1, Ordering::Relaxed));
        sessions.push(Session { id, incarnation, outbox });
        Ok(id)
    }

    /// Ends the earlier sessions of a session's peer: it has opened another because it lost them, whether that is seen here
    /// or not.
    pub fn replace_earlier(&self, id: SessionId, incarnation: Incarnation) {
        let is_earlier = |session: &mut Session| session.incarnation == incarnation && session.id < id;
        let earlier: Vec<Session> = self.write().extract_if(.., is_earlier).collect();
        for session in earlier {
            // Without a refusal: whoever still reads it may open another.
            session.outbox.close(Some(Status::unavailable("the peer has opened another stream")));
        }
    }

    /// Removes a session.
    pub fn close(&self, id: SessionId) {
        self.write().retain(|session| session.id != id);
    }

    /// Ends the sessions of peers that read nothing, and forgets those that are at their end. To be called once a second.
    pub fn look_after(&self) {
        self.all().iter().for_each(|outbox| outbox.look_after());
        self.write().retain(|session| !session.outbox.is_closed());
    }

    /// Queues new weights for every session.
    pub fn send_weights(&self, block: BlockId, version: &Version) {
        for session in self.read().iter() {
            session.outbox.send_weights(block, version);
        }
    }

    /// The outboxes of all open sessions.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Outbox>> {
        self.read().iter().map(|session| session.outbox.clone()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Session>> {
        // A list whose writer panicked is still a list, here and below.
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Session>> {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_sessions_are_open_than_a_job_can_need() {
        let sessions = Sessions::default();
        let open = |incarnation| sessions.open(Incarnation(incarnation), Arc::default());
        let first = open(1).unwrap();
        (2..=SESSIONS_MAX as u64).for_each(|incarnation| _ = open(incarnation).unwrap());
        assert_eq!(open(0).unwrap_err().cause, RefusalCause::OutOfMemory);
        let again = open(1).expect("it takes the place of its own");
        sessions.replace_earlier(again, Incarnation(1));
        sessions.close(first);
        assert_eq!((sessions.all().len(), open(0).is_err()), (SESSIONS_MAX, true));
        // One that is at its end makes room, also while its connection stands.
        sessions.all()[7].close(None);
        sessions.look_after();
        assert!(open(0).is_ok() && open(9999).is_err());
    }
}
