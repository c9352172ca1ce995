//! Writing the blocks of one server.
//!
//! One thread hashes the blocks and copies them into aligned parts while the store writes the parts
//! before: the slower of the two sets the pace, not their sum. The thread stands back for those that train.

use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{JobId, ServerIndex};
use thiserror::Error;

use super::Checkpoints;
use crate::blocking::{blocking, in_background};
use crate::contents::BlockContents;
use crate::id::CheckpointId;
use crate::manifest::FileRecord;
use crate::store::{StoreError, StoreGone, parts};
use crate::{guarded, paths};

use given_up::GivenUpOnDrop;
use plan::{Owner, Plan};

pub use given_up::GivenUp;

mod check;
mod given_up;
mod plan;
mod produce;

/// Why blocks were not written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The checkpoint is committed: its files never change.
    #[error("checkpoint {id}: expected it not to be committed yet, found its manifest")]
    Committed {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// A block twice.
    #[error("tensor {tensor:?} {block}: expected every block once, found it twice")]
    DuplicateBlock {
        /// Its tensor.
        tensor: String,
        /// The block.
        block: BlockId,
    },
    /// The arrays of a block are not what they must be.
    #[error("tensor {tensor:?} {block}: {problem}")]
    Arrays {
        /// Its tensor.
        tensor: String,
        /// The block.
        block: BlockId,
        /// What was expected and what came.
        problem: String,
    },
    /// More blocks than one file describes.
    #[error("expected a header of at most {max} bytes, found {found}: spread the blocks over more servers")]
    HeaderTooLarge {
        /// What readers of safetensors accept.
        max: u64,
        /// What it would be.
        found: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Checkpoints {
    /// Writes the blocks of one server and their index, durably, but commits nothing. Drops each block
    /// as soon as its bytes are taken, so that memory copied for the snapshot is free early. Called
    /// again for the same checkpoint and server, it replaces what was written.
    ///
    /// # Errors
    /// [`WriteError`]; a later call may succeed.
    pub async fn write_blocks(
        &self,
        id: CheckpointId,
        server: ServerIndex,
        job: &JobId,
        blocks: Vec<BlockContents>,
    ) -> Result<FileRecord, WriteError> {
        self.write_blocks_unless(&GivenUp::default(), id, server, job, blocks).await
    }

    /// As [`Checkpoints::write_blocks`], until it is given up. Also where nobody waits for it any more, it goes no further
    /// than the part that is under way.
    ///
    /// # Errors
    /// [`WriteError`]; [`StoreError::Interrupted`] in it once it is given up, unless all was on its way already.
    pub async fn write_blocks_unless(
        &self,
        given_up: &GivenUp,
        id: CheckpointId,
        server: ServerIndex,
        job: &JobId,
        blocks: Vec<BlockContents>,
    ) -> Result<FileRecord, WriteError> {
        match self.store.size(&paths::manifest(id)).await {
            Ok(_) => return Err(WriteError::Committed { id }),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let owner = Owner { id, server, job: job.clone() };
        let Plan { blocks, index, frame, mut record } = blocking(move || plan::plan(owner, blocks)).await?;
        let (sender, parts) = parts(self.store.part_bytes(record.bytes));
        let data_path = paths::data(id, server);
        let waits = GivenUpOnDrop::default();
        let (given_up, gone) = (given_up.clone(), waits.0.clone());
        let producing = in_background(move || {
            let is_wanted = || !given_up.is_set() && !gone.is_set();
            let index = produce::data(frame, index, blocks, sender, is_wanted)?;
            Ok(guarded::write("index", &index))
        });
        let failed = |operation, source| StoreError::Failed { operation, path: data_path.clone(), source };
        let producing = producing.map_err(|error| failed("start a thread for", error.into()))?;
        let uploading = self.store.upload(&data_path, record.bytes, parts);
        let (uploaded, produced): (_, Result<_, StoreGone>) = tokio::join!(uploading, producing);
        // The producer fails only after the store has stopped taking parts, whose error says why.
        uploaded?;
        let index = produced.map_err(|gone| failed("upload", gone.into()))?;
        record.index_blake3 = *blake3::hash(&index).as_bytes();
        self.store.put(&paths::index(id, server), index.into()).await?;
        Ok(record)
    }
}
