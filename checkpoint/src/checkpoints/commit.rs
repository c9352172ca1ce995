//! Committing: the manifest, last.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use halflife_proto::ids::Generation;
use halflife_proto::manifest::Manifest;
use thiserror::Error;

use super::server_file::{Expected, Places, ServerFile, complete, open_all};
use super::{Checkpoints, Differing, ReadError};
use crate::id::CheckpointId;
use crate::manifest::{CheckpointManifest, FileRecord};
use crate::store::StoreError;
use crate::{digest, guarded, paths};

/// The digests a manifest states of all blocks together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of the weights alone.
    pub weights: [u8; 32],
    /// Of everything.
    pub state: [u8; 32],
}

/// Why a checkpoint was not committed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// A newer generation exists.
    #[error("checkpoint {id}: expected its generation to be the newest, found {newest}")]
    Fenced {
        /// The checkpoint.
        id: CheckpointId,
        /// The newest generation claimed.
        newest: Generation,
    },
    /// It was committed with another manifest.
    #[error("checkpoint {id}: expected the same manifest as before, found another one committed")]
    Conflict {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// What is to be committed is not there or not whole.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed, and the manifest was not found when looked for afterwards.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Between looks at the claims, where the store fails once the manifest is there.
const LOOK_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

impl Checkpoints {
    /// The digests of a checkpoint whose servers wrote `files`, from their index files: what the lead
    /// puts into the manifest. Checks that the data files have their sizes and that the blocks of the
    /// model are there, each exactly once.
    ///
    /// # Errors
    /// [`ReadError`] names the file or block that is wrong.
    pub async fn digests(
        &self,
        id: CheckpointId,
        model: &Manifest,
        block_elements: u64,
        files: &[FileRecord],
    ) -> Result<Digests, ReadError> {
        self.digests_of(&Arc::new(Expected { id, job: None, model: model.clone(), block_elements }), files).await
    }

    async fn digests_of(&self, expected: &Arc<Expected>, files: &[FileRecord]) -> Result<Digests, ReadError> {
        let (opened, places) = open_all(&*self.store, expected, files).await?;
        digests_in(expected, &opened, &places)
    }

    /// Commits a checkpoint whose files are all written; from then on it exists. Looks at every file
    /// first, but not at every byte. Committing the same manifest again succeeds. When this has succeeded, whoever
    /// claims a generation finds the checkpoint there.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] when a newer generation has been claimed, [`CommitError::Conflict`] when
    /// another manifest is there. After [`CommitError::Store`] and [`CommitError::Fenced`] it may be committed all the same.
    pub async fn commit(&self, manifest: &CheckpointManifest) -> Result<(), CommitError> {
        let id = manifest.id;
        let path = paths::manifest(id);
        manifest.check_numbers().map_err(|source| ReadError::Number { path: path.clone(), source })?;
        // No lock: a claim may come right after this look. It only spares the common case a commit that nobody will
        // ever restore.
        self.check_not_fenced(id).await?;
        let found = self.digests_of(&Expected::of(manifest), &manifest.files).await?;
        check(manifest, found)?;
        let file = Bytes::from(guarded::write("manifest", manifest));
        if self.create_or_find(&path, file).await?.is_some() {
            return Err(CommitError::Conflict { id });
        }
        // A claim that came in between may not have seen it. One that comes from here on does. The manifest is there now, and
        // must not be called a failure because a store did not answer for a moment.
        for pause in LOOK_PAUSES {
            match self.check_not_fenced(id).await {
                Err(CommitError::Store(_)) => tokio::time::sleep(pause).await,
                done => return done,
            }
        }
        self.check_not_fenced(id).await
    }

    async fn check_not_fenced(&self, id: CheckpointId) -> Result<(), CommitError> {
        match self.newest_generation().await? {
            Some(newest) if newest > id.generation => Err(CommitError::Fenced { id, newest }),
            _ => Ok(()),
        }
    }
}

/// The digests of all blocks together, if each block of the model is there.
pub(super) fn digests_in(expected: &Expected, files: &[ServerFile], places: &Places) -> Result<Digests, ReadError> {
    let order = complete(expected, places)?;
    let blocks: Vec<_> = order.iter().map(|(file, block)| &files[*file].index.blocks[*block]).collect();
    Ok(Digests {
        weights: digest::weights(blocks.iter().map(|block| block.weights_digest())),
        state: digest::state(blocks.iter().map(|block| block.blake3)),
    })
}

/// The digests of the blocks are those the manifest states.
pub(super) fn check(manifest: &CheckpointManifest, found: Digests) -> Result<(), ReadError> {
    for (part, expected, found) in
        [("weights", &manifest.weights_digest, &found.weights), ("state", &manifest.state_digest, &found.state)]
    {
        if expected != found {
            return Err(ReadError::StateDigest { id: manifest.id, part, digests: Differing::new(expected, found) });
        }
    }
    Ok(())
}
