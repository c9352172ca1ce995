//! Verifying: every byte of a checkpoint.

use super::commit::{check, digests_in};
use super::read::batches;
use super::server_file::{Expected, open_all};
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
        let manifest = self.manifest(id).await?;
        let expected = Expected::of(&manifest);
        let (files, places) = open_all(&*self.store, &expected, &manifest.files).await?;
        check(&manifest, digests_in(&expected, &files, &places)?)?;
        let mut verified = Verified { files: files.len(), blocks: 0, bytes: 0 };
        for file in &files {
            file.check_prefix(&*self.store).await?;
            let all: Vec<_> = (0..file.index.blocks.len()).collect();
            batches::read(&*self.store, file, &all, &mut |_| verified.blocks += 1).await?;
            file.check_padding(&*self.store).await?;
            verified.bytes += file.record.bytes;
        }
        Ok(verified)
    }
}
