//! Claiming a generation, and the claims so far.

use thiserror::Error;

use super::{Checkpoints, ReadError};
use crate::claim::Claim;
use crate::store::StoreError;

/// Why a generation is not ours.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// Somebody else has it.
    #[error("{}: expected it to be free, found it claimed by {:?} of {}", by.generation, by.claimant, by.job)]
    Taken {
        /// Who has it.
        by: Box<Claim>,
    },
    /// The claim there cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed, and the claim was not found when looked for afterwards.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Checkpoints {
    /// Every claim, oldest generation first.
    ///
    /// # Errors
    /// [`ReadError`] names the claim that is damaged: without it the history is not known.
    pub async fn claims(&self) -> Result<Vec<Claim>, ReadError> {
        unimplemented!()
    }

    /// Claims `claim.generation`, durably. When the answer of the store is lost, the claim is read back:
    /// finding our own claimant there is success.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] names who has it.
    pub async fn claim(&self, claim: &Claim) -> Result<(), ClaimError> {
        let _ = claim;
        unimplemented!()
    }
}
