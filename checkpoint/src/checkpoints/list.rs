//! What there is: the committed checkpoints, and which of them survive.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checkpoints, ReadError};
use crate::id::CheckpointId;
use crate::paths;
use crate::store::StoreError;

/// Everything that lies where checkpoints lie.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Bytes of each directory, unfinished writes included.
    pub bytes: BTreeMap<CheckpointId, u64>,
    /// Those with a manifest.
    pub committed: BTreeSet<CheckpointId>,
}

/// A committed checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: CheckpointId,
    /// Whether it belongs to the surviving history: the newest generation that has begun continues from it or descends
    /// from what does.
    pub in_history: bool,
    /// Bytes of all its files.
    pub bytes: u64,
}

impl Checkpoints {
    /// Every committed checkpoint, by generation, then step.
    ///
    /// # Errors
    /// [`ReadError`] when the store fails or a claim is damaged.
    pub async fn list(&self) -> Result<Vec<Listed>, ReadError> {
        let found = self.found().await?;
        let history = self.history(&found).await?;
        let listed = |id: &CheckpointId| Listed { id: *id, in_history: history.contains(*id), bytes: found.bytes[id] };
        Ok(found.committed.iter().map(listed).collect())
    }

    /// The newest checkpoint of the surviving history: what a restart continues from.
    ///
    /// # Errors
    /// [`ReadError`] when the store fails or a claim is damaged.
    pub async fn newest(&self) -> Result<Option<CheckpointId>, ReadError> {
        let found = self.found().await?;
        Ok(self.history(&found).await?.newest(&found.committed.iter().copied().collect::<Vec<_>>()))
    }

    pub(super) async fn found(&self) -> Result<Found, StoreError> {
        let mut found = Found::default();
        for entry in self.store.list(paths::CHECKPOINTS).await? {
            let Some((id, is_manifest)) = paths::inside(&entry.path) else { continue };
            *found.bytes.entry(id).or_default() += entry.bytes;
            if is_manifest {
                found.committed.insert(id);
            }
        }
        Ok(found)
    }
}
