//! Verifying: every byte of a checkpoint.

use super::{Checkpoints, ReadError};
use crate::id::CheckpointId;

/// What was found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Data files.
    pub files: usize,
    /// Blocks.
    pub blocks: u64,
    /// Bytes of the data files.
    pub bytes: u64,
}

impl Checkpoints {
    /// Reads a whole checkpoint and checks every byte of it: manifest, indexes, headers, blocks,
    /// padding, sizes; that the blocks of the model are there, each exactly once, of the right lengths.
    ///
    /// # Errors
    /// [`ReadError`] names the first thing that is wrong.
    pub async fn verify(&self, id: CheckpointId) -> Result<Verified, ReadError> {
        let _ = id;
        unimplemented!()
    }
}
