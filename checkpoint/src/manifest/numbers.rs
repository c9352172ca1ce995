//! The numbers of a manifest, checked where it is read and before it is written: whoever has a manifest computes with them
//! without a further look.
//!
//! A digest says that bytes are those that were written, not that they make sense. Does not: check the model (`Manifest::new`
//! does), nor what the files say of themselves (`checkpoints/server_file.rs`).

use halflife_proto::blocks::{BLOCK_ELEMENTS_MAX, BLOCKS_MAX, block_count};
use halflife_proto::ids::Step;
use thiserror::Error;

use super::CheckpointManifest;

/// Largest count that is read. No job gets there; one more, or two of them together, still are a u64, and each is the i64
/// that torch counts with.
pub const COUNT_MAX: u64 = i64::MAX as u64;

/// A number that no job writes, and that nobody could go on with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NumberError {
    /// A block size that is not a power of two in range.
    #[error("block_elements: expected a power of two up to {BLOCK_ELEMENTS_MAX}, found {found}")]
    BlockElements {
        /// What is there.
        found: u64,
    },
    /// More blocks than a job may have.
    #[error("model: expected at most {BLOCKS_MAX} blocks, found {found}")]
    Blocks {
        /// How many there would be.
        found: u64,
    },
    /// A schedule that stands elsewhere than the checkpoint.
    #[error("schedule: expected next_step {}, found {}", expected.0, found.0)]
    NextStep {
        /// The step after the checkpoint's.
        expected: Step,
        /// What is there.
        found: Step,
    },
    /// A count out of range.
    #[error("{what}: expected at most {COUNT_MAX}, found {found}")]
    Count {
        /// What is counted.
        what: String,
        /// What is there.
        found: u64,
    },
}

impl CheckpointManifest {
    /// Makes sure that its numbers are those of a job.
    ///
    /// # Errors
    /// [`NumberError`] names the first that is not.
    pub fn check_numbers(&self) -> Result<(), NumberError> {
        let CheckpointManifest { id, model, block_elements, ledger, schedule, counters, .. } = self;
        if !block_elements.is_power_of_two() || *block_elements > BLOCK_ELEMENTS_MAX {
            return Err(NumberError::BlockElements { found: *block_elements });
        }
        // 2^20 tensors of 2^40 elements at most: the sum is a u64.
        let blocks: u64 = model.tensors().iter().map(|tensor| block_count(tensor, *block_elements)).sum();
        if blocks > BLOCKS_MAX {
            return Err(NumberError::Blocks { found: blocks });
        }
        let (expected, found) = (id.step.next(), schedule.next_step);
        if expected != found {
            return Err(NumberError::NextStep { expected, found });
        }
        let of_groups = ledger.iter().map(|group| (format!("steps of group {:?}", group.group), group.steps));
        let counts = counters.iter().map(|(name, count)| (format!("counter {name:?}"), *count));
        match of_groups.chain(counts).find(|(_, count)| *count > COUNT_MAX) {
            Some((what, found)) => Err(NumberError::Count { what, found }),
            None => Ok(()),
        }
    }
}
