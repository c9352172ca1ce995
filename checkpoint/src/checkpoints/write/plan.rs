//! What a data file will be, before a byte of it is written.

use halflife_proto::ids::{JobId, ServerIndex};

use super::{WriteError, check};
use crate::contents::BlockContents;
use crate::data_file::{self, Frame};
use crate::id::CheckpointId;
use crate::index::{Index, IndexedBlock, place};
use crate::manifest::{FORMAT_VERSION, FileRecord};

/// Whose blocks they are.
pub struct Owner {
    pub id: CheckpointId,
    pub server: ServerIndex,
    pub job: JobId,
}

/// Everything but the digests of what is in the blocks.
pub struct Plan {
    pub blocks: Vec<BlockContents>,
    pub index: Index,
    pub frame: Frame,
    /// Without the digest of the index.
    pub record: FileRecord,
}

/// Checks the blocks and lays them out.
pub fn plan(owner: Owner, mut blocks: Vec<BlockContents>) -> Result<Plan, WriteError> {
    check::blocks(&mut blocks)?;
    let mut indexed: Vec<_> = blocks.iter().map(IndexedBlock::undigested).collect();
    place(&mut indexed);
    let Owner { id, server, job } = owner;
    let index = Index { format_version: FORMAT_VERSION, id, job, server, blocks: indexed };
    let frame = data_file::frame(&index);
    let header_bytes = frame.header.len() as u64;
    if header_bytes > data_file::HEADER_BYTES_MAX {
        return Err(WriteError::HeaderTooLarge { max: data_file::HEADER_BYTES_MAX, found: header_bytes });
    }
    let header_blake3 = *blake3::hash(&frame.header).as_bytes();
    let record = FileRecord { server, bytes: frame.bytes, header_bytes, header_blake3, index_blake3: [0; 32] };
    Ok(Plan { blocks, index, frame, record })
}

#[cfg(test)]
mod tests {
    use halflife_proto::blocks::BlockId;
    use halflife_proto::ids::{Generation, Step, TensorIndex};

    use super::*;
    use crate::contents::{Array, ArrayDtype, WEIGHTS};

    #[test]
    fn more_than_a_header_can_describe_is_refused() {
        let weights = Array { name: WEIGHTS.to_owned(), dtype: ArrayDtype::F32, data: vec![0; 4].into() };
        let block = |index| BlockContents {
            block: BlockId { tensor: TensorIndex(0), index },
            tensor: "n".repeat(1 << 20),
            updates: 0,
            arrays: vec![weights.clone()],
        };
        let owner = || Owner {
            id: CheckpointId { step: Step(1), generation: Generation(1) },
            server: ServerIndex(0),
            job: JobId("job".to_owned()),
        };
        assert!(plan(owner(), (0..47).map(block).collect()).is_ok());
        let refused = plan(owner(), (0..48).map(block).collect()).map(|_| ());
        assert!(matches!(refused, Err(WriteError::HeaderTooLarge { found, .. }) if found > 100_000_000));
    }
}
