//! The only conversions between the wire and the domain, and the check of what arrives.
//!
//! `From` builds wire messages; the `read_*` functions build domain values or refuse. What only
//! the receiver can know (tensor sizes, slot trees, steps) is checked by the receiver.

mod checkpoints;
mod contributions;
mod hello;
mod job;
mod membership;
mod model;
mod tickets;

use crate::refusal::{Refusal, RefusalCause};

pub use contributions::{read_acknowledgement, read_contribution, read_weights};
pub use hello::read_hello;
pub use job::{read_job, read_wire};
pub use membership::{read_assignment, read_notice, read_order, read_report};
pub use model::{read_block_id, read_dtype, read_manifest, read_placement, read_slots};
pub use tickets::{read_operation, read_ticket_answer};

/// The field of a message that must be there.
///
/// # Errors
/// `MALFORMED`, naming the field.
pub fn required<T>(field: Option<T>, name: &str) -> Result<T, Refusal> {
    field.ok_or_else(|| {
        Refusal::mismatch(RefusalCause::Malformed, "incomplete message", format!("field `{name}`"), "none")
    })
}

fn unimplemented(what: &str) -> Refusal {
    Refusal::new(RefusalCause::Unimplemented, format!("{what} is reserved in the contract and not built yet"))
}

/// Most slots a step may have.
pub const SLOTS_MAX: u32 = 1 << 20;

#[cfg(test)]
mod tests;
