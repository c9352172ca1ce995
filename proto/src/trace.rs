//! Traces: how spans of many processes find into one tree, without a word on the wire.
//!
//! The trace of a step has an id that follows from job, generation and step, and so have the spans that others hang theirs
//! under: the step's own, each worker's and each server's part of it. So every process makes the same ids by itself, and a
//! long-lived stream, which carries many steps, need not say which. A stream's opening says which *session* it belongs
//! to, in W3C's `traceparent`, as calls do. docs/tracing.md is for people.
//!
//! Only ids and their texts; who records spans, and where they go, is a [`SpanSink`]'s business.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::hello::Hello;
use crate::ids::{Generation, Incarnation, JobId, Step};

/// Metadata of a call that tells what it is part of: <https://www.w3.org/TR/trace-context/>.
pub const TRACEPARENT: &str = "traceparent";

/// Names a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Names a span within its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// A span that others hang theirs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The step, or the session, itself: the root.
    Root,
    /// A worker's part of the step, by its number.
    Worker(u32),
    /// A server's part of the step, by its index.
    Server(u32),
}

impl TraceId {
    /// Of a step; in the asynchronous modes, of a ticket.
    #[must_use]
    pub fn of_step(job: &JobId, generation: Generation, step: Step) -> TraceId {
        TraceId::derived("step", job, generation, step.0)
    }

    /// Of a worker's membership.
    #[must_use]
    pub fn of_session(job: &JobId, generation: Generation, worker: Incarnation) -> TraceId {
        TraceId::derived("session", job, generation, worker.0)
    }

    fn derived(kind: &str, job: &JobId, generation: Generation, number: u64) -> TraceId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(kind.as_bytes()).update(&generation.0.to_le_bytes()).update(&number.to_le_bytes());
        TraceId(first(&hasher.update(job.0.as_bytes()).finalize()))
    }

    /// The id of one of its spans that everybody knows.
    #[must_use]
    pub fn anchor(self, anchor: Anchor) -> SpanId {
        let (kind, number) = match anchor {
            Anchor::Root => (0u8, 0),
            Anchor::Worker(number) => (1, number),
            Anchor::Server(index) => (2, index),
        };
        let mut hasher = blake3::Hasher::new();
        SpanId(first(&hasher.update(&self.0).update(&[kind]).update(&number.to_le_bytes()).finalize()))
    }
}

/// The first bytes of a hash. That all are zero, which no id may be, has a probability of nothing.
fn first<const N: usize>(hash: &blake3::Hash) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&hash.as_bytes()[..N]);
    bytes
}

/// What a call is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that the call is made in.
    pub span: SpanId,
    /// Whether the caller records it.
    pub sampled: bool,
}

impl TraceContext {
    /// The session of a worker that introduces itself so; `None` before it knows its job.
    #[must_use]
    pub fn of_session(hello: &Hello) -> Option<TraceContext> {
        let trace = TraceId::of_session(hello.job.as_ref()?, hello.generation, hello.incarnation);
        Some(TraceContext { trace, span: trace.anchor(Anchor::Root), sampled: true })
    }

    /// Reads a `traceparent`; `None` for what is none of a version that is known or compatible.
    #[must_use]
    pub fn parse(text: &str) -> Option<TraceContext> {
        let mut parts = text.trim().split('-');
        let [version, trace, span, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let [version] = hex::<1>(version)?;
        // Version 0 ends here; later ones may go on.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, span, [flags]) = (hex::<16>(trace)?, hex::<8>(span)?, hex::<1>(flags)?);
        let valid = trace != [0; 16] && span != [0; 8];
        valid.then_some(TraceContext { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 == 1 })
    }
}

/// Reads lower-case hexadecimal of exactly `N` bytes.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (digits, rest) = text.as_bytes().as_chunks::<2>();
    if digits.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(digits) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-0{}", u8::from(self.sampled))
    }
}

/// Something that took a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its trace.
    pub trace: TraceId,
    /// Its id where others hang theirs under it; `None`: any.
    pub id: Option<SpanId>,
    /// The span that it is part of.
    pub parent: Option<SpanId>,
    /// What was done, as docs/tracing.md lists it.
    pub name: &'static str,
    /// When it began.
    pub begin: SystemTime,
    /// When it was over.
    pub end: SystemTime,
    /// What more is known.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// What is known more of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Attribute {
        Attribute::Number(number)
    }
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Attribute {
        Attribute::Text(text.to_owned())
    }
}

/// Where spans go.
pub trait SpanSink: Send + Sync {
    /// Takes one; never waits.
    fn record(&self, span: Span);
}

/// Records spans of the steps that are sampled; nothing at all by default. Clones share the sink.
#[derive(Clone, Default)]
pub struct Spans {
    sink: Option<Arc<dyn SpanSink>>,
    every: u64,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("on", &self.is_on()).field("every", &self.every).finish()
    }
}

impl Spans {
    /// Records every `every`-th step and every session.
    #[must_use]
    pub fn new(sink: Arc<dyn SpanSink>, every: u64) -> Spans {
        Spans { sink: Some(sink), every }
    }

    /// Whether anything is recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.sink.is_some()
    }

    /// Whether this step is; the initialization never is.
    #[must_use]
    pub fn samples(&self, step: Step) -> bool {
        self.sink.is_some() && step > Step::ZERO && step.0.is_multiple_of(self.every)
    }

    /// Records a span.
    pub fn record(&self, span: Span) {
        if let Some(sink) = &self.sink {
            sink.record(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> JobId {
        JobId(name.to_owned())
    }

    #[test]
    fn every_step_generation_job_and_session_has_a_trace_of_its_own_and_everybody_the_same() {
        let of = |name, generation, step| TraceId::of_step(&job(name), Generation(generation), Step(step));
        let session = TraceId::of_session(&job("a"), Generation(1), Incarnation(1));
        let all = [of("a", 1, 1), of("a", 1, 2), of("a", 2, 1), of("b", 1, 1), session];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 5);
        assert_eq!(of("a", 1, 1), of("a", 1, 1));
        let anchors = [Anchor::Root, Anchor::Worker(0), Anchor::Worker(1), Anchor::Server(0), Anchor::Server(1)];
        let ids: std::collections::HashSet<_> = anchors.iter().map(|anchor| session.anchor(*anchor)).collect();
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn a_context_is_written_as_the_w3c_says_and_read_again() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(text).unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), text);
        assert!(!TraceContext::parse(&text.replace("-01", "-00")).unwrap().sampled);
        assert!(TraceContext::parse(&format!("cc{}-more", &text[2..])).is_some(), "a later version may say more");
    }

    #[test]
    fn what_is_no_context_is_none() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for wrong in [
            "",
            "00",
            &text[..54],
            &text.to_uppercase(),
            &format!("{text}-more"),
            &text.replacen("00", "ff", 1),
            &text.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &text.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &text.replace('f', "\u{e9}"),
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn nothing_is_recorded_by_default_and_every_nth_step_if_asked() {
        struct Nowhere;
        impl SpanSink for Nowhere {
            fn record(&self, _: Span) {}
        }
        assert!(!Spans::default().samples(Step(100)) && !Spans::default().is_on());
        let spans = Spans::new(Arc::new(Nowhere), 10);
        let sampled: Vec<u64> = (0..=30).filter(|step| spans.samples(Step(*step))).collect();
        assert_eq!(sampled, [10, 20, 30]);
    }
}
