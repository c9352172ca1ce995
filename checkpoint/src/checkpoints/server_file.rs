//! The files of one server as a reader sees them: the index, checked against the manifest's record.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use halflife_proto::blocks::{BlockId, all_blocks, block_range};
use halflife_proto::ids::{JobId, ServerIndex};
use halflife_proto::manifest::Manifest;

use super::{Differing, ReadError};
use crate::blocking::blocking;
use crate::contents::{ArrayDtype, WEIGHTS, array_problem};
use crate::data_file::{Frame, frame};
use crate::id::CheckpointId;
use crate::index::{Index, IndexedBlock, place};
use crate::manifest::{COUNT_MAX, CheckpointManifest, FileRecord};
use crate::store::Store;
use crate::{guarded, paths};

/// Whose files are expected, and of what model.
#[derive(Clone, Debug)]
pub struct Expected {
    pub id: CheckpointId,
    /// `None` where any job will do.
    pub job: Option<JobId>,
    pub model: Manifest,
    /// A power of two: of a manifest whose numbers are checked, or of a placement.
    pub block_elements: u64,
}

impl Expected {
    /// What a manifest expects. Shared with the threads that check.
    pub fn of(manifest: &CheckpointManifest) -> Arc<Expected> {
        let CheckpointManifest { id, job, model, block_elements, .. } = manifest;
        Arc::new(Expected { id: *id, job: Some(job.clone()), model: model.clone(), block_elements: *block_elements })
    }
}

/// One server's files, known whole but for the bytes of the data file.
#[derive(Debug)]
pub struct ServerFile {
    /// Path of the data file.
    pub data_path: String,
    /// The manifest's record of it.
    pub record: FileRecord,
    /// What it holds.
    pub index: Index,
    /// What surrounds its arrays.
    pub frame: Frame,
}

impl ServerFile {
    /// Reads the index and the size of the data file, and checks both.
    pub async fn open(
        store: &dyn Store,
        expected: &Arc<Expected>,
        record: FileRecord,
    ) -> Result<ServerFile, ReadError> {
        let path = paths::index(expected.id, record.server);
        let file = store.read(&path).await?;
        let sharing = expected.clone();
        let opened = blocking(move || ServerFile::parse(&sharing, &path, record, &file)).await?;
        let size = store.size(&opened.data_path).await?;
        if size != record.bytes {
            return Err(ReadError::Size { path: opened.data_path, expected: record.bytes, found: size });
        }
        Ok(opened)
    }

    fn parse(expected: &Expected, path: &str, record: FileRecord, file: &[u8]) -> Result<ServerFile, ReadError> {
        check_digest(path, "index", &record.index_blake3, file)?;
        let index: Index = guarded::read(path, "index", file)?;
        check_owner(path, expected, record.server, &index)?;
        check_blocks(path, expected, &index)?;
        let data_path = paths::data(expected.id, record.server);
        let parsed = ServerFile { data_path, record, frame: frame(&index), index };
        parsed.check_frame()?;
        Ok(parsed)
    }

    /// The header is what the manifest vouches for, and what the index says it must be.
    fn check_frame(&self) -> Result<(), ReadError> {
        let sizes = (self.frame.bytes, self.frame.header.len() as u64);
        if sizes != (self.record.bytes, self.record.header_bytes) {
            let (expected, found) = (self.record.bytes, self.frame.bytes);
            return Err(ReadError::Size { path: self.data_path.clone(), expected, found });
        }
        check_digest(&self.data_path, "header", &self.record.header_blake3, &self.frame.header)
    }

    /// Checks what the data file begins with: header and counts of updates.
    pub async fn check_prefix(&self, store: &dyn Store) -> Result<(), ReadError> {
        let header_bytes = self.frame.header.len();
        let prefix_bytes = (header_bytes + self.frame.updates.len()) as u64;
        let prefix = read_exact(store, &self.data_path, 0..prefix_bytes).await?;
        check_digest(&self.data_path, "header", &self.record.header_blake3, &prefix[..header_bytes])?;
        let updates = &prefix[header_bytes..];
        let differs = updates.iter().zip(&self.frame.updates).position(|(found, expected)| found != expected);
        match differs {
            None => Ok(()),
            Some(byte) => {
                let block = &self.index.blocks[byte / 8];
                let problem = format!("expected {} updates, found another number in the data file", block.updates);
                Err(ReadError::Block {
                    path: self.data_path.clone(),
                    tensor: block.tensor.clone(),
                    block: block.id(),
                    problem,
                })
            }
        }
    }

    /// Checks that the data file ends in zeros.
    pub async fn check_padding(&self, store: &dyn Store) -> Result<(), ReadError> {
        let begin = self.record.bytes - self.frame.padding;
        let padding = read_exact(store, &self.data_path, begin..self.record.bytes).await?;
        match padding.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(at) => {
                let problem = format!("padding: expected a zero at byte {}, found {}", begin + at as u64, padding[at]);
                Err(ReadError::Malformed { path: self.data_path.clone(), problem })
            }
        }
    }
}

/// Which file holds each block, and which of its blocks it is there.
pub type Places = HashMap<BlockId, (usize, usize)>;

