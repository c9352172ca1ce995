//! Reading blocks in batches: the next batch is read while the digests of this one are checked.

use std::ops::Range;

use bytes::Bytes;

use crate::blocking::blocking;
use crate::checkpoints::server_file::{ServerFile, read_exact};
use crate::checkpoints::{Differing, ReadError};
use crate::contents::{Array, BlockContents};
use crate::digest;
use crate::index::{IndexedArray, IndexedBlock};
use crate::store::Store;

/// Bytes read at once. Twice this is held: one batch being read, one being checked.
const BATCH_BYTES: u64 = 32 << 20;

/// A batch in memory: the blocks, and the runs of the file their arrays lie in.
struct Batch {
    path: String,
    blocks: Vec<IndexedBlock>,
    runs: Vec<(u64, Bytes)>,
}

/// Reads the blocks at the places `wanted` of the index, in order, and hands over what is right.
pub async fn read(
    store: &dyn Store,
    file: &ServerFile,
    wanted: &[usize],
    each: &mut (dyn FnMut(BlockContents) + Send),
) -> Result<(), ReadError> {
    let mut cuts = cut(&file.index.blocks, wanted).into_iter();
    let mut current = match cuts.next() {
        Some(cut) => Some(fetch(store, file, cut).await?),
        None => None,
    };
    while let Some(batch) = current.take() {
        let fetching = async {
            match cuts.next() {
                Some(cut) => fetch(store, file, cut).await.map(Some),
                None => Ok(None),
            }
        };
        let (checked, next) = tokio::join!(blocking(move || check(batch)), fetching);
        checked?.into_iter().for_each(&mut *each);
        current = next?;
    }
    Ok(())
}

/// Cuts `wanted` into batches of about [`BATCH_BYTES`].
fn cut<'a>(blocks: &[IndexedBlock], wanted: &'a [usize]) -> Vec<&'a [usize]> {
    let mut cuts = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, block) in wanted.iter().enumerate() {
        bytes += blocks[*block].arrays.iter().map(|array| array.bytes).sum::<u64>();
        if bytes >= BATCH_BYTES {
            cuts.push(&wanted[begin..=at]);
            (begin, bytes) = (at + 1, 0);
        }
    }
    cuts.push(&wanted[begin..]);
    cuts.retain(|cut| !cut.is_empty());
    cuts
}

async fn fetch(store: &dyn Store, file: &ServerFile, wanted: &[usize]) -> Result<Batch, ReadError> {
    let blocks: Vec<_> = wanted.iter().map(|at| file.index.blocks[*at].clone()).collect();
    let mut runs = Vec::new();
    for run in joined(blocks.iter().flat_map(|block| &block.arrays)) {
        let in_file = run.start + file.record.header_bytes..run.end + file.record.header_bytes;
        runs.push((run.start, read_exact(store, &file.data_path, in_file).await?));
    }
    Ok(Batch { path: file.data_path.clone(), blocks, runs })
}

/// The runs of the file that arrays lie in, those that touch as one.
fn joined<'a>(arrays: impl Iterator<Item = &'a IndexedArray>) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> =
        arrays.filter(|array| array.bytes > 0).map(|array| array.offset..array.offset + array.bytes).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => runs.push(range),
        }
    }
    runs
}

fn check(batch: Batch) -> Result<Vec<BlockContents>, ReadError> {
    batch.blocks.iter().map(|block| check_block(&batch, block)).collect()
}

fn check_block(batch: &Batch, block: &IndexedBlock) -> Result<BlockContents, ReadError> {
    let array = |array: &IndexedArray| {
        let data = slice(&batch.runs, array);
        let found = digest::array(&array.name, array.dtype, &data);
        if found != array.blake3 {
            return Err(ReadError::BlockDigest {
                path: batch.path.clone(),
                tensor: block.tensor.clone(),
                block: block.id(),
                array: array.name.clone(),
                digests: Differing::new(&array.blake3, &found),
            });
        }
        Ok(Array { name: array.name.clone(), dtype: array.dtype, data })
    };
    // The digest of the block itself follows from these; it was compared when the index was read.
    let arrays = block.arrays.iter().map(array).collect::<Result<_, _>>()?;
    Ok(BlockContents { block: block.id(), tensor: block.tensor.clone(), updates: block.updates, arrays })
}

fn slice(runs: &[(u64, Bytes)], array: &IndexedArray) -> Bytes {
    if array.bytes == 0 {
        return Bytes::new();
    }
    // Every array that is not empty lies in one of the runs that were made of them.
    let (begin, run) = &runs[runs.partition_point(|(begin, _)| *begin <= array.offset) - 1];
    let offset = (array.offset - begin) as usize;
    run.slice(offset..offset + array.bytes as usize)
}
