//! Claiming a generation, and the claims so far.

use halflife_proto::ids::Generation;
use thiserror::Error;

use super::{Checkpoints, ReadError};
use crate::claim::{Claim, StoredClaim};
use crate::manifest::FORMAT_VERSION;
use crate::store::StoreError;
use crate::{guarded, paths};

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
        let mut claims = Vec::new();
        for generation in self.generations().await? {
            claims.push(self.read_claim(generation).await?);
        }
        Ok(claims)
    }

    /// Claims `claim.generation`, durably. When the answer of the store is lost, the claim is read back:
    /// finding our own claimant there is success.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] names who has it.
    pub async fn claim(&self, claim: &Claim) -> Result<(), ClaimError> {
        let stored = StoredClaim { format_version: FORMAT_VERSION, claim: claim.clone() };
        let path = paths::claim(claim.generation);
        // An error says nothing yet: the claim may have been made and the answer lost, and a store that
        // tries again by itself then meets its own claim.
        let Err(error) = self.store.create(&path, guarded::write("claim", &stored).into()).await else {
            return Ok(());
        };
        match self.read_claim(claim.generation).await {
            Ok(by) if by == *claim => Ok(()),
            Ok(by) => Err(ClaimError::Taken { by: Box::new(by) }),
            Err(ReadError::Store(_)) => Err(error.into()),
            Err(damaged) => Err(damaged.into()),
        }
    }

    /// The newest generation claimed.
    pub(super) async fn newest_generation(&self) -> Result<Option<Generation>, StoreError> {
        Ok(self.generations().await?.pop())
    }

    async fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        let entries = self.store.list(paths::CLAIMS).await?;
        let mut generations: Vec<_> = entries.iter().filter_map(|entry| paths::claimed(&entry.path)).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    async fn read_claim(&self, generation: Generation) -> Result<Claim, ReadError> {
        let path = paths::claim(generation);
        let stored: StoredClaim = guarded::read(&path, "claim", &self.store.read(&path).await?)?;
        if stored.claim.generation != generation {
            let (expected, found) = (generation.to_string(), stored.claim.generation.to_string());
            return Err(ReadError::Foreign { path, expected, found });
        }
        Ok(stored.claim)
    }
}
