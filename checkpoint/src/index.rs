//! The index of a data file: which blocks it holds, where their arrays lie, and their digests.
//!
//! It decides the layout: offsets follow from the order of the blocks and the lengths of their arrays
//! alone. The updates of all blocks come first, then each block's arrays together, last the arrays that
//! are no multiple of four bytes: so every array lies aligned to its elements, which readers of
//! safetensors that map the file rely on, although the format allows no holes.

use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{JobId, ServerIndex, TensorIndex};
use serde::{Deserialize, Serialize};

use crate::contents::{Array, ArrayDtype, BlockContents, WEIGHTS};
use crate::digest;
use crate::id::CheckpointId;
use crate::store::PART_ALIGNMENT;

/// Bytes of one block's count of updates.
pub const UPDATES_BYTES: u64 = 8;
/// Arrays of other lengths would leave what follows them unaligned.
const ARRAY_ALIGNMENT: u64 = 4;

/// What a data file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Version of the format.
    pub format_version: u32,
    /// The checkpoint.
    pub id: CheckpointId,
    /// The job.
    pub job: JobId,
    /// The server that wrote it.
    #[serde(with = "crate::exact::server")]
    pub server: ServerIndex,
    /// Every block, in block order.
    pub blocks: Vec<IndexedBlock>,
}

/// A block of a data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedBlock {
    tensor_index: u32,
    index: u32,
    /// Name of the tensor.
    pub tensor: String,
    /// Updates the block has seen.
    pub updates: u64,
    /// [`digest::block`].
    #[serde(with = "crate::exact::digest")]
    pub blake3: [u8; 32],
    /// Its arrays.
    pub arrays: Vec<IndexedArray>,
}

/// An array of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedArray {
    /// Its name.
    pub name: String,
    /// Encoding of its elements.
    pub dtype: ArrayDtype,
    /// Where it begins, counted from the end of the header.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// [`digest::array`].
    #[serde(with = "crate::exact::digest")]
    pub blake3: [u8; 32],
}

impl IndexedBlock {
    /// A block whose digests are not known yet.
    pub fn undigested(contents: &BlockContents) -> IndexedBlock {
        let array = |array: &Array| IndexedArray {
            name: array.name.clone(),
            dtype: array.dtype,
            offset: 0,
            bytes: array.data.len() as u64,
            blake3: [0; 32],
        };
        IndexedBlock {
            tensor_index: contents.block.tensor.0,
            index: contents.block.index,
            tensor: contents.tensor.clone(),
            updates: contents.updates,
            blake3: [0; 32],
            arrays: contents.arrays.iter().map(array).collect(),
        }
    }

    /// The block.
    pub fn id(&self) -> BlockId {
        BlockId { tensor: TensorIndex(self.tensor_index), index: self.index }
    }

    /// The digest of its weights array. Writing and reading both make sure that there is one.
    pub fn weights_digest(&self) -> [u8; 32] {
        self.arrays.iter().find(|array| array.name == WEIGHTS).map_or([0; 32], |weights| weights.blake3)
    }

    /// The digest that follows from those of its arrays.
    pub fn digest(&self) -> [u8; 32] {
        digest::block(self.id(), self.updates, self.arrays.iter().map(|array| array.blake3))
    }
}

impl IndexedArray {
    /// Whether it lies among the last arrays of the file instead of with its block.
    pub fn is_late(&self) -> bool {
        !self.bytes.is_multiple_of(ARRAY_ALIGNMENT)
    }
}

/// Gives every array its place and returns the bytes of all data, without the padding.
pub fn place(blocks: &mut [IndexedBlock]) -> u64 {
    let mut offset = UPDATES_BYTES * blocks.len() as u64;
    for late in [false, true] {
        for array in blocks.iter_mut().flat_map(|block| &mut block.arrays).filter(|array| array.is_late() == late) {
            array.offset = offset;
            // Lengths that no memory holds come only from a file made by hand; what lies at the end of
            // the numbers is then in no file.
            offset = offset.saturating_add(array.bytes);
        }
    }
    offset
}

/// Zero bytes that follow `data_bytes` of data, so that O_DIRECT can write the file's end.
pub fn padding(data_bytes: u64) -> u64 {
    data_bytes.checked_next_multiple_of(PART_ALIGNMENT as u64).unwrap_or(data_bytes) - data_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(index: u32, arrays: &[(&str, ArrayDtype, usize)]) -> IndexedBlock {
        IndexedBlock::undigested(&BlockContents {
            block: BlockId { tensor: TensorIndex(0), index },
            tensor: "t".to_owned(),
            updates: 0,
            arrays: arrays
                .iter()
                .map(|(name, dtype, bytes)| Array {
                    name: (*name).to_owned(),
                    dtype: *dtype,
                    data: vec![0; *bytes].into(),
                })
                .collect(),
        })
    }

    #[test]
    fn arrays_follow_each_other_and_odd_ones_come_last() {
        let mut blocks = [
            block(0, &[("weights", ArrayDtype::F32, 12), ("m", ArrayDtype::Bf16, 6), ("v", ArrayDtype::F32, 12)]),
            block(1, &[("weights", ArrayDtype::F32, 8), ("m", ArrayDtype::Bf16, 4), ("v", ArrayDtype::F32, 0)]),
        ];
        assert_eq!(place(&mut blocks), 58);
        let offsets: Vec<_> = blocks.iter().flat_map(|b| &b.arrays).map(|array| array.offset).collect();
        assert_eq!(offsets, [16, 52, 28, 40, 48, 52]);
        assert_eq!(padding(58), 4038);
        assert_eq!(padding(0), 0);
    }
}
