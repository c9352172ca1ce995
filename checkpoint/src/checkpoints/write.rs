//! Writing the blocks of one server.
//!
//! One thread hashes the blocks and copies them into aligned parts while the store writes the parts
//! before: the slower of the two sets the pace, not their sum.

use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{JobId, ServerIndex};
use thiserror::Error;

use super::Checkpoints;
use crate::contents::BlockContents;
use crate::id::CheckpointId;
use crate::index::{Index, IndexedBlock, place};
use crate::manifest::{FORMAT_VERSION, FileRecord};
use crate::store::{StoreError, parts};
use crate::{data_file, guarded, paths};

mod check;
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
        mut blocks: Vec<BlockContents>,
    ) -> Result<FileRecord, WriteError> {
        check::blocks(&mut blocks)?;
        match self.store.size(&paths::manifest(id)).await {
            Ok(_) => return Err(WriteError::Committed { id }),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut indexed: Vec<_> = blocks.iter().map(IndexedBlock::undigested).collect();
        place(&mut indexed);
        let index = Index { format_version: FORMAT_VERSION, id, job: job.clone(), server, blocks: indexed };
        let frame = data_file::frame(&index);
        if frame.header.len() as u64 > data_file::HEADER_BYTES_MAX {
            let found = frame.header.len() as u64;
            return Err(WriteError::HeaderTooLarge { max: data_file::HEADER_BYTES_MAX, found });
        }
        let mut record = FileRecord {
            server,
            bytes: frame.bytes,
            header_bytes: frame.header.len() as u64,
            header_blake3: *blake3::hash(&frame.header).as_bytes(),
            index_blake3: [0; 32],
        };
        let (sender, parts) = parts(self.store.part_bytes(record.bytes));
        let producing = tokio::task::spawn_blocking(move || produce::data(frame, index, blocks, sender));
        let data_path = paths::data(id, server);
        let uploaded = self.store.upload(&data_path, record.bytes, parts).await;
        // The producer only fails after the store has stopped taking parts, whose error comes first.
        let produced = producing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        uploaded?;
        let index = produced.map_err(|error| StoreError::Failed {
            operation: "upload",
            path: data_path,
            source: Box::new(error),
        })?;
        let index = guarded::write("index", &index);
        record.index_blake3 = *blake3::hash(&index).as_bytes();
        self.store.put(&paths::index(id, server), index.into()).await?;
        Ok(record)
    }
}
