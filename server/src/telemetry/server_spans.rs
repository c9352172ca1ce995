//! What a server adds to the trace of a step: when its gradients came, when its blocks were updated, when the new weights
//! went out.
//!
//! Only of steps that are sampled; of all others it costs a comparison.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use halflife_proto::ids::{Generation, JobId, ServerIndex, Step};
use halflife_proto::trace::{Anchor, Span, Spans, TraceId};

/// Steps that are open at once at most: in the asynchronous modes several tickets are. An older one is given up, as is one
/// whose worker is gone.
const OPEN_MAX: usize = 16;

/// Makes a server's spans.
#[derive(Clone, Debug)]
pub(crate) struct ServerTrace {
    pub(crate) spans: Spans,
    pub(crate) job: JobId,
    pub(crate) generation: Generation,
    pub(crate) index: ServerIndex,
}

impl ServerTrace {
    /// Records what was done of a step from `begin` to `end`, as part of the server's part of it, or as that part.
    fn record(&self, step: Step, name: &'static str, (begin, end): Time, more: &[(&'static str, u64)]) {
        let trace = TraceId::of_step(&self.job, self.generation, step);
        let own = trace.anchor(Anchor::Server(self.index.0));
        let (id, parent) = match name {
            SERVER_STEP => (Some(own), trace.anchor(Anchor::Root)),
            _ => (None, own),
        };
        let about = [("halflife.server", u64::from(self.index.0)), ("halflife.step", step.0)];
        let attributes = about.iter().chain(more).map(|(name, value)| (*name, (*value).into())).collect();
        self.spans.record(Span { trace, id, parent: Some(parent), name, begin, end, attributes });
    }
}

type Time = (SystemTime, SystemTime);

const SERVER_STEP: &str = "server.step";

/// The sampled steps that a shard is gathering and applying.
#[derive(Debug)]
pub(crate) struct ShardSpans {
    trace: ServerTrace,
    /// Blocks that change: as many updates make up a step.
    blocks: usize,
    open: Mutex<Vec<Open>>,
}

#[derive(Debug)]
struct Open {
    step: Step,
    gather: Time,
    contributions: u64,
    apply: Option<Time>,
    /// Time of all updates together.
    busy: Duration,
    updated: usize,
}

impl ShardSpans {
    /// Of a shard with so many blocks that change; `None` where nothing is recorded.
    pub(crate) fn new(trace: ServerTrace, blocks: usize) -> Option<ShardSpans> {
        trace.spans.is_on().then(|| ShardSpans { trace, blocks, open: Mutex::default() })
    }

    /// A contribution to `step` counts.
    pub(crate) fn contributed(&self, step: Step) {
        if !self.trace.spans.samples(step) {
            return;
        }
        let now = SystemTime::now();
        let mut open = self.lock();
        let place = place_of(&mut open, step, now);
        open[place].gather.1 = now;
        open[place].contributions += 1;
    }

