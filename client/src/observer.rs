//! What a worker's streams carry, counted and traced for whoever watches the worker. Shared by all its streams.
//!
//! Counts are atomics; a span is recorded of sampled steps alone, and costs all others a comparison.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use halflife_proto::hello::Hello;
use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::trace::{Anchor, Span, Spans, TraceContext, TraceId};

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
    spans: Spans,
    /// The worker's number in the job.
    number: AtomicU32,
    /// When the first weights of a sampled step came.
    first_weights: Mutex<Option<(Step, SystemTime)>>,
}

impl Observer {
    /// Nothing counted; spans go to `spans`.
    #[must_use]
    pub fn new(spans: Spans) -> Observer {
        Observer(Arc::new(Counts { spans, ..Counts::default() }))
    }

    /// Where spans go.
    #[must_use]
    pub fn spans(&self) -> &Spans {
        &self.0.spans
    }

    /// When the first block of the weights of `step` came, where that step is sampled.
    #[must_use]
    pub fn first_weights_of(&self, step: Step) -> Option<SystemTime> {
        self.first_weights().filter(|(of, _)| *of == step).map(|(_, at)| at)
    }

    fn first_weights(&self) -> std::sync::MutexGuard<'_, Option<(Step, SystemTime)>> {
        // A value is replaced whole.
        self.0.first_weights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn joined(&self, number: u32) {
        self.0.number.store(number, Relaxed);
    }

    /// The value of `traceparent` for a call of this session, where it is recorded.
    pub(crate) fn traceparent<T: std::str::FromStr>(&self, hello: &Hello) -> Option<T> {
        let context = self.spans().is_on().then(|| TraceContext::of_session(hello)).flatten()?;
        context.to_string().parse().ok()
    }

    /// A block's weights of `step` came.
    pub(crate) fn weights_came(&self, step: Step) {
        if self.spans().samples(step) {
            let mut first = self.first_weights();
            if first.is_none_or(|(of, _)| of != step) {
                *first = Some((step, SystemTime::now()));
            }
        }
    }

    /// A gradient of `step` went out to `server` from `begin` until now.
    pub(crate) fn pushed(&self, hello: &Hello, step: Step, server: ServerIndex, begin: SystemTime) {
        let Some(job) = &hello.job else { return };
        let trace = TraceId::of_step(job, hello.generation, step);
        self.spans().record(Span {
            trace,
            id: None,
            parent: Some(trace.anchor(Anchor::Worker(self.0.number.load(Relaxed)))),
            name: "worker.push",
            begin,
            end: SystemTime::now(),
            attributes: vec![("halflife.step", step.0.into()), ("halflife.server", u64::from(server.0).into())],
        });
    }

    /// The membership that `hello` began, recorded when it is over.
    pub(crate) fn session(&self, hello: &Hello, number: u32) -> SessionSpan {
        let context = self.spans().is_on().then(|| TraceContext::of_session(hello)).flatten();
        SessionSpan { spans: self.spans().clone(), context, begin: SystemTime::now(), number }
    }

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

/// A membership, recorded when it is dropped.
#[derive(Debug)]
pub(crate) struct SessionSpan {
    spans: Spans,
    context: Option<TraceContext>,
    begin: SystemTime,
    number: u32,
}

impl Drop for SessionSpan {
    fn drop(&mut self) {
        if let Some(TraceContext { trace, span, .. }) = self.context {
            self.spans.record(Span {
                trace,
                id: Some(span),
                parent: None,
                name: "worker.session",
                begin: self.begin,
                end: SystemTime::now(),
                attributes: vec![("halflife.worker", u64::from(self.number).into())],
            });
        }
    }
}
