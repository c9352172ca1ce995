//! Why another program's weights and moments do not become a job.

use halflife_checkpoint::{ClaimError, CommitError, ReadError, RoomError, WriteError};
use halflife_optim::ConfigError;
use thiserror::Error;

use crate::interchange::InterchangeError;

/// Why a job was not imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The files are not the job's.
    #[error(transparent)]
    Interchange(#[from] InterchangeError),
    /// The optimizer's settings are wrong.
    #[error(transparent)]
    Optimizer(#[from] ConfigError),
    /// The job is over by then.
    #[error("--step {step}: expected at most {steps}, the job's steps")]
    Beyond {
        /// The step given.
        step: u64,
        /// The job's last.
        steps: u64,
    },
    /// Nothing to train, or too much.
    #[error("{path}: expected {expected}, found {found}")]
    Unfit {
        /// The weights file.
        path: String,
        /// What a job takes.
        expected: String,
        /// What came.
        found: String,
    },
    /// The store is another job's.
    #[error("{location}: expected a place that holds no job yet, found {found}. Give another checkpoint.location")]
    Occupied {
        /// The store.
        location: String,
        /// What is there.
        found: String,
    },
    /// The store has no room.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Somebody else was quicker.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Blocks were not written. The claim of the job stays: empty the place before another attempt.
    #[error("{0}; remove what was written before another attempt")]
    Write(#[from] WriteError),
    /// The manifest was not written.
    #[error("{0}; remove what was written before another attempt")]
    Commit(#[from] CommitError),
}