/// Opens the files of a checkpoint and says which of them holds each block.
pub async fn open_all(
    store: &dyn Store,
    expected: &Arc<Expected>,
    files: &[FileRecord],
) -> Result<(Vec<ServerFile>, Places), ReadError> {
    let mut opened = Vec::with_capacity(files.len());
    let mut places = HashMap::new();
    for (file_at, record) in files.iter().enumerate() {
        let file = ServerFile::open(store, expected, *record).await?;
        for (block_at, block) in file.index.blocks.iter().enumerate() {
            if let Some((other, _)) = places.insert(block.id(), (file_at, block_at)) {
                let problem = match opened.get(other) {
                    Some(ServerFile { data_path, .. }) => format!("expected in one file, found also in {data_path}"),
                    None => "expected once, found twice in the file".to_owned(),
                };
                return Err(wrong_block(&paths::index(expected.id, record.server), block, problem));
            }
        }
        opened.push(file);
    }
    Ok((opened, places))
}

/// Checks that every block of the model has its place, and returns the places in block order.
pub fn complete(expected: &Expected, places: &Places) -> Result<Vec<(usize, usize)>, ReadError> {
    all_blocks(&expected.model, expected.block_elements)
        .map(|(block, _)| places.get(&block).copied().ok_or_else(|| missing(expected, block)))
        .collect()
}

/// The error of a block that is in no file.
pub fn missing(expected: &Expected, block: BlockId) -> ReadError {
    let tensor = expected.model.get(block.tensor).map(|tensor| tensor.name.clone()).unwrap_or_default();
    ReadError::MissingBlock { id: expected.id, tensor, block }
}

/// Reads a range that lies within the file.
pub async fn read_exact(store: &dyn Store, path: &str, range: std::ops::Range<u64>) -> Result<Bytes, ReadError> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let bytes = store.read_range(path, range.clone()).await?;
    if bytes.len() as u64 != range.end - range.start {
        let found = range.start + bytes.len() as u64;
        return Err(ReadError::Size { path: path.to_owned(), expected: range.end, found });
    }
    Ok(bytes)
}

fn check_digest(path: &str, part: &'static str, expected: &[u8; 32], bytes: &[u8]) -> Result<(), ReadError> {
    let found = *blake3::hash(bytes).as_bytes();
    if found == *expected {
        return Ok(());
    }
    Err(ReadError::Digest { path: path.to_owned(), part, digests: Differing::new(expected, &found) })
}

fn check_owner(path: &str, expected: &Expected, server: ServerIndex, index: &Index) -> Result<(), ReadError> {
    let job = expected.job.as_ref().unwrap_or(&index.job);
    if (index.id, index.server, &index.job) == (expected.id, server, job) {
        return Ok(());
    }
    Err(ReadError::Foreign {
        path: path.to_owned(),
        expected: format!("checkpoint {}, {server}, {job}", expected.id),
        found: format!("checkpoint {}, {}, {}", index.id, index.server, index.job),
    })
}

/// Every block is one of the model, has weights of its length and whole elements, and lies where the layout puts it.
fn check_blocks(path: &str, expected: &Expected, index: &Index) -> Result<(), ReadError> {
    for block in &index.blocks {
        if let Some(problem) = block_problem(expected, block) {
            return Err(wrong_block(path, block, problem));
        }
    }
    let mut placed = index.blocks.clone();
    place(&mut placed);
    match placed.iter().zip(&index.blocks).find(|(placed, found)| placed != found) {
        None => Ok(()),
        Some((_, block)) => {
            Err(wrong_block(path, block, "expected its arrays where the layout puts them, found others".to_owned()))
        }
    }
}

fn block_problem(expected: &Expected, block: &IndexedBlock) -> Option<String> {
    let id = block.id();
    let Some(tensor) = expected.model.get(id.tensor) else {
        return Some(format!("expected one of the model's {} tensors", expected.model.tensors().len()));
    };
    if tensor.name != block.tensor {
        return Some(format!("expected the model's tensor {:?}", tensor.name));
    }
    let Some(range) = block_range(tensor, id.index, expected.block_elements) else {
        return Some(format!("expected a block of {tensor} at {} elements a block", expected.block_elements));
    };
    if block.updates > COUNT_MAX {
        return Some(format!("expected at most {COUNT_MAX} updates, found {}", block.updates));
    }
    let arrays = block.arrays.iter().map(|array| (array.name.as_str(), array.dtype, array.bytes));
    if let Some(problem) = array_problem(arrays) {
        return Some(problem);
    }
    let weights = block.arrays.iter().find(|array| array.name == WEIGHTS);
    let found = weights.map(|weights| (weights.dtype, weights.bytes));
    let bytes = (range.end - range.start) * ArrayDtype::F32.element_bytes();
    if found != Some((ArrayDtype::F32, bytes)) {
        return Some(format!("expected weights of {bytes} bytes of f32, found {found:?}"));
    }
    (block.digest() != block.blake3)
        .then(|| "expected the digest that follows from its arrays, found another".to_owned())
}

fn wrong_block(path: &str, block: &IndexedBlock, problem: String) -> ReadError {
    ReadError::Block { path: path.to_owned(), tensor: block.tensor.clone(), block: block.id(), problem }
}
