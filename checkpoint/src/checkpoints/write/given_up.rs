//! Giving up what is being written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells a write that nobody wants it any more. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    /// The write ends with the part that is under way, and lets go of its memory.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is given up.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gives up when it is dropped: with it goes whoever would have waited.
#[derive(Debug, Default)]
pub(super) struct GivenUpOnDrop(pub(super) GivenUp);

impl Drop for GivenUpOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}
