//! What a worker's streams carry, counted for whoever watches the worker: atomics, shared by all streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use halflife_proto::ids::Step;

/// Watches the streams of one worker. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Observer(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    streams_opened: AtomicU64,
    /// Of the newest weights.
    step: AtomicU64,
}

impl Observer {
    /// Bytes of messages that went into step streams.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.load(Relaxed)
    }

    /// Bytes of messages that came on step streams.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.0.received_bytes.load(Relaxed)
    }

    /// Step streams opened: one per server, and one more each time that one broke.
    #[must_use]
    pub fn streams_opened(&self) -> u64 {
        self.0.streams_opened.load(Relaxed)
    }

    /// Step of the newest weights that are whole.
    #[must_use]
    pub fn step(&self) -> Step {
        Step(self.0.step.load(Relaxed))
    }

    pub(crate) fn weights_whole(&self, step: Step) {
        self.0.step.store(step.0, Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.0.sent_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.0.received_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn stream_opened(&self) {
        self.0.streams_opened.fetch_add(1, Relaxed);
    }
}
