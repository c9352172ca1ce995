//! The part of a job that every party knows.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, JobId};

/// How the slots' gradients become the step's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Their sum divided by the number of slots.
    #[default]
    Mean,
    /// Sum of weight x gradient divided by the sum of weights.
    WeightedMean,
    /// Their sum.
    Sum,
}

/// When a step is applied. The other modes of the contract are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// When every slot is in.
    #[default]
    Sync,
}

/// What a worker needs to know of a job before it joins.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDescription {
    /// Its name.
    pub id: JobId,
    /// Incarnation of its state.
    pub generation: Generation,
    /// Everything random follows from it.
    pub seed: u64,
    /// Gradient contributions that make up a step.
    pub slots: u32,
    /// Steps in the whole run.
    pub steps: u64,
    /// Elements per block.
    pub block_elements: u64,
    /// How slots combine.
    pub combine: Combine,
    /// When a step is applied.
    pub mode: Mode,
    /// `[model]`, `[data]` and `[training]` of the job file as TOML; empty when it has none.
    pub workload_toml: String,
    /// Revision of the job file.
    pub spec_revision: u64,
    /// `[optimizer]` of the job file as TOML, for whoever predicts or explains its steps.
    pub optimizer_toml: String,
}
