//! What the lead adds to the trace of a step: its root, from the moment when the step before was complete on every server
//! until this one is.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use halflife_proto::ids::{Generation, JobId, Step};
use halflife_proto::trace::{Anchor, Span, Spans, TraceContext, TraceId};

/// Steps that may come at once and have roots: a model in which nothing changes is at its last step at once.
const AT_ONCE_MAX: u64 = 1024;

/// Makes the roots of steps.
#[derive(Debug)]
pub(crate) struct LeadSpans {
    spans: Spans,
    job: JobId,
    generation: Generation,
    /// The newest complete step, and since when.
    newest: Mutex<Option<(Step, SystemTime)>>,
}

impl LeadSpans {
    pub(crate) fn new(spans: Spans, job: JobId, generation: Generation) -> LeadSpans {
        LeadSpans { spans, job, generation, newest: Mutex::default() }
    }

    /// Whether it is of use to tell.
    pub(crate) fn is_on(&self) -> bool {
        self.spans.is_on()
    }

    /// A worker has joined, in a call that was part of its session.
    pub(crate) fn record_join(&self, parent: Option<TraceContext>, begin: SystemTime, worker: u32) {
        if let Some(parent) = parent.filter(|parent| parent.sampled) {
            self.spans.record(Span {
                trace: parent.trace,
                id: None,
                parent: Some(parent.span),
                name: "lead.join",
                begin,
                end: SystemTime::now(),
                attributes: vec![
                    ("halflife.generation", self.generation.0.into()),
                    ("halflife.worker", u64::from(worker).into()),
                ],
            });
        }
    }

    /// This is the newest step complete on every server. Servers tell only their newest, so several may come at once.
    pub(crate) fn complete(&self, step: Step) {
        let now = SystemTime::now();
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, since) = newest.unwrap_or((step, now));
        if newest.is_none() || step > before {
            *newest = Some((step, now));
        }
        drop(newest);
        let first = before.0.max(step.0.saturating_sub(AT_ONCE_MAX)) + 1;
        for step in (first..=step.0).map(Step).filter(|step| self.spans.samples(*step)) {
            let trace = TraceId::of_step(&self.job, self.generation, step);
            self.spans.record(Span {
                trace,
                id: Some(trace.anchor(Anchor::Root)),
                parent: None,
                name: "step",
                begin: since,
                end: now,
                attributes: vec![
                    ("halflife.job", self.job.0.as_str().into()),
                    ("halflife.generation", self.generation.0.into()),
                    ("halflife.step", step.0.into()),
                ],
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::recorded::Recorded;
    use super::*;

    #[test]
    fn every_sampled_step_has_a_root_even_where_several_come_at_once() {
        let recorded = Arc::<Recorded>::default();
        let lead = LeadSpans::new(Spans::new(recorded.clone(), 2), JobId("j".to_owned()), Generation(1));
        for step in [0, 0, 1, 5, 4, 6] {
            lead.complete(Step(step));
        }
        let recorded = recorded.spans();
        let of = |step| TraceId::of_step(&JobId("j".to_owned()), Generation(1), Step(step));
        assert!(recorded.iter().map(|span| span.trace).eq([2, 4, 6].map(of)));
        assert!(recorded.iter().all(|span| span.begin <= span.end && span.parent.is_none()));
        assert_eq!((recorded[1].begin, recorded[2].begin), (recorded[0].begin, recorded[0].end));
    }
}
