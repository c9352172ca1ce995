//! What a job does with its checkpoints, an operation a file.
//!
//! The layout below a location: `generations/<generation>.json` (claims) and `<generation>.begun`, `checkpoints/<id>/` with
//! `server-<index>.safetensors` (data), `server-<index>.json` (its index) and `manifest.json` (written
//! last: the commit), and `nonces/`.
//!
//! All of it may be called from several processes at once; what only one may do is a conditional create.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::store::{LocalStore, S3Store, Store, StoreError};

pub use claims::ClaimError;
pub use commit::{CommitError, Digests};
pub use list::Listed;
pub use nonce::NonceError;
pub use prune::{PruneError, Pruned};
pub use read::{Differing, ReadError};
pub use verify::Verified;
pub use write::{GivenUp, WriteError};

mod claims;
mod commit;
mod list;
mod nonce;
mod prune;
mod read;
mod server_file;
mod verify;
mod write;

/// The checkpoints of one job at one location. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Arc<dyn Store>,
}

/// Why a location cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not a location.
    #[error("checkpoint location: expected a directory or s3://bucket/prefix, found {found:?}")]
    Location {
        /// What came.
        found: String,
    },
    /// The directory cannot be made, or the settings of S3 do not fit together.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why something cannot be stored.
#[derive(Debug, Error)]
pub enum RoomError {
    /// There is no room for it.
    #[error("expected {needed} bytes free at {location}, found {free}")]
    Full {
        /// Bytes to be written.
        needed: u64,
        /// The store.
        location: String,
        /// Bytes that are free.
        free: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Checkpoints {
    /// The checkpoints at `location`: a directory, relative to `base_dir` unless absolute and made when
    /// missing, or `s3://bucket/prefix` with endpoint, region and credentials from the usual `AWS_*`
    /// variables. Nothing remote is asked yet.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the location.
    pub fn open(location: &str, base_dir: &Path) -> Result<Checkpoints, OpenError> {
        let store: Arc<dyn Store> = match location.split_once("://") {
            // Through its components, since no system makes a missing directory under the name `missing/.`.
            None if !location.is_empty() => {
                Arc::new(LocalStore::open(&base_dir.join(location).components().collect::<PathBuf>())?)
            }
            Some(("s3", place)) if !place.is_empty() && !place.starts_with('/') => {
                let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
                // A variable that is no text is none of ours; `std::env::vars` would panic over it.
                let text =
                    |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
                Arc::new(S3Store::open(bucket, prefix, std::env::vars_os().filter_map(text))?)
            }
            _ => return Err(OpenError::Location { found: location.to_owned() }),
        };
        Ok(Checkpoints::in_store(store))
    }

    /// The checkpoints in a store.
    #[must_use]
    pub fn in_store(store: Arc<dyn Store>) -> Checkpoints {
        Checkpoints { store }
    }

    /// Where they are, for messages.
    #[must_use]
    pub fn location(&self) -> String {
        self.store.location()
    }

    /// Creates what only one may create, durably; what another has created there, if one was quicker.
    ///
    /// An error of the store says nothing yet: the object may be there and the answer lost, and a store that tries again
    /// by itself then meets its own object. So it is looked for.
    async fn create_or_find(&self, path: &str, bytes: Bytes) -> Result<Option<Bytes>, StoreError> {
        let Err(error) = self.store.create(path, bytes.clone()).await else { return Ok(None) };
        match self.store.read(path).await {
            Ok(found) if found == bytes => self.store.settle(path).await.map(|()| None),
            Ok(found) => Ok(Some(found)),
            Err(_) => Err(error),
        }
    }

    /// Makes sure that so many bytes still fit. Object stores say so only by failing.
    ///
    /// # Errors
    /// [`RoomError`].
    pub async fn check_room(&self, needed: u64) -> Result<(), RoomError> {
        match self.store.free_bytes().await? {
            Some(free) if free < needed => Err(RoomError::Full { needed, location: self.location(), free }),
            _ => Ok(()),
        }
    }
}
