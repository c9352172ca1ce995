//! Nonces: proof that all servers look at the same store. The lead writes one, every server reads it.

use bytes::Bytes;
use thiserror::Error;

use super::Checkpoints;
use crate::paths;
use crate::store::StoreError;

/// Why a store is not shown to be shared.
#[derive(Debug, Error)]
pub enum NonceError {
    /// Not usable as a name.
    #[error("nonce: expected 1 to 64 letters, digits, `-` or `_`, found {found:?}")]
    Name {
        /// What came.
        found: String,
    },
    /// It is not there: this is not the store the lead wrote to.
    #[error("{location}: expected the nonce {nonce:?} that the lead wrote, found none; is the location shared?")]
    NotShared {
        /// The store.
        location: String,
        /// The nonce.
        nonce: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Checkpoints {
    /// Writes a nonce for the servers to read.
    ///
    /// # Errors
    /// [`NonceError::Name`] when it is no name; [`NonceError::Store`].
    pub async fn write_nonce(&self, nonce: &str) -> Result<(), NonceError> {
        let path = path(nonce)?;
        Ok(self.store.put(&path, Bytes::copy_from_slice(nonce.as_bytes())).await?)
    }

    /// Reads back a nonce that the lead says it wrote.
    ///
    /// # Errors
    /// [`NonceError::NotShared`] when it is not there.
    pub async fn read_nonce(&self, nonce: &str) -> Result<(), NonceError> {
        match self.store.read(&path(nonce)?).await {
            Ok(found) if found == nonce.as_bytes() => Ok(()),
            Ok(_) | Err(StoreError::NotFound { .. }) => {
                Err(NonceError::NotShared { location: self.location(), nonce: nonce.to_owned() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a nonce after all have read it.
    ///
    /// # Errors
    /// [`NonceError::Store`].
    pub async fn delete_nonce(&self, nonce: &str) -> Result<(), NonceError> {
        Ok(self.store.delete(&path(nonce)?).await?)
    }
}

/// A nonce comes from another process and becomes a path: it must not lead anywhere else.
fn path(nonce: &str) -> Result<String, NonceError> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=64).contains(&nonce.len()) && nonce.bytes().all(letters) {
        return Ok(paths::nonce(nonce));
    }
    Err(NonceError::Name { found: nonce.to_owned() })
}
