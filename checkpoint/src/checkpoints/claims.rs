//! Claiming a generation, beginning it, and the history that follows from both.

use std::collections::BTreeSet;

use halflife_proto::ids::Generation;
use thiserror::Error;

use super::list::Found;
use super::{Checkpoints, ReadError};
use crate::claim::{Claim, StoredBeginning, StoredClaim};
use crate::history::History;
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
        let (claimed, _) = self.generations().await?;
        self.read_claims(&claimed).await
    }

    /// Claims `claim.generation`, durably: whatever older generations still commit is refused from here on. The history
    /// goes on with it once it has begun ([`Checkpoints::begin_generation`]).
    ///
    /// # Errors
    /// [`ClaimError::Taken`] names who has it.
    pub async fn claim(&self, claim: &Claim) -> Result<(), ClaimError> {
        let stored = StoredClaim { format_version: FORMAT_VERSION, claim: claim.clone() };
        let path = paths::claim(claim.generation);
        match self.create_or_find(&path, guarded::write("claim", &stored).into()).await? {
            None => Ok(()),
            Some(found) => Err(ClaimError::Taken { by: Box::new(parse(claim.generation, &path, &found)?) }),
        }
    }

    /// Makes a claimed generation the one that the history goes on with, durably. Before it, its claimant makes sure that what
    /// it continues is still the newest: older generations may have committed until they were fenced.
    ///
    /// # Errors
    /// [`StoreError`]; it may have begun all the same.
    pub async fn begin_generation(&self, generation: Generation) -> Result<(), StoreError> {
        let stored = StoredBeginning { format_version: FORMAT_VERSION, generation };
        // Whoever finds it begun has begun it: nobody else has the claim.
        self.create_or_find(&paths::begun(generation), guarded::write("begun", &stored).into()).await.map(drop)
    }

    /// The history as it stands, given what is there; that has to be looked at first, or a commit might seem to be of a
    /// generation that is not claimed.
    pub(super) async fn history(&self, found: &Found) -> Result<History, ReadError> {
        let (claimed, mut begun) = self.generations().await?;
        let claims = self.read_claims(&claimed).await?;
        // Who has committed has begun, also where an import or an older version of this program did not say so.
        begun.extend(found.committed.iter().map(|id| id.generation));
        Ok(History::new(&claims, |generation| begun.contains(&generation)))
    }

    /// The newest generation claimed.
    pub(super) async fn newest_generation(&self) -> Result<Option<Generation>, StoreError> {
        Ok(self.generations().await?.0.pop())
    }

    /// Those that are claimed, oldest first, and those that have begun.
    async fn generations(&self) -> Result<(Vec<Generation>, BTreeSet<Generation>), StoreError> {
        let entries = self.store.list(paths::CLAIMS).await?;
        let (begun, mut claimed): (Vec<_>, Vec<_>) =
            entries.iter().filter_map(|entry| paths::of_generation(&entry.path)).partition(|(_, has_begun)| *has_begun);
        claimed.sort_unstable();
        let bare = |all: Vec<(Generation, bool)>| all.into_iter().map(|(generation, _)| generation);
        Ok((bare(claimed).collect(), bare(begun).collect()))
    }

    async fn read_claims(&self, generations: &[Generation]) -> Result<Vec<Claim>, ReadError> {
        let mut claims = Vec::with_capacity(generations.len());
        for generation in generations {
            let path = paths::claim(*generation);
            claims.push(parse(*generation, &path, &self.store.read(&path).await?)?);
        }
        Ok(claims)
    }
}

fn parse(generation: Generation, path: &str, bytes: &[u8]) -> Result<Claim, ReadError> {
    let stored: StoredClaim = guarded::read(path, "claim", bytes)?;
    if stored.claim.generation != generation {
        let (expected, found) = (generation.to_string(), stored.claim.generation.to_string());
        return Err(ReadError::Foreign { path: path.to_owned(), expected, found });
    }
    Ok(stored.claim)
}
