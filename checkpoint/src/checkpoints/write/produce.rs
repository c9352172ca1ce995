//! Producing the bytes of a data file, hashing blocks on the way. Runs on a thread that may block.

use bytes::Bytes;

use crate::contents::BlockContents;
use crate::data_file::Frame;
use crate::digest;
use crate::index::{Index, IndexedBlock};
use crate::store::{PartSender, StoreGone};

/// Sends the whole file and returns the index with its digests. Each block is dropped once its bytes
/// are copied; of the arrays that lie at the end, at most one per plane and tensor, a copy is kept, so
/// that they do not hold the block's memory either.
pub fn data(
    frame: Frame,
    mut index: Index,
    blocks: Vec<BlockContents>,
    mut to: PartSender,
) -> Result<Index, StoreGone> {
    to.write(&frame.header)?;
    to.write(&frame.updates)?;
    let mut late = Vec::new();
    for (contents, indexed) in blocks.into_iter().zip(&mut index.blocks) {
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
