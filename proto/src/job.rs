//! The part of a job that every party knows.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, JobId};
use crate::manifest::Role;
use crate::tensor_codec::Dtype;

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

/// When a step is applied. `local` of the contract is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// When every slot is in, or a quorum of them.
    #[default]
    Sync,
    /// Each push at once; no worker starts more than so many of its own pushes ahead of the slowest.
    Bounded,
    /// Each push at once.
    Async,
}

impl Mode {
    /// Whether workers push with tickets, each by itself.
    #[must_use]
    pub fn has_tickets(self) -> bool {
        matches!(self, Mode::Bounded | Mode::Async)
    }

    /// As the job file writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Bounded => "bounded",
            Mode::Async => "async",
        }
    }
}

/// When steps are applied: `mode`, `quorum` and `staleness` of the job file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Consistency {
    /// The mode.
    pub mode: Mode,
    /// Sync: slots that make a step; `None`: all of them.
    pub quorum: Option<u32>,
    /// Bounded: how many of its own pushes a worker may be ahead of the slowest.
    pub staleness: Option<u64>,
}

impl Consistency {
    /// The quorum, if it is less than all `slots`: otherwise there is nothing to choose.
    #[must_use]
    pub fn partial_quorum(self, slots: u32) -> Option<u32> {
        self.quorum.filter(|quorum| *quorum < slots)
    }

    /// Why the trained bits depend on who was fast (promise P2 is off); `None` when they do not.
    #[must_use]
    pub fn why_not_reproducible(self, slots: u32) -> Option<&'static str> {
        match self.mode {
            Mode::Bounded | Mode::Async => Some("pushes are applied in the order in which they come"),
            Mode::Sync if self.partial_quorum(slots).is_some() => {
                Some("the slots that come first make a step: which they are depends on who is fast")
            }
            Mode::Sync => None,
        }
    }
}

/// How tensor data travels on step streams, by direction: `[wire]` of the job file.
///
/// Initial weights and what is pulled are f32 whatever stands here: they are the masters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wire {
    /// Contributions to trainable tensors. A lossy dtype carries single slots only.
    pub gradients: Dtype,
    /// Weights to the workers: f32 or bf16.
    pub weights: Dtype,
}

impl Wire {
    /// Dtypes that weights may travel in. Eight bits are too few for them: there is no error feedback
    /// for a value that is read and not summed.
    pub const WEIGHT_DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

    /// The dtype of contributions to a tensor of this role. Buffers hold statistics, not gradients: a
    /// variance must not be rounded to zero because its neighbours are large, so they travel as f32.
    #[must_use]
    pub fn contributions(self, role: &Role) -> Dtype {
        match role {
            Role::Trainable | Role::Frozen | Role::Tied(_) => self.gradients,
            Role::Buffer => Dtype::F32,
        }
    }

    /// Why the trained bits depend on which worker computed what (promise P2 is off); `None` when
    /// they do not. Rounding alone is no reason: each slot is rounded alone, the same way everywhere.
    #[must_use]
    pub fn why_not_reproducible(self) -> Option<&'static str> {
        (self.gradients == Dtype::I8Scaled)
            .then_some("gradients travel as i8 with error feedback: what a worker sends depends on what it sent before")
    }
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
    pub consistency: Consistency,
    /// `[model]`, `[data]` and `[training]` of the job file as TOML; empty when it has none.
    pub workload_toml: String,
    /// Revision of the job file.
    pub spec_revision: u64,
    /// `[optimizer]` of the job file as TOML, for whoever predicts or explains its steps.
    pub optimizer_toml: String,
    /// How tensor data travels.
    pub wire: Wire,
    /// The state is kept: a lost server does not end the job, and it is done when its last checkpoint is.
    pub keeps_checkpoints: bool,
}

impl JobDescription {
    /// Why the trained bits depend on who computed what, or when (promise P2 is off); `None` when they
    /// do not.
    #[must_use]
    pub fn why_not_reproducible(&self) -> Option<&'static str> {
        self.consistency.why_not_reproducible(self.slots).or(self.wire.why_not_reproducible())
    }
}
