//! Committing: the manifest, last.

use halflife_proto::ids::Generation;
use halflife_proto::manifest::Manifest;
use thiserror::Error;

use super::{Checkpoints, ReadError};
use crate::id::CheckpointId;
use crate::manifest::{CheckpointManifest, FileRecord};
use crate::store::StoreError;

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
        let _ = (id, model, block_elements, files);
        unimplemented!()
    }

    /// Commits a checkpoint whose files are all written; from then on it exists. Committing the same
    /// manifest again succeeds.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] when a newer generation has been claimed, [`CommitError::Conflict`] when
    /// another manifest is there. After [`CommitError::Store`] it may be committed all the same.
    pub async fn commit(&self, manifest: &CheckpointManifest) -> Result<(), CommitError> {
        let _ = manifest;
        unimplemented!()
    }
}
