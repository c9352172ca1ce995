//! What there is: the committed checkpoints, and which of them survive.

use super::{Checkpoints, ReadError};
use crate::id::CheckpointId;

/// A committed checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: CheckpointId,
    /// Whether it belongs to the surviving history: the newest claim continues from it or descends
    /// from what does.
    pub in_history: bool,
    /// Bytes of all its files.
    pub bytes: u64,
}

impl Checkpoints {
    /// Every committed checkpoint, by generation, then step.
    ///
    /// # Errors
    /// [`ReadError`] when the store fails or a claim is damaged.
    pub async fn list(&self) -> Result<Vec<Listed>, ReadError> {
        unimplemented!()
    }

    /// The newest checkpoint of the surviving history: what a restart continues from.
    ///
    /// # Errors
    /// [`ReadError`] when the store fails or a claim is damaged.
    pub async fn newest(&self) -> Result<Option<CheckpointId>, ReadError> {
        unimplemented!()
    }
}
