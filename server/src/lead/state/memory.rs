//! What a job may need of each server's memory: reserved at the join (DESIGN.md rule 9), so that no
//! contribution is refused for it afterwards.
//!
//! An upper bound, not an estimate: a gradient of every slot may wait for the last of its step, and every
//! worker may have a whole window of data under way.

use std::num::NonZeroU64;

use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::{HTTP2_SEND_BYTES, HTTP2_WINDOW_BYTES};

/// What decides how much memory a job needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Weights (two versions, with what a lossy wire carries of them) and planes, per element.
    pub state_bytes: u64,
    /// One slot's gradient as it waits, per element.
    pub gradient_bytes: u64,
    /// Slots of a step, whose gradients may wait for the last of them.
    pub slots: u64,
    /// Gradients that each worker may have waiting besides: a push, in the asynchronous modes.
    pub pushes: u64,
}

/// A worker's connection: what it may send unread, and what may be ready for it.
const CONNECTION_BYTES: u64 = HTTP2_WINDOW_BYTES as u64 + HTTP2_SEND_BYTES as u64;

impl Demand {
    /// Bytes that a server of so many elements may need with so many workers.
    #[must_use]
    pub fn reserved(&self, elements: u64, workers: u64) -> u64 {
        let gradients = self.slots.saturating_add(self.pushes.saturating_mul(workers));
        let per_element = self.state_bytes.saturating_add(self.gradient_bytes.saturating_mul(gradients));
        elements.saturating_mul(per_element).saturating_add(workers.saturating_mul(CONNECTION_BYTES))
    }

    /// Checks a server's share against its bound.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, with what takes how much.
    pub fn check(&self, name: &str, bound: Option<NonZeroU64>, elements: u64, workers: u64) -> Result<(), Refusal> {
        let needed = self.reserved(elements, workers);
        let Some(bound) = bound.filter(|bound| needed > bound.get()) else { return Ok(()) };
        let Demand { state_bytes, gradient_bytes, slots, pushes } = self;
        let gradients = slots + pushes * workers;
        let expected = format!("at most --memory-max {bound} bytes");
        let found = format!(
            "{needed} bytes: {elements} elements of {state_bytes} bytes and {gradients} gradients of {gradient_bytes}, \
             {workers} workers' connections of {CONNECTION_BYTES}"
        );
        Err(Refusal::mismatch(RefusalCause::OutOfMemory, format!("memory of {name}"), expected, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_wait_is_counted_for_every_slot_and_worker() {
        let demand = Demand { state_bytes: 16, gradient_bytes: 4, slots: 8, pushes: 0 };
        assert_eq!(demand.reserved(1000, 3), 48_000 + 3 * CONNECTION_BYTES);
        let asynchronous = Demand { slots: 0, pushes: 1, ..demand };
        assert_eq!(asynchronous.reserved(1000, 3), 28_000 + 3 * CONNECTION_BYTES);
        let bound = NonZeroU64::new(demand.reserved(1000, 3));
        assert_eq!(demand.check("server 1", bound, 1000, 3), Ok(()));
        assert_eq!(demand.check("server 1", None, u64::MAX, u64::MAX), Ok(()));
        let refusal = demand.check("server 1", bound, 1001, 3).unwrap_err();
        assert_eq!(refusal.cause, RefusalCause::OutOfMemory);
        assert!(refusal.to_string().contains("memory of server 1"), "{refusal}");
    }
}
