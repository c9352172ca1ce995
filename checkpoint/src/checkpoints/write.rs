//! Writing the blocks of one server.

use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{JobId, ServerIndex};
use thiserror::Error;

use super::Checkpoints;
use crate::contents::BlockContents;
use crate::id::CheckpointId;
use crate::manifest::FileRecord;
use crate::store::StoreError;

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
        let _ = (id, server, job, blocks);
        unimplemented!()
    }
}
