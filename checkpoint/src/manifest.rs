//! The manifest of a checkpoint: what it is of, and which files hold it.
//!
//! Written last; a checkpoint is committed when its manifest exists. It vouches for the other files by
//! their sizes and digests.

use std::collections::BTreeMap;

use halflife_proto::ids::{JobId, ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use serde::{Deserialize, Serialize};

use crate::id::CheckpointId;

mod model;
mod numbers;

pub use numbers::{COUNT_MAX, NumberError};

/// The version of the stored format that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// The files of one server. Small: it crosses the wire from the server to the lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// The server that wrote them.
    #[serde(with = "crate::exact::server")]
    pub server: ServerIndex,
    /// Size of the data file.
    pub bytes: u64,
    /// Bytes of the data file before the data: the length of the header and the header.
    pub header_bytes: u64,
    /// Digest of those bytes.
    #[serde(with = "crate::exact::digest")]
    pub header_blake3: [u8; 32],
    /// Digest of the index file.
    #[serde(with = "crate::exact::digest")]
    pub index_blake3: [u8; 32],
}

/// Settings of the job from a step on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecRevision {
    /// The first step they are in force for.
    #[serde(with = "crate::exact::step")]
    pub from_step: Step,
    /// The settings.
    pub spec_toml: String,
}

/// The decay of one parameter group so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupLedger {
    /// Name of the group.
    pub group: String,
    /// Steps counted.
    pub steps: u64,
    /// Sum of ln(1 - decay factor) over them; negative infinity once a step has decayed all.
    #[serde(with = "crate::exact::float")]
    pub log_remaining: f64,
}

/// Where the schedules stand. They are functions of the step alone: this is checked, not restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleState {
    /// The step that comes next.
    #[serde(with = "crate::exact::step")]
    pub next_step: Step,
    /// Learning rate of that step, before the groups' multipliers.
    #[serde(with = "crate::exact::float")]
    pub lr: f64,
    /// What the decay schedule multiplies the weight decay by in that step.
    #[serde(with = "crate::exact::float")]
    pub decay: f64,
}

/// What a checkpoint is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Its name, which its directory repeats.
    pub id: CheckpointId,
    /// The job.
    pub job: JobId,
    /// How the job applies steps.
    pub mode: String,
    /// The job's settings now.
    pub spec_toml: String,
    /// The settings of each stretch of steps so far, oldest first.
    pub revisions: Vec<SpecRevision>,
    /// Every tensor, in the order that numbers them.
    #[serde(with = "model")]
    pub model: Manifest,
    /// Elements per block.
    pub block_elements: u64,
    /// One record per server that wrote blocks.
    pub files: Vec<FileRecord>,
    /// Digest of the weights alone: BLAKE3 over the blocks' weights digests in block order, in hex.
    #[serde(with = "crate::exact::digest")]
    pub weights_digest: [u8; 32],
    /// Digest of the whole state: BLAKE3 over the blocks' digests in block order, in hex.
    #[serde(with = "crate::exact::digest")]
    pub state_digest: [u8; 32],
    /// Decay of each group so far.
    pub ledger: Vec<GroupLedger>,
    /// Where the schedules stand.
    pub schedule: ScheduleState,
    /// Contributions undone, void and torn so far, by name.
    pub counters: BTreeMap<String, u64>,
}
