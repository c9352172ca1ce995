//! The registry of blocks and sessions: the one file that touches dashmap.
//!
//! Guards never leave this file: a look-up clones an `Arc` and lets go of its shard before anything
//! else happens, so no guard lives across an await or a second key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// The open sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    outboxes: DashMap<SessionId, Arc<Outbox>>,
    opened: AtomicU64,
}

impl Sessions {
    /// Adds a session.
    pub fn open(&self, outbox: Arc<Outbox>) -> SessionId {
        let id = SessionId(self.opened.fetch_add(1, Ordering::Relaxed));
        self.outboxes.insert(id, outbox);
        id
    }

    /// Removes a session.
    pub fn close(&self, id: SessionId) {
        self.outboxes.remove(&id);
    }

    /// Queues new weights for every session.
    pub fn send_weights(&self, block: BlockId, version: &Version) {
        for outbox in self.all() {
            outbox.send_weights(block, version.clone());
        }
    }

    /// The outboxes of all open sessions.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Outbox>> {
        self.outboxes.iter().map(|entry| entry.value().clone()).collect()
    }
}
