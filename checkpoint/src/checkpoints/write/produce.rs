//! Producing the bytes of a data file, hashing blocks on the way. Runs on a thread that may block.

use bytes::Bytes;

use crate::contents::BlockContents;
use crate::data_file::Frame;
use crate::digest;
use crate::index::{Index, IndexedBlock};
use crate::store::{PartSender, StoreGone};

/// Sends the whole file and returns the index with its digests. Each block is dropped once its bytes
/// are copied; of the arrays that lie at the end, at most one per plane and tensor, a copy is kept, so
/// that they do not hold the block's memory either. Ends early, letting go of all blocks, once the file is not wanted.
pub fn data(
    frame: Frame,
    mut index: Index,
    blocks: Vec<BlockContents>,
    mut to: PartSender,
    is_wanted: impl Fn() -> bool,
) -> Result<Index, StoreGone> {
    to.write(&frame.header)?;
    to.write(&frame.updates)?;
    let mut late = Vec::new();
    for (contents, indexed) in blocks.into_iter().zip(&mut index.blocks) {
        if !is_wanted() {
            // The store finds that bytes are missing, and says so.
            return Err(StoreGone);
        }
        block(contents, indexed, &mut to, &mut late)?;
    }
    for data in late {
        to.write(&data)?;
    }
    to.write(&vec![0; frame.padding as usize])?;
    to.finish()?;
    Ok(index)
}

fn block(
    contents: BlockContents,
    indexed: &mut IndexedBlock,
    to: &mut PartSender,
    late: &mut Vec<Bytes>,
) -> Result<(), StoreGone> {
    // Array by array, so that what is copied has just been hashed and still lies in the cache.
    for (array, place) in contents.arrays.into_iter().zip(&mut indexed.arrays) {
        place.blake3 = digest::array(&array.name, array.dtype, &array.data);
        if place.is_late() {
            late.push(Bytes::copy_from_slice(&array.data));
        } else {
            to.write(&array.data)?;
        }
    }
    indexed.blake3 = indexed.digest();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use halflife_proto::blocks::BlockId;
    use halflife_proto::ids::{Generation, JobId, ServerIndex, Step, TensorIndex};

    use super::*;
    use crate::checkpoints::write::plan::{Owner, Plan, plan};
    use crate::contents::{Array, ArrayDtype, WEIGHTS};
    use crate::id::CheckpointId;
    use crate::store::{PART_ALIGNMENT, parts};

    /// Memory of a block that tells when it is free.
    struct Told(Vec<u8>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Told {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn memory_of_a_block_is_free_before_the_blocks_after_it_are_written() {
        const BLOCKS: usize = 50;
        let freed = Arc::new(AtomicUsize::new(0));
        let array = |name: &str, dtype, bytes: usize| Array {
            name: name.to_owned(),
            dtype,
            data: Bytes::from_owner(Told(vec![1; bytes], freed.clone())),
        };
        let block = |index| BlockContents {
            block: BlockId { tensor: TensorIndex(0), index },
            tensor: "w".to_owned(),
            updates: 0,
            // The odd one lies at the end of the file, and must not be what holds the memory.
            arrays: vec![array(WEIGHTS, ArrayDtype::F32, PART_ALIGNMENT), array("m", ArrayDtype::Bf16, 2)],
        };
        let id = CheckpointId { step: Step(1), generation: Generation(1) };
        let owner = Owner { id, server: ServerIndex(0), job: JobId("job".to_owned()) };
        let Plan { blocks, index, frame, record } = plan(owner, (0..BLOCKS as u32).map(block).collect()).unwrap();
        let (sender, mut parts) = parts(PART_ALIGNMENT);
        let producer = std::thread::spawn(move || data(frame, index, blocks, sender, || true));
        let mut read = 0;
        while let Some(part) = parts.next_blocking() {
            read += part.as_ref().len();
            // Of a block whose bytes have all arrived nothing is left, but that its last drop may be under way.
            let arrived = read.saturating_sub(record.header_bytes as usize + 8 * BLOCKS) / PART_ALIGNMENT;
            assert!(freed.load(Ordering::SeqCst) + 4 >= 2 * arrived.min(BLOCKS), "{arrived} blocks arrived");
        }
        producer.join().unwrap().unwrap();
        assert_eq!((read as u64, freed.load(Ordering::SeqCst)), (record.bytes, 2 * BLOCKS));
    }
}
