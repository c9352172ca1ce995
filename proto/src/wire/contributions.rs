//! Contributions, weights, acknowledgements.

use super::{read_block_id, read_dtype, read_slots, unimplemented};

use crate::contribution::{Acknowledgement, BlockWeights, Contribution, Outcome, Payload, Push};

use crate::ids::{Generation, Step, Ticket};

use crate::refusal::{Refusal, RefusalCause};

use crate::tensor_codec::Encoded;
use crate::v1;
use bytes::Bytes;

impl From<Contribution> for v1::Contribution {
    fn from(contribution: Contribution) -> v1::Contribution {
        let (kind, Encoded { dtype, bytes }) = match contribution.payload {
            Payload::Dense(data) => (v1::ContributionKind::Dense, data),
            Payload::Absent => (v1::ContributionKind::Absent, Encoded::f32(Bytes::new())),
            Payload::Nonfinite => (v1::ContributionKind::Nonfinite, Encoded::f32(Bytes::new())),
        };
        v1::Contribution {
            block: Some(contribution.block.into()),
            generation: contribution.generation.0,
            step: contribution.step.0,
            slots: Some(contribution.slots.into()),
            kind: kind.into(),
            weight: contribution.weight,
            dtype: v1::Dtype::from(dtype).into(),
            data: bytes,
            ticket: contribution.push.map_or(0, |push| push.ticket.0),
            sequence: contribution.push.map_or(0, |push| push.sequence),
        }
    }
}

/// Reads a contribution.
///
/// # Errors
/// A [`Refusal`] of what the message alone shows to be wrong.
pub fn read_contribution(wire: v1::Contribution) -> Result<Contribution, Refusal> {
    let push = match (wire.ticket, wire.sequence) {
        (0, 0) => None,
        (ticket, sequence) if ticket > 0 && sequence > 0 => Some(Push { ticket: Ticket(ticket), sequence }),
        (ticket, sequence) => {
            let found = format!("ticket {ticket}, sequence {sequence}");
            return Err(Refusal::mismatch(RefusalCause::Malformed, "push", "both from 1, or both 0", found));
        }
    };
    let kind = wire.kind();
    let payload = match kind {
        v1::ContributionKind::Dense => Payload::Dense(Encoded { dtype: read_dtype(wire.dtype)?, bytes: wire.data }),
        v1::ContributionKind::Absent | v1::ContributionKind::Nonfinite if !wire.data.is_empty() => {
            let found = format!("{} bytes", wire.data.len());
            return Err(Refusal::mismatch(
                RefusalCause::WrongSize,
                format!("{} contribution", kind.as_str_name()),
                "no data",
                found,
            ));
        }
        v1::ContributionKind::Absent => Payload::Absent,
        v1::ContributionKind::Nonfinite => Payload::Nonfinite,
        v1::ContributionKind::Rows => return Err(unimplemented("contribution kind `rows`")),
        v1::ContributionKind::Delta => return Err(unimplemented("contribution kind `delta`")),
        v1::ContributionKind::Unspecified => {
            return Err(Refusal::mismatch(
                RefusalCause::Malformed,
                "contribution kind",
                "dense, absent or nonfinite",
                wire.kind,
            ));
        }
    };
    if !(wire.weight.is_finite() && wire.weight > 0.0) {
        return Err(Refusal::mismatch(
            RefusalCause::InvalidWeight,
            "sample weight",
            "a positive finite number",
            wire.weight,
        ));
    }
    Ok(Contribution {
        block: read_block_id(wire.block)?,
        generation: Generation(wire.generation),
        step: Step(wire.step),
        slots: read_slots(wire.slots)?,
        weight: wire.weight,
        payload,
        push,
    })
}

impl From<BlockWeights> for v1::WeightBlock {
    fn from(weights: BlockWeights) -> v1::WeightBlock {
        v1::WeightBlock {
            block: Some(weights.block.into()),
            generation: weights.generation.0,
            step: weights.step.0,
            dtype: v1::Dtype::from(weights.dtype).into(),
            data: weights.data.into_contiguous(),
            lr: weights.lr,
            decay: weights.decay,
        }
    }
}

/// Reads a block's weights; dtype and size are the client's to check.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_weights(wire: v1::WeightBlock) -> Result<BlockWeights, Refusal> {
    Ok(BlockWeights {
        dtype: read_dtype(wire.dtype)?,
        block: read_block_id(wire.block)?,
        generation: Generation(wire.generation),
        step: Step(wire.step),
        data: wire.data.into(),
        lr: wire.lr,
        decay: wire.decay,
    })
}

impl From<Acknowledgement> for v1::Acknowledgement {
    fn from(ack: Acknowledgement) -> v1::Acknowledgement {
        let outcome = match ack.outcome {
            Outcome::Added => v1::Outcome::Added,
            Outcome::Replaced => v1::Outcome::Replaced,
            Outcome::Duplicate => v1::Outcome::Duplicate,
            Outcome::AlreadyApplied => v1::Outcome::AlreadyApplied,
        };
        v1::Acknowledgement {
            block: Some(ack.block.into()),
            generation: ack.generation.0,
            step: ack.step.0,
            slots: Some(ack.slots.into()),
            outcome: outcome.into(),
            durable_step: ack.durable_step.0,
            ticket: ack.ticket.map_or(0, |ticket| ticket.0),
        }
    }
}

/// Reads an acknowledgement.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_acknowledgement(wire: v1::Acknowledgement) -> Result<Acknowledgement, Refusal> {
    let outcome = match wire.outcome() {
        v1::Outcome::Added => Outcome::Added,
        v1::Outcome::Replaced => Outcome::Replaced,
        v1::Outcome::Duplicate => Outcome::Duplicate,
        v1::Outcome::AlreadyApplied => Outcome::AlreadyApplied,
        v1::Outcome::Unspecified => {
            return Err(Refusal::mismatch(RefusalCause::Malformed, "outcome", "a known outcome", wire.outcome));
        }
    };
    Ok(Acknowledgement {
        block: read_block_id(wire.block)?,
        generation: Generation(wire.generation),
        step: Step(wire.step),
        slots: read_slots(wire.slots)?,
        outcome,
        durable_step: Step(wire.durable_step),
        ticket: (wire.ticket > 0).then_some(Ticket(wire.ticket)),
    })
}
