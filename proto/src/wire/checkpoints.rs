//! What lead and servers tell each other of checkpoints.

use crate::ids::{Generation, Step};
use crate::membership::{CheckpointName, CheckpointPlan, SavedFile};
use crate::refusal::{Refusal, RefusalCause};
use crate::v1;

impl From<CheckpointName> for v1::CheckpointId {
    fn from(name: CheckpointName) -> v1::CheckpointId {
        v1::CheckpointId { step: name.step.0, generation: name.generation.0 }
    }
}

impl From<v1::CheckpointId> for CheckpointName {
    fn from(wire: v1::CheckpointId) -> CheckpointName {
        CheckpointName { step: Step(wire.step), generation: Generation(wire.generation) }
    }
}

impl From<CheckpointPlan> for v1::CheckpointPlan {
    fn from(plan: CheckpointPlan) -> v1::CheckpointPlan {
        v1::CheckpointPlan { nonce: plan.nonce, restore: plan.restore.map(Into::into) }
    }
}

/// Reads what a server must know of checkpoints.
pub(super) fn read_plan(wire: v1::CheckpointPlan) -> CheckpointPlan {
    CheckpointPlan { nonce: wire.nonce, restore: wire.restore.map(Into::into) }
}

/// A server's part of the checkpoint of `step`.
pub(super) fn saved(step: Step, file: SavedFile) -> v1::Saved {
    v1::Saved {
        step: step.0,
        bytes: file.bytes,
        header_bytes: file.header_bytes,
        header_blake3: file.header_blake3.to_vec().into(),
        index_blake3: file.index_blake3.to_vec().into(),
    }
}

/// Reads a server's part of a checkpoint.
///
/// # Errors
/// `MALFORMED` for a digest of another length.
pub(super) fn read_saved(wire: &v1::Saved) -> Result<SavedFile, Refusal> {
    let digest = |name: &str, bytes: &[u8]| {
        <[u8; 32]>::try_from(bytes).map_err(|_| {
            let found = format!("{} bytes", bytes.len());
            Refusal::mismatch(RefusalCause::Malformed, format!("{name} of a checkpoint's file"), "32 bytes", found)
        })
    };
    Ok(SavedFile {
        bytes: wire.bytes,
        header_bytes: wire.header_bytes,
        header_blake3: digest("header_blake3", &wire.header_blake3)?,
        index_blake3: digest("index_blake3", &wire.index_blake3)?,
    })
}