    /// Updates of `blocks` blocks for `step` took so long, until now. With the last block, the step is recorded.
    pub(crate) fn applied(&self, step: Step, took: Duration, blocks: usize) {
        if !self.trace.spans.samples(step) {
            return;
        }
        let now = SystemTime::now();
        let begun = now.checked_sub(took).unwrap_or(now);
        let mut open = self.lock();
        let place = place_of(&mut open, step, begun);
        let step_open = &mut open[place];
        let begin = step_open.apply.map_or(begun, |(begin, _)| begin.min(begun));
        step_open.apply = Some((begin, now));
        step_open.busy += took;
        step_open.updated += blocks;
        if step_open.updated < self.blocks {
            return;
        }
        let Open { gather, contributions, apply, busy, updated, .. } = open.swap_remove(place);
        drop(open);
        let busy_us = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
        self.trace.record(step, "server.gather", gather, &[("halflife.contributions", contributions)]);
        let updates = [("halflife.blocks", updated as u64), ("halflife.busy_us", busy_us)];
        self.trace.record(step, "server.apply", apply.unwrap_or((now, now)), &updates);
        self.trace.record(step, SERVER_STEP, (gather.0, now), &[("halflife.generation", self.trace.generation.0)]);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        // A list whose writer panicked is still a list.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a step, which is opened if it was not.
fn place_of(open: &mut Vec<Open>, step: Step, now: SystemTime) -> usize {
    if let Some(place) = open.iter().position(|open| open.step == step) {
        return place;
    }
    if open.len() == OPEN_MAX {
        open.remove(0);
    }
    let (contributions, updated) = (0, 0);
    open.push(Open { step, gather: (now, now), contributions, apply: None, busy: Duration::ZERO, updated });
    open.len() - 1
}

/// The weights of a sampled step on their way out to one worker.
#[derive(Debug)]
pub(crate) struct SendSpans {
    trace: ServerTrace,
    /// From the first block to the newest, and their bytes.
    sending: Option<(Step, Time, u64)>,
}

impl SendSpans {
    /// `None` where nothing is recorded.
    pub(crate) fn new(trace: ServerTrace) -> Option<SendSpans> {
        trace.spans.is_on().then_some(SendSpans { trace, sending: None })
    }

    /// Weights of `step` were handed to the connection.
    pub(crate) fn sent(&mut self, step: Step, bytes: u64) {
        if self.sending.is_some_and(|(sending, ..)| sending != step) {
            self.record();
        }
        if self.trace.spans.samples(step) {
            let now = SystemTime::now();
            let (_, (begin, _), before) = self.sending.unwrap_or((step, (now, now), 0));
            self.sending = Some((step, (begin, now), before + bytes));
        }
    }

    fn record(&mut self) {
        if let Some((step, time, bytes)) = self.sending.take() {
            self.trace.record(step, "server.send", time, &[("halflife.bytes", bytes)]);
        }
    }
}

impl Drop for SendSpans {
    fn drop(&mut self) {
        self.record();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::recorded::Recorded;
    use super::*;

    fn traced(every: u64) -> (Arc<Recorded>, ServerTrace) {
        let recorded = Arc::<Recorded>::default();
        let spans = Spans::new(recorded.clone(), every);
        (recorded, ServerTrace { spans, job: JobId("j".to_owned()), generation: Generation(2), index: ServerIndex(1) })
    }

    #[test]
    fn a_step_is_recorded_once_with_its_parts_when_its_last_block_is_updated() {
        let (recorded, trace) = traced(5);
        let spans = ShardSpans::new(trace, 2).unwrap();
        for step in [4, 5, 5, 5].map(Step) {
            spans.contributed(step);
        }
        spans.applied(Step(4), Duration::from_millis(1), 2);
        spans.applied(Step(5), Duration::from_millis(1), 1);
        assert!(recorded.spans().is_empty());
        spans.applied(Step(5), Duration::from_millis(2), 1);
        let spans = recorded.spans();
        let trace = TraceId::of_step(&JobId("j".to_owned()), Generation(2), Step(5));
        assert!(spans.iter().all(|span| span.trace == trace && span.begin <= span.end));
        let own = trace.anchor(Anchor::Server(1));
        let told: Vec<_> = spans.iter().map(|span| (span.name, span.id, span.parent)).collect();
        let expected = [
            ("server.gather", None, Some(own)),
            ("server.apply", None, Some(own)),
            ("server.step", Some(own), Some(trace.anchor(Anchor::Root))),
        ];
        assert_eq!(told, expected);
        assert!(spans[0].attributes.contains(&("halflife.contributions", 3.into())));
        assert!(spans[1].attributes.contains(&("halflife.busy_us", 3000.into())));
    }

    #[test]
    fn steps_that_never_end_are_bounded() {
        let (_, trace) = traced(1);
        let spans = ShardSpans::new(trace, 1).unwrap();
        (1..100).for_each(|step| spans.contributed(Step(step)));
        assert_eq!(spans.lock().len(), OPEN_MAX);
    }

    #[test]
    fn sending_is_recorded_with_the_next_step_or_the_end() {
        let (recorded, trace) = traced(2);
        let mut spans = SendSpans::new(trace).unwrap();
        for (step, bytes) in [(1, 1), (2, 10), (2, 10), (3, 1), (4, 7)] {
            spans.sent(Step(step), bytes);
        }
        drop(spans);
        let told: Vec<_> = recorded.spans().iter().map(|span| span.attributes[1..].to_vec()).collect();
        let expected = |step: u64, bytes: u64| vec![("halflife.step", step.into()), ("halflife.bytes", bytes.into())];
        assert_eq!(told, [expected(2, 20), expected(4, 7)]);
    }
}
