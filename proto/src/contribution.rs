//! What a block receives for a node of the slot tree, and what became of it.

use crate::blocks::BlockId;
use crate::framing::TensorData;
use crate::ids::{Generation, Step, Ticket};
use crate::slots::SlotRange;
use crate::tensor_codec::{Dtype, Encoded};

/// The content of a contribution.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// The sum over the slots of weight x gradient, one per block element. At step 0: the initial
    /// weights.
    Dense(Encoded),
    /// No gradient for this tensor in these slots: adds nothing but its weight.
    Absent,
    /// Some slot's gradient held NaN or infinity somewhere in the model.
    Nonfinite,
}

impl Payload {
    /// Bytes of tensor data held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Payload::Dense(data) => data.bytes.len(),
            Payload::Absent | Payload::Nonfinite => 0,
        }
    }
}

/// What makes a contribution a push of the asynchronous modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// Names the push: the step whose slots it sums, whose lr and decay it is applied with.
    pub ticket: Ticket,
    /// Its worker's number for that ticket, from 1.
    pub sequence: u64,
}

/// One contribution, keyed by (generation, step, slots, block), or a push, keyed by (generation,
/// ticket, block). What the wire can tell by itself has been checked (kinds, finite positive weight); size and tree alignment are checked by the
/// block, which knows them.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// The block it is for.
    pub block: BlockId,
    /// The generation it belongs to.
    pub generation: Generation,
    /// The step it makes up; of a push, the version of the block that it was computed at.
    pub step: Step,
    /// Its slots.
    pub slots: SlotRange,
    /// Sum of the slots' sample weights.
    pub weight: f64,
    /// Its content.
    pub payload: Payload,
    /// In the asynchronous modes: whose push it is.
    pub push: Option<Push>,
}

/// What became of a contribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Counts.
    Added,
    /// Counts, in the place of smaller nodes that it covers.
    Replaced,
    /// Was already covered: counts once.
    Duplicate,
    /// Its step had been applied before it came.
    AlreadyApplied,
}

/// Tells a sender what became of its contribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The block.
    pub block: BlockId,
    /// Its generation.
    pub generation: Generation,
    /// Its step.
    pub step: Step,
    /// Its slots.
    pub slots: SlotRange,
    /// What became of it.
    pub outcome: Outcome,
    /// Newest step that survives the loss of every server.
    pub durable_step: Step,
    /// The ticket of a push.
    pub ticket: Option<Ticket>,
}

/// The weights of one block after `step` updates.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockWeights {
    /// The block.
    pub block: BlockId,
    /// The generation.
    pub generation: Generation,
    /// Updates seen.
    pub step: Step,
    /// How they are encoded: f32 or bf16.
    pub dtype: Dtype,
    /// Their bytes.
    pub data: TensorData,
    /// Learning rate its last update used.
    pub lr: f64,
    /// Decay factor its last update used.
    pub decay: f64,
}
