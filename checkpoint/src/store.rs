//! Where bytes lie: the operations checkpoints need of a store, and nothing more.
//!
//! A store promises: an object appears under its name whole and durable, or not at all; a conditional
//! create has one winner; a listing shows every object created before it began. A failed operation may
//! still have taken effect: only the answer may be lost. Callers read back where that matters.
//!
//! It knows nothing of checkpoints, digests or names; paths are relative, with `/` between parts.

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use halflife_proto::causes;
use thiserror::Error;

pub use local::{Disk, LocalStore, SystemDisk};
pub use parts::{PART_ALIGNMENT, PART_BYTES, PartBuffer, PartSender, Parts, StoreGone, parts};
pub use s3::S3Store;

mod local;
mod parts;
mod s3;

/// Why a store did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Nothing lies there.
    #[error("{path}: expected an object, found none")]
    NotFound {
        /// The path.
        path: String,
    },
    /// A conditional create found something.
    #[error("{path}: expected nothing there yet, found an object")]
    Exists {
        /// The path.
        path: String,
    },
    /// The object does not fit; nothing was written.
    #[error("{path}: expected {needed} free bytes, found {free}")]
    Full {
        /// The path.
        path: String,
        /// Bytes of the object.
        needed: u64,
        /// Bytes free before.
        free: u64,
    },
    /// The bytes of an upload ended early; nothing became visible.
    #[error("{path}: expected {expected} bytes to write, found {found}")]
    Interrupted {
        /// The path.
        path: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// The system refused, or the network failed.
    #[error("{operation} {path}: {}", causes(source.as_ref()))]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// The path.
        path: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path. A last part that begins with a dot is an unfinished write, never an object.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// A place where objects lie.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Where it is, for messages.
    fn location(&self) -> String;

    /// Creates an object; of all who try, one succeeds.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for the others. After [`StoreError::Failed`] the object may exist.
    async fn create(&self, path: &str, bytes: Bytes) -> Result<(), StoreError>;

    /// Makes an object durable that is there although its creation failed: whoever finds it so may take that for
    /// success only after this.
    ///
    /// # Errors
    /// [`StoreError::Failed`]; the object may be gone after a crash.
    async fn settle(&self, path: &str) -> Result<(), StoreError>;

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// [`StoreError`]; the object is then the old or the new one.
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError>;

    /// Creates or replaces a large object of `bytes` bytes, taking them from `parts` as they come.
    ///
    /// # Errors
    /// [`StoreError`]; what was there before is still there, except that the answer may be lost.
    async fn upload(&self, path: &str, bytes: u64, parts: Parts) -> Result<(), StoreError>;

    /// Size of the parts that [`Store::upload`] wants of an object of `bytes` bytes; a multiple of
    /// [`PART_ALIGNMENT`].
    fn part_bytes(&self, bytes: u64) -> usize {
        let _ = bytes;
        PART_BYTES
    }

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none.
    async fn read(&self, path: &str) -> Result<Bytes, StoreError>;

    /// Reads a run of an object: fewer bytes where the object ends before the range does.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none.
    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Size of an object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none.
    async fn size(&self, path: &str) -> Result<u64, StoreError>;

    /// Every object below a directory, and unfinished writes.
    ///
    /// # Errors
    /// [`StoreError`]; a directory that does not exist is empty.
    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StoreError>;

    /// Deletes one object, durably. Deleting nothing succeeds.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    async fn delete(&self, path: &str) -> Result<(), StoreError>;

    /// Deletes everything below a directory.
    ///
    /// # Errors
    /// [`StoreError::Failed`]; some of it may be gone.
    async fn delete_all(&self, directory: &str) -> Result<(), StoreError>;

    /// Bytes that still fit; `None` where there is no such bound.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    async fn free_bytes(&self) -> Result<Option<u64>, StoreError>;
}
