//! Pruning: deleting what nobody will restore.

use halflife_proto::ids::Generation;
use thiserror::Error;

use super::list::Found;
use super::{Checkpoints, ReadError};
use crate::id::CheckpointId;
use crate::paths;
use crate::retention::{Disposal, Retention, disposal};
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

/// What there is, and what of it may go.
struct Plan {
    found: Found,
    newest: Option<Generation>,
    disposal: Disposal,
}

impl Checkpoints {
    /// Deletes checkpoints that `retention` does not keep, and leftovers that were never committed.
    /// Never the newest of the surviving history. The manifest goes first, so that what is half deleted
    /// does not exist.
    ///
    /// # Errors
    /// [`PruneError`]; whatever is left is whole or will be collected next time.
    pub async fn prune(&self, retention: Retention) -> Result<Pruned, PruneError> {
        let Plan { found, newest: Some(generation), disposal } = self.plan(retention).await? else {
            return Ok(Pruned::default());
        };
        let mut pruned = Pruned::default();
        for id in disposal.checkpoints {
            self.check_still_newest(generation).await?;
            self.store.delete(&paths::manifest(id)).await?;
            self.store.delete_all(&paths::checkpoint(id)).await?;
            pruned.checkpoints.push(id);
            pruned.bytes += found.bytes[&id];
        }
        for id in disposal.orphans {
            self.store.delete_all(&paths::checkpoint(id)).await?;
            pruned.orphans.push(id);
            pruned.bytes += found.bytes[&id];
        }
        Ok(pruned)
    }

    /// What [`Checkpoints::prune`] would delete if it were called now. Deletes nothing.
    ///
    /// # Errors
    /// [`ReadError`] when what there is cannot be told.
    pub async fn prunable(&self, retention: Retention) -> Result<Pruned, ReadError> {
        let Plan { found, disposal: Disposal { checkpoints, orphans }, .. } = self.plan(retention).await?;
        let bytes = checkpoints.iter().chain(&orphans).map(|id| found.bytes[id]).sum();
        Ok(Pruned { checkpoints, orphans, bytes })
    }

    async fn plan(&self, retention: Retention) -> Result<Plan, ReadError> {
        // What is there is looked at before the claims: a generation claimed in between makes nothing
        // look older than it is.
        let found = self.found().await?;
        let history = self.history(&found).await?;
        let disposal = disposal(&history, &found.bytes.keys().copied().collect(), &found.committed, retention);
        Ok(Plan { found, newest: history.newest_generation(), disposal })
    }

    /// Whoever claims a generation continues the newest checkpoint it sees, or one named by a person.
    /// Nothing locks it meanwhile; looking once more before each deletion leaves the time of one.
    async fn check_still_newest(&self, expected: Generation) -> Result<(), PruneError> {
        match self.newest_generation().await? {
            Some(found) if found != expected => Err(PruneError::Fenced { expected, found }),
            _ => Ok(()),
        }
    }
}
