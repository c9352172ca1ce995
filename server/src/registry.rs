//! The registry of blocks and sessions: the one file that touches dashmap.
//!
//! Guards never leave this file: a look-up clones an `Arc` and lets go of its shard before anything
//! else happens, so no guard lives across an await or a second key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use halflife_proto::blocks::BlockId;

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

/// Names an open session of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

/// The open sessions: a list, since it is gone through for every block of every step and rarely
/// changed (going through a dashmap allocates for each of its shards).
#[derive(Debug, Default)]
pub struct Sessions {
    outboxes: RwLock<Vec<(SessionId, Arc<Outbox>)>>,
    opened: AtomicU64,
}

impl Sessions {
    /// Adds a session.
    pub fn open(&self, outbox: Arc<Outbox>) -> SessionId {
        let id = SessionId(self.opened.fetch_add(1, Ordering::Relaxed));
        // A list whose writer panicked is still a list, here and below.
        self.outboxes.write().unwrap_or_else(PoisonError::into_inner).push((id, outbox));
        id
    }

    /// Removes a session.
    pub fn close(&self, id: SessionId) {
        self.outboxes.write().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| *open != id);
    }

    /// Queues new weights for every session.
    pub fn send_weights(&self, block: BlockId, version: &Version) {
        for (_, outbox) in self.outboxes.read().unwrap_or_else(PoisonError::into_inner).iter() {
            outbox.send_weights(block, version);
        }
    }

    /// The outboxes of all open sessions.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Outbox>> {
        let open = self.outboxes.read().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(_, outbox)| outbox.clone()).collect()
    }
}
