//! What may go wrong with a `checkpoint` command.

use halflife_checkpoint::{OpenError, PruneError, ReadError};
use thiserror::Error;

use crate::config::ConfigError;
use crate::interchange::InterchangeError;
use crate::interchange::import::ImportError;
use crate::operator::OperatorError;

/// Why a command did not do what was asked.
#[derive(Debug, Error)]
pub enum CheckpointCommandError {
    /// The job file.
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// A job that keeps no checkpoints.
    #[error("{config}: expected a section [checkpoint], found none")]
    NoSection {
        /// The job file.
        config: String,
    },
    /// Neither a place nor a job file, or both.
    #[error("expected {expected}, found {found}")]
    Place {
        /// What a command line says.
        expected: &'static str,
        /// What it said.
        found: String,
    },
    /// Not a place for checkpoints.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No directory.
    #[error("{location}: expected a directory with checkpoints, found none")]
    NoDirectory {
        /// The place.
        location: String,
    },
    /// No checkpoint, or not this one.
    #[error("{location}: expected {expected}, found {found}")]
    NoCheckpoint {
        /// The place.
        location: String,
        /// What was looked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The store failed, or something in it is damaged.
    #[error("{location}: {source}")]
    Read {
        /// The place.
        location: String,
        /// What is wrong.
        source: Box<ReadError>,
    },
    /// Checkpoints that did not verify; each was named.
    #[error("{location}: expected every checkpoint to be whole, found {damaged} of {of} damaged")]
    Damaged {
        /// The place.
        location: String,
        /// How many.
        damaged: usize,
        /// How many were looked at.
        of: usize,
    },
    /// Pruning stopped.
    #[error("{location}: {source}")]
    Prune {
        /// The place.
        location: String,
        /// Why.
        source: Box<PruneError>,
    },
    /// The lead.
    #[error(transparent)]
    Lead(#[from] OperatorError),
    /// The checkpoint that was asked for was given up.
    #[error("expected a checkpoint of step {step} or later, found it given up: {why}")]
    GivenUp {
        /// The step asked for.
        step: u64,
        /// The lead's reason.
        why: String,
    },
    /// The job ended, or went back.
    #[error("expected a checkpoint of step {step} or later, found that {found}")]
    Overtaken {
        /// The step asked for.
        step: u64,
        /// What happened.
        found: String,
    },
    /// Nothing came of it in time.
    #[error("expected a checkpoint of step {step} or later within {seconds} s, found none: {standing}")]
    TimedOut {
        /// The step asked for.
        step: u64,
        /// How long it was waited for.
        seconds: u64,
        /// How the job stands.
        standing: String,
    },
    /// Files that are exchanged.
    #[error(transparent)]
    Interchange(#[from] InterchangeError),
    /// A job that was not imported.
    #[error(transparent)]
    Import(#[from] Box<ImportError>),
}
