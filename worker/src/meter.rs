//! What a worker counts of its part in a job, and how it is told to Prometheus (docs/metrics.md).
//!
//! Atomics: the training loop writes them once per step, whoever asks reads them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use halflife_client::Observer;
use halflife_proto::ids::Generation;
use halflife_server::telemetry::{Exposition, Family, Source, Times};

use crate::progress::StepSeen;
use crate::report::Rollback;

/// What no number is.
const NO_NUMBER: u32 = u32::MAX;

static STEP: Family = Family::gauge(
    "halflife_worker_step",
    &["worker"],
    "Newest step whose weights are here; asynchronous modes: the newest version of a block.",
);
static GENERATION: Family = Family::gauge(
    "halflife_worker_generation",
    &["worker"],
    "Incarnation of the job's state that the worker takes part in.",
);
static LOSS: Family = Family::gauge(
    "halflife_worker_loss",
    &["worker"],
    "Mean loss over the samples of the newest step that this worker computed, in nats.",
);
static LR: Family = Family::gauge(
    "halflife_worker_lr",
    &["worker"],
    "Learning rate of the newest step that it went on from, of the first trainable tensor.",
);
static DECAY: Family = Family::gauge(
    "halflife_worker_decay",
    &["worker"],
    "Weight decay factor of the newest step that it went on from, of the first trainable tensor.",
);
static COMPUTE: Family =
    Family::histogram("halflife_worker_compute_seconds", &["worker"], "Time to compute one node of the slot tree.");
static PUSH: Family = Family::histogram(
    "halflife_worker_push_seconds",
    &["worker"],
    "Time until a node's gradient is queued for every server.",
);
static WAIT: Family = Family::histogram(
    "halflife_worker_wait_seconds",
    &["worker"],
    "Time without work, from one piece of work to the next.",
);
static SLOTS: Family = Family::counter("halflife_worker_slots_total", &["worker"], "Slots computed and sent.");
static STEPS: Family =
    Family::counter("halflife_worker_steps_total", &["worker"], "Steps, or tickets, contributed to.");
static SENT: Family =
    Family::counter("halflife_worker_sent_bytes_total", &["worker"], "Bytes of messages that went into step streams.");
static RECEIVED: Family = Family::counter(
    "halflife_worker_received_bytes_total",
    &["worker"],
    "Bytes of messages that came on step streams.",
);
static STREAMS: Family = Family::counter(
    "halflife_worker_streams_opened_total",
    &["worker"],
    "Step streams opened: one per server, and one more each time that one broke.",
);
static REJOINS: Family = Family::counter(
    "halflife_worker_rejoins_total",
    &["worker"],
    "Times it joined again, taken for dead or after a recovery.",
);
static ROLLBACKS: Family =
    Family::counter("halflife_worker_rollbacks_total", &["worker"], "Times the job went back to a checkpoint.");
static UNDONE: Family = Family::counter(
    "halflife_worker_undone_steps_total",
    &["worker"],
    "Acknowledged contributions of this worker that were undone thereby.",
);

/// Counts of one worker, through all its memberships.
#[derive(Debug)]
pub struct Meter {
    streams: Observer,
    /// Of the newest membership.
    number: AtomicU32,
    generation: AtomicU64,
    loss: Float,
    lr: Float,
    decay: Float,
    compute: Times,
    push: Times,
    wait: Times,
    slots: AtomicU64,
    steps: AtomicU64,
    rejoins: AtomicU64,
    rollbacks: AtomicU64,
    undone: AtomicU64,
}

/// An f64, by its bits.
#[derive(Debug)]
struct Float(AtomicU64);

impl Float {
    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

impl Default for Float {
    /// Nothing known.
    fn default() -> Float {
        Float(AtomicU64::new(f64::NAN.to_bits()))
    }
}

impl Meter {
    /// Of a worker whose streams `observer` watches.
    #[must_use]
    pub fn new(streams: Observer) -> Meter {
        Meter {
            streams,
            number: AtomicU32::new(NO_NUMBER),
            generation: AtomicU64::default(),
            loss: Float::default(),
            lr: Float::default(),
            decay: Float::default(),
            compute: Times::default(),
            push: Times::default(),
            wait: Times::default(),
            slots: AtomicU64::default(),
            steps: AtomicU64::default(),
            rejoins: AtomicU64::default(),
            rollbacks: AtomicU64::default(),
            undone: AtomicU64::default(),
        }
    }

    pub(crate) fn joined(&self, number: u32, generation: Generation) {
        if self.number.swap(number, Relaxed) != NO_NUMBER {
            self.rejoins.fetch_add(1, Relaxed);
        }
        self.generation.store(generation.0, Relaxed);
    }

    pub(crate) fn rolled_back(&self, rollback: &Rollback) {
        self.rollbacks.fetch_add(1, Relaxed);
        self.undone.fetch_add(rollback.undone_steps, Relaxed);
    }

    pub(crate) fn saw(&self, seen: &StepSeen) {
        self.lr.set(seen.lr);
        self.decay.set(seen.decay);
        if let Some(loss) = seen.loss {
            self.loss.set(f64::from(loss));
        }
    }

    pub(crate) fn waited(&self, since: Instant) {
        self.wait.add(since.elapsed());
    }

    /// A node of so many slots was computed and queued.
    pub(crate) fn contributed(&self, slots: u32, compute: Duration, push: Duration) {
        self.slots.fetch_add(u64::from(slots), Relaxed);
        self.compute.add(compute);
        self.push.add(push);
    }

    pub(crate) fn step_contributed(&self) {
        self.steps.fetch_add(1, Relaxed);
    }
}

impl Source for Meter {
    /// Nothing before the worker has joined: it has no number to count under.
    fn tell(&self, exposition: &mut Exposition) {
        let number = self.number.load(Relaxed);
        if number == NO_NUMBER {
            return;
        }
        let number = number.to_string();
        let worker = [number.as_str()];
        exposition.gauge(&STEP, &worker, self.streams.step().0 as f64);
        exposition.gauge(&GENERATION, &worker, self.generation.load(Relaxed) as f64);
        for (family, value) in [(&LOSS, &self.loss), (&LR, &self.lr), (&DECAY, &self.decay)] {
            exposition.gauge(family, &worker, value.get());
        }
        for (family, times) in [(&COMPUTE, &self.compute), (&PUSH, &self.push), (&WAIT, &self.wait)] {
            exposition.histogram(family, &worker, &times.told());
        }
        let counters = [
            (&SLOTS, self.slots.load(Relaxed)),
            (&STEPS, self.steps.load(Relaxed)),
            (&SENT, self.streams.sent_bytes()),
            (&RECEIVED, self.streams.received_bytes()),
            (&STREAMS, self.streams.streams_opened()),
            (&REJOINS, self.rejoins.load(Relaxed)),
            (&ROLLBACKS, self.rollbacks.load(Relaxed)),
            (&UNDONE, self.undone.load(Relaxed)),
        ];
        for (family, count) in counters {
            exposition.counter(family, &worker, count as f64);
        }
    }
}
