//! Pruning: deleting what nobody will restore.

use halflife_proto::ids::Generation;
use thiserror::Error;

use super::{Checkpoints, ReadError};
use crate::id::CheckpointId;
use crate::retention::Retention;
use crate::store::StoreError;

/// What a pruning deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Committed checkpoints.
    pub checkpoints: Vec<CheckpointId>,
    /// Data that was never committed.
    pub orphans: Vec<CheckpointId>,
    /// Bytes of both.
    pub bytes: u64,
}

/// Why pruning stopped; what it deleted so far is deleted.
#[derive(Debug, Error)]
pub enum PruneError {
    /// A generation was claimed meanwhile, which may continue from anything.
    #[error("pruning: expected {expected} to stay the newest, found {found} claimed meanwhile")]
    Fenced {
        /// The newest generation at first.
        expected: Generation,
        /// The newest one now.
        found: Generation,
    },
    /// What there is cannot be told.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Checkpoints {
    /// Deletes checkpoints that `retention` does not keep, and leftovers that were never committed.
    /// Never the newest of the surviving history. The manifest goes first, so that what is half deleted
    /// does not exist.
    ///
    /// # Errors
    /// [`PruneError`]; whatever is left is whole or will be collected next time.
    pub async fn prune(&self, retention: Retention) -> Result<Pruned, PruneError> {
        let _ = retention;
        unimplemented!()
    }
}
