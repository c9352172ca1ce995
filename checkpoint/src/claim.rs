//! Claims: which generation belongs to whom, and which checkpoint it continues.
//!
//! A claim is created once, before any message carries its generation, and never changes; the claims
//! of a store therefore tell the whole history of its job, together with which of their generations have begun.

use halflife_proto::ids::{Generation, JobId, Step};
use serde::{Deserialize, Serialize};

use crate::id::CheckpointId;

/// One generation of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The generation.
    #[serde(with = "crate::exact::generation")]
    pub generation: Generation,
    /// Who claims it: unique per attempt, so that a claimant whose answer was lost knows its own claim.
    pub claimant: String,
    /// The job.
    pub job: JobId,
    /// The checkpoint it starts from; `None` starts from nothing.
    pub continues: Option<CheckpointId>,
    /// The job's settings in this generation.
    pub spec_toml: String,
    /// The first step that `spec_toml` is in force for.
    #[serde(with = "crate::exact::step")]
    pub from_step: Step,
}

/// What is stored beside a claim once its generation has begun.
#[derive(Serialize)]
pub(crate) struct StoredBeginning {
    pub format_version: u32,
    #[serde(with = "crate::exact::generation")]
    pub generation: Generation,
}

/// A claim as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredClaim {
    pub format_version: u32,
    pub claim: Claim,
}
