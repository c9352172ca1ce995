//! What a server counts on the way of a contribution, where nothing else knows it: atomics that whoever asks reads.
//!
//! Outlives generations. Costs a few relaxed additions per message and two readings of the clock per update of a block;
//! allocates nothing (`tests/allocations.rs`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use halflife_proto::contribution::{Acknowledgement, Outcome};
use halflife_proto::ids::ServerIndex;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::trace::Spans;
use tonic::Status;
use tonic::codegen::http::HeaderMap;

use super::Histogram;

/// Outcomes of contributions, in the order in which they are told.
pub(super) const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Added, "added"),
    (Outcome::Replaced, "replaced"),
    (Outcome::Duplicate, "duplicate"),
    (Outcome::AlreadyApplied, "already_applied"),
];

/// What no index is.
const NO_INDEX: u32 = u32::MAX;

/// Counts of one server.
#[derive(Debug)]
pub struct Meter {
    spans: Spans,
    began: Instant,
    /// The server's place in its job, once it has one.
    index: AtomicU32,
    outcomes: [AtomicU64; OUTCOMES.len()],
    refusals: [AtomicU64; RefusalCause::COUNT],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    recoveries: AtomicU64,
    applies: Times,
    steps: Times,
    /// When the newest step was complete, in nanoseconds after `began`; 0 before the first.
    step_at: AtomicU64,
}

impl Default for Meter {
    fn default() -> Meter {
        Meter::new(Spans::default())
    }
}

impl Meter {
    /// Nothing counted; `spans` is where what takes a while is recorded besides.
    #[must_use]
    pub fn new(spans: Spans) -> Meter {
        Meter {
            spans,
            began: Instant::now(),
            index: AtomicU32::new(NO_INDEX),
            outcomes: [const { AtomicU64::new(0) }; OUTCOMES.len()],
            refusals: [const { AtomicU64::new(0) }; RefusalCause::COUNT],
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            recoveries: AtomicU64::new(0),
            applies: Times::default(),
            steps: Times::default(),
            step_at: AtomicU64::new(0),
        }
    }
}

impl Meter {
    /// Where spans go.
    pub(crate) fn spans(&self) -> &Spans {
        &self.spans
    }

    // ---- counting ----

    /// The server has a place in its job.
    pub(crate) fn took_part(&self, index: ServerIndex) {
        self.index.store(index.0, Relaxed);
    }

    /// A contribution was taken.
    pub(crate) fn contributed(&self, acknowledgement: &Acknowledgement) {
        let place = OUTCOMES.iter().position(|(outcome, _)| *outcome == acknowledgement.outcome);
        if let Some(place) = place {
            self.outcomes[place].fetch_add(1, Relaxed);
        }
    }

    /// Something was refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.refusals[refusal.cause.index()].fetch_add(1, Relaxed);
    }

    /// A call was answered; a refusal is in the headers of a failed one.
    pub(crate) fn answered(&self, headers: &HeaderMap) {
        if let Some(refusal) = Status::from_header_map(headers).as_ref().and_then(Refusal::from_status) {
            self.refused(&refusal);
        }
    }

    /// Bytes came on a step stream.
    pub(crate) fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Relaxed);
    }

    /// Bytes went into a step stream.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Relaxed);
    }

    /// The job goes back to a checkpoint, and this server with it.
    pub(crate) fn recovers(&self) {
        self.recoveries.fetch_add(1, Relaxed);
        self.step_at.store(0, Relaxed); // what passes until the next step is no step
    }

    /// Blocks were updated, which took so long.
    pub(crate) fn applied(&self, took: Duration) {
        self.applies.add(took);
    }

    /// A step is complete on all blocks.
    pub(crate) fn step_complete(&self) {
        let now = self.began.elapsed().as_nanos() as u64;
        let before = self.step_at.swap(now, Relaxed);
        if before > 0 {
            self.steps.add(Duration::from_nanos(now.saturating_sub(before)));
        }
    }

    // ---- reading ----

    pub(super) fn index(&self) -> Option<ServerIndex> {
        let index = self.index.load(Relaxed);
        (index != NO_INDEX).then_some(ServerIndex(index))
    }

    pub(super) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.iter().zip(&self.outcomes).map(|((_, name), count)| (*name, count.load(Relaxed)))
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = (RefusalCause, u64)> {
        RefusalCause::all().zip(&self.refusals).map(|(cause, count)| (cause, count.load(Relaxed)))
    }

    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Relaxed)
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Relaxed)
    }

    pub(super) fn recoveries(&self) -> u64 {
        self.recoveries.load(Relaxed)
    }

    pub(super) fn applies(&self) -> Histogram {
        self.applies.told()
    }

    pub(super) fn steps(&self) -> Histogram {
        self.steps.told()
    }
}

/// Bounds of times, in nanoseconds: 10 us to 50 s.
const BOUNDS_NS: [u64; 21] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
    50_000_000_000,
];

/// A distribution of times.
#[derive(Debug, Default)]
pub struct Times {
    /// By bound, and those beyond the last.
    counts: [AtomicU64; BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

impl Times {
    /// Counts one.
    pub fn add(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let place = BOUNDS_NS.partition_point(|bound| *bound < nanoseconds);
        self.counts[place].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(nanoseconds, Relaxed);
    }

    /// As it stands, in seconds.
    #[must_use]
    pub fn told(&self) -> Histogram {
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(BOUNDS_NS.len());
        for (bound, of_bound) in BOUNDS_NS.iter().zip(&self.counts) {
            count += of_bound.load(Relaxed);
            cumulative.push((*bound as f64 / 1e9, count));
        }
        count += self.counts[BOUNDS_NS.len()].load(Relaxed);
        Histogram { cumulative, count, sum: self.sum_ns.load(Relaxed) as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_below_their_bounds() {
        let times = Times::default();
        [5, 10, 11, 70_000_000].into_iter().for_each(|microseconds| times.add(Duration::from_micros(microseconds)));
        let told = times.told();
        assert_eq!((told.cumulative[0], told.cumulative[1]), ((1e-5, 2), (2e-5, 3)));
        assert_eq!((told.cumulative[20], told.count), ((50.0, 3), 4));
        assert!((told.sum - 70.000_026).abs() < 1e-9);
    }

    #[test]
    fn a_failed_call_counts_by_its_cause_and_a_good_one_does_not() {
        let meter = Meter::default();
        meter.answered(&HeaderMap::new());
        let status = Status::from(Refusal::new(RefusalCause::NotLead, "no"));
        meter.answered(status.into_http::<()>().headers());
        meter.answered(Status::unavailable("not a refusal of ours").into_http::<()>().headers());
        let counted: Vec<_> = meter.refusals().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(RefusalCause::NotLead, 1)]);
    }

    #[test]
    fn the_first_step_after_a_recovery_has_no_time() {
        let meter = Meter::default();
        (0..3).for_each(|_| meter.step_complete());
        meter.recovers();
        meter.step_complete();
        assert_eq!((meter.steps().count, meter.recoveries()), (2, 1));
    }
}
