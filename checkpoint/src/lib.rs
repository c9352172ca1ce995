//! Checkpoints: one cut of the whole state of a job, verified, in a directory or an S3 bucket.
//!
//! - [`Checkpoints`]: everything a job does with its checkpoints, an operation a file: claiming a
//!   generation, writing blocks, committing, listing, reading, verifying, pruning.
//! - What is stored: [`contents`] (blocks), [`manifest`] (what a checkpoint is), [`claim`] (which
//!   generation continues which checkpoint), [`id`].
//! - Decisions without I/O: [`history`] (which checkpoints survive), [`retention`] (which may go).
//! - [`store`]: where the bytes lie; a local directory, S3, and `faults` (feature of the same name).
//!
//! `docs/checkpoint-format.md` describes the files for programs that are not this one.
//!
//! It knows nothing of when a checkpoint is due, nor of how blocks are copied out of a running server.

pub mod checkpoints;
pub mod claim;
pub mod contents;
#[cfg(feature = "faults")]
pub mod faults;
pub mod history;
pub mod id;
pub mod manifest;
#[cfg_attr(feature = "planted-bugs", doc(hidden))]
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
pub mod retention;
pub mod store;

mod blocking;
mod data_file;
mod digest;
mod exact;
mod guarded;
mod index;
mod paths;

pub use checkpoints::{
    Checkpoints, ClaimError, CommitError, Differing, Digests, GivenUp, Listed, NonceError, OpenError, PruneError,
    Pruned, ReadError, RoomError, Verified, WriteError,
};
pub use claim::Claim;
pub use contents::{Array, ArrayDtype, BlockContents, WEIGHTS};
pub use id::CheckpointId;
pub use manifest::{
    COUNT_MAX, CheckpointManifest, FORMAT_VERSION, FileRecord, GroupLedger, NumberError, ScheduleState, SpecRevision,
};
pub use retention::Retention;
