//! Spans as a test looks at them.

use std::sync::{Mutex, PoisonError};

use halflife_proto::trace::{Span, SpanSink};

/// Keeps what is recorded.
#[derive(Default)]
pub(super) struct Recorded(Mutex<Vec<Span>>);

impl Recorded {
    /// All so far, in order.
    pub(super) fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SpanSink for Recorded {
    fn record(&self, span: Span) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }
}
