//! Reading: the manifest, and blocks that are verified before anybody sees them.

use halflife_proto::blocks::BlockId;
use thiserror::Error;

use super::Checkpoints;
use super::server_file::{Expected, missing, open_all};
use crate::contents::BlockContents;
use crate::id::CheckpointId;
use crate::manifest::{CheckpointManifest, NumberError};
use crate::store::StoreError;
use crate::{exact, guarded, paths};

pub(super) mod batches;

/// Two digests that should be one, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected BLAKE3 {expected}, found {found}")]
pub struct Differing {
    /// The digest that was stated.
    pub expected: String,
    /// The digest of what is there.
    pub found: String,
}

impl Differing {
    pub(crate) fn new(expected: &[u8; 32], found: &[u8; 32]) -> Box<Differing> {
        Box::new(Differing { expected: exact::hex(expected), found: exact::hex(found) })
    }
}

/// What is wrong with something stored. `path` names the file.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store failed, or has no such file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file is not of the form it must have.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: String,
        /// What was expected and what is there.
        problem: String,
    },
    /// A manifest that no job writes.
    #[error("{path}: {source}")]
    Number {
        /// The file.
        path: String,
        /// The number.
        source: NumberError,
    },
    /// A file of another version of the format.
    #[error("{path}: expected format version {expected}, found {found}")]
    Version {
        /// The file.
        path: String,
        /// The version this build reads.
        expected: u32,
        /// The version of the file.
        found: u32,
    },
    /// A file that belongs elsewhere.
    #[error("{path}: expected a file of {expected}, found one of {found}")]
    Foreign {
        /// The file.
        path: String,
        /// Whose it must be.
        expected: String,
        /// Whose it is.
        found: String,
    },
    /// A file of another size.
    #[error("{path}: expected {expected} bytes, found {found}")]
    Size {
        /// The file.
        path: String,
        /// Bytes it must have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// Bytes changed in a file, outside of its blocks.
    #[error("{path}: {part}: {digests}")]
    Digest {
        /// The file.
        path: String,
        /// Which part of it.
        part: &'static str,
        /// Its digests.
        digests: Box<Differing>,
    },
    /// Bytes of a block changed.
    #[error("{path}: tensor {tensor:?} {block} {array:?}: {digests}")]
    BlockDigest {
        /// The file.
        path: String,
        /// The block's tensor.
        tensor: String,
        /// The block.
        block: BlockId,
        /// The array.
        array: String,
        /// Its digests.
        digests: Box<Differing>,
    },
    /// A block of the model is in no file.
    #[error("checkpoint {id}: expected tensor {tensor:?} {block} in one of its files, found it in none")]
    MissingBlock {
        /// The checkpoint.
        id: CheckpointId,
        /// The block's tensor; empty when the model has no such tensor.
        tensor: String,
        /// The block.
        block: BlockId,
    },
    /// A block that is in two files, or is not of the model, or is not what the model says.
    #[error("{path}: tensor {tensor:?} {block}: {problem}")]
    Block {
        /// The file.
        path: String,
        /// The block's tensor.
        tensor: String,
        /// The block.
        block: BlockId,
        /// What was expected and what is there.
        problem: String,
    },
    /// The blocks together are not those the manifest was written for.
    #[error("checkpoint {id}: {part}: {digests}")]
    StateDigest {
        /// The checkpoint.
        id: CheckpointId,
        /// Weights or whole state.
        part: &'static str,
        /// What the manifest states, and what the blocks have.
        digests: Box<Differing>,
    },
}

impl Checkpoints {
    /// The manifest of a committed checkpoint.
    ///
    /// # Errors
    /// [`ReadError`]; [`StoreError::NotFound`] in it when there is no such checkpoint.
    pub async fn manifest(&self, id: CheckpointId) -> Result<CheckpointManifest, ReadError> {
        let path = paths::manifest(id);
        let manifest: CheckpointManifest = guarded::read(&path, "manifest", &self.store.read(&path).await?)?;
        if manifest.id != id {
            let (expected, found) = (format!("checkpoint {id}"), format!("checkpoint {}", manifest.id));
            return Err(ReadError::Foreign { path, expected, found });
        }
        manifest.check_numbers().map_err(|source| ReadError::Number { path, source })?;
        Ok(manifest)
    }

    /// Reads the `wanted` blocks and hands them to `each`, in the order of the files. Nothing is handed
    /// over before its digest is found right; blocks handed over before an error are good. What is
    /// handed over shares memory with its neighbours, some tens of megabytes: copy what is to stay.
    ///
    /// # Errors
    /// [`ReadError`] names the file, tensor and block.
    pub async fn read_blocks(
        &self,
        manifest: &CheckpointManifest,
        wanted: &[BlockId],
        each: &mut (dyn FnMut(BlockContents) + Send),
    ) -> Result<(), ReadError> {
        let expected = Expected::of(manifest);
        let (files, places) = open_all(&*self.store, &expected, &manifest.files).await?;
        let mut of_file = vec![Vec::new(); files.len()];
        for block in wanted {
            let (file, at) = *places.get(block).ok_or_else(|| missing(&expected, *block))?;
            of_file[file].push(at);
        }
        for (file, mut blocks) in files.iter().zip(of_file).filter(|(_, blocks)| !blocks.is_empty()) {
            blocks.sort_unstable();
            blocks.dedup();
            file.check_prefix(&*self.store).await?;
            batches::read(&*self.store, file, &blocks, each).await?;
        }
        Ok(())
    }
}
