//! What a worker adds to the trace of a step: its gradients, how long it waited, and the weights that came back.
//!
//! Only of steps that are sampled. What goes out to each server is recorded where it goes (`halflife_client`).

use std::time::{Duration, SystemTime};

use halflife_client::Observer;
use halflife_proto::ids::Step;
use halflife_proto::job::JobDescription;
use halflife_proto::slots::SlotRange;
use halflife_proto::trace::{Anchor, Span, SpanId, TraceId};

/// Makes a worker's spans.
#[derive(Debug)]
pub(crate) struct StepSpans {
    observer: Observer,
    open: Option<Open>,
}

/// The sampled step under way.
#[derive(Debug)]
struct Open {
    step: Step,
    worker: u32,
    trace: TraceId,
    begin: SystemTime,
    /// Since when there is nothing to do but wait.
    idle: SystemTime,
    slots: u32,
    /// In the asynchronous modes versions are no steps, so nothing says which weights came of it.
    has_versions: bool,
}

impl StepSpans {
    pub(crate) fn new(observer: Observer) -> StepSpans {
        StepSpans { observer, open: None }
    }

    /// Work of a step is at hand. More of the same step goes on with it; another one ends the one before, whose weights
    /// have come.
    pub(crate) fn begin(&mut self, job: &JobDescription, worker: u32, step: Step) {
        if self.open.as_ref().is_some_and(|open| open.step == step && open.worker == worker) {
            return;
        }
        self.end();
        if self.observer.spans().samples(step) {
            let trace = TraceId::of_step(&job.id, job.generation, step);
            let now = SystemTime::now();
            let has_versions = !job.consistency.mode.has_tickets();
            self.open = Some(Open { step, worker, trace, begin: now, idle: now, slots: 0, has_versions });
        }
    }

    /// A node was computed, and then queued for every server, just now.
    pub(crate) fn contributed(&mut self, node: SlotRange, compute: Duration, push: Duration) {
        let Some(open) = &mut self.open else { return };
        let now = SystemTime::now();
        let computed = now.checked_sub(push).unwrap_or(now);
        let begun = computed.checked_sub(compute).unwrap_or(computed);
        open.idle = now;
        open.slots += node.count();
        let slots = [("halflife.slots", u64::from(node.count())), ("halflife.first_slot", u64::from(node.begin))];
        self.record(None, "worker.compute", (begun, computed), &slots);
    }

    /// The step's weights have come, or the work is over.
    pub(crate) fn end(&mut self) {
        let Some(open) = &self.open else { return };
        let (now, idle, begin, slots) = (SystemTime::now(), open.idle, open.begin, u64::from(open.slots));
        let anchor = open.trace.anchor(Anchor::Worker(open.worker));
        match self.observer.first_weights_of(open.step).filter(|_| open.has_versions) {
            // The first weights may come while the last gradient goes out.
            Some(first) => {
                self.record(None, "worker.wait", (idle.min(first), first), &[]);
                self.record(None, "worker.pull", (first, now), &[]);
            }
            None => self.record(None, "worker.wait", (idle, now), &[]),
        }
        self.record(Some(anchor), "worker.step", (begin, now), &[("halflife.slots", slots)]);
        self.open = None;
    }

    /// With an id it is the worker's part of the step, else a part of that.
    fn record(
        &self,
        id: Option<SpanId>,
        name: &'static str,
        (begin, end): (SystemTime, SystemTime),
        more: &[(&'static str, u64)],
    ) {
        let Some(Open { step, worker, trace, .. }) = self.open else { return };
        let parent = if id.is_some() { Anchor::Root } else { Anchor::Worker(worker) };
        let about = [("halflife.worker", u64::from(worker)), ("halflife.step", step.0)];
        let attributes = about.iter().chain(more).map(|(name, value)| (*name, (*value).into())).collect();
        let parent = Some(trace.anchor(parent));
        self.observer.spans().record(Span { trace, id, parent, name, begin, end, attributes });
    }
}
