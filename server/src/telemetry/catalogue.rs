//! Every metric of a server, of a lead, and of any process: name, labels, meaning. docs/metrics.md lists the same, and a
//! test holds it against what a cluster serves. A worker's are in its own crate.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rises and falls.
    Gauge,
    /// Only rises while the process lives.
    Counter,
    /// A distribution.
    Histogram,
}

/// A metric and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name, with its unit last.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// A sentence.
    pub help: &'static str,
}

impl Family {
    /// One that rises and falls.
    #[must_use]
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
        Family { name, kind: Kind::Gauge, labels, help }
    }

    /// One that only rises.
    #[must_use]
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
        Family { name, kind: Kind::Counter, labels, help }
    }

    /// A distribution.
    #[must_use]
    pub const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
        Family { name, kind: Kind::Histogram, labels, help }
    }
}

/// Names each family by a constant.
macro_rules! families {
    ($($constant:ident = $kind:ident($name:literal, $labels:expr, $help:literal);)*) => {
        $(pub(super) static $constant: Family = Family::$kind($name, &$labels, $help);)*
    };
}

// Any process.
families! {
    BUILD = gauge("halflife_build_info", ["version"], "Always 1; its label tells the build.");
    PROCESS_START = gauge("process_start_time_seconds", [], "When the process began, since 1970.");
    PROCESS_RESIDENT = gauge("process_resident_memory_bytes", [], "Memory that the process holds.");
    SPANS = counter("halflife_trace_spans_total", ["result"], "Spans by what became of them: exported; dropped, since too many waited; failed, since the collector did not take them.");
    PROCESS_CPU = counter("process_cpu_seconds_total", [], "CPU time used, user and system.");
}

// Each server.
families! {
    STEP = gauge("halflife_server_step", ["server"], "Newest step complete on all blocks here; asynchronous modes: the oldest version of a block.");
    GENERATION = gauge("halflife_server_generation", ["server"], "Incarnation of the job's state that this server takes part in.");
    HALTED = gauge("halflife_server_halted", ["server"], "1 once nothing more is taken because the job has stopped.");
    BLOCKS = gauge("halflife_server_blocks", ["server"], "Blocks held.");
    SESSIONS = gauge("halflife_server_sessions", ["server"], "Open step streams.");
    GATHERED = gauge("halflife_server_gathered_bytes", ["server"], "Gradients that wait for the rest of their step.");
    QUEUED = gauge("halflife_server_queued_elements", ["server"], "Element updates that wait for a compute thread.");
    OUTBOX_MESSAGES = gauge("halflife_server_outbox_messages", ["server"], "Messages that wait to be sent to workers, over all sessions.");
    OUTBOX_BYTES = gauge("halflife_server_outbox_bytes", ["server"], "Weights among them.");
    DURABLE_STEP = gauge("halflife_server_durable_step", ["server"], "Newest step that this server knows to survive the loss of every process.");
    CONTRIBUTIONS = counter("halflife_server_contributions_total", ["server", "outcome"], "Contributions taken, one per block and node, by what became of them.");
    REFUSALS = counter("halflife_server_refusals_total", ["server", "cause"], "What was refused, by cause: contributions, streams and calls.");
    RECEIVED = counter("halflife_server_received_bytes_total", ["server"], "Bytes of messages that came on step streams.");
    SENT = counter("halflife_server_sent_bytes_total", ["server"], "Bytes of messages that went out on step streams.");
    APPLY = histogram("halflife_server_apply_seconds", ["server"], "Time of a block's update: sum, optimizer, new weights.");
    STEP_TIME = histogram("halflife_server_step_seconds", ["server"], "Time from one step complete on all blocks here to the next; sync mode.");
    RECOVERIES = counter("halflife_server_recoveries_total", ["server"], "Times this process went back to a checkpoint with its job.");
}

// The lead.
families! {
    JOB = gauge("halflife_job_info", ["job", "mode"], "Always 1; its labels tell the job.");
    JOB_STEP = gauge("halflife_job_step", [], "Newest step complete on every server.");
    JOB_STEPS = gauge("halflife_job_steps", [], "Steps in the run.");
    JOB_GENERATION = gauge("halflife_job_generation", [], "Incarnation of the job's state; rises at each recovery.");
    JOB_PHASE = gauge("halflife_job_phase", ["phase"], "1 for the phase that the job is in, 0 for the others.");
    JOB_SLOTS = gauge("halflife_job_slots", [], "Slots in a step.");
    JOB_LR = gauge("halflife_job_lr", ["group"], "Learning rate of the newest complete step, by parameter group; 0 before step 1.");
    JOB_DECAY = gauge("halflife_job_decay", ["group"], "Weight decay factor of the newest complete step, by parameter group; 0 before step 1.");
    JOB_REPRODUCIBLE = gauge("halflife_job_bit_reproducible", [], "1 while promise P2 holds.");
    JOB_LEASE = gauge("halflife_job_lease_seconds", [], "Silence after which a worker is taken for dead.");
    JOB_SERVERS = gauge("halflife_job_servers", [], "Servers that are here.");
    JOB_WORKERS = gauge("halflife_job_workers", ["state"], "Living workers, by state.");
    WORKER_LAG = gauge("halflife_job_worker_lag_steps", ["worker"], "Steps between the one a worker computed and the one under way, at its last heartbeat.");
    WORKER_HEARTBEAT = gauge("halflife_job_worker_heartbeat_age_seconds", ["worker"], "Time since a worker's last heartbeat: how much of its lease is used.");
    WORKER_SLOTS = gauge("halflife_job_worker_slots", ["worker"], "Slots assigned to a worker.");
    MEMORY_RESERVED = gauge("halflife_job_server_memory_reserved_bytes", ["server"], "Memory reserved on a server for blocks, gradients that may wait, and connections.");
    MEMORY_MAX = gauge("halflife_job_server_memory_max_bytes", ["server"], "Memory that a server may use; 0: no bound.");
    SERVER_WEIGHTS = gauge("halflife_job_server_weights_bytes", ["server"], "Weights placed on a server.");
    CHECKPOINT_STEP = gauge("halflife_job_checkpoint_step", [], "Step of the newest committed checkpoint; -1 before the first.");
    CHECKPOINT_AGE = gauge("halflife_job_checkpoint_age_seconds", [], "Time since the newest checkpoint was committed, or since this generation began.");
    CHECKPOINT_TIME = gauge("halflife_job_checkpoint_duration_seconds", [], "What the newest checkpoint took, from every server's state set aside to the commit.");
    CHECKPOINT_PAUSE = gauge("halflife_job_checkpoint_pause_seconds", [], "How long no ticket was given for the newest checkpoint.");
    CHECKPOINT_UNDER_WAY = gauge("halflife_job_checkpoint_under_way", [], "1 while a checkpoint is being made.");
    CHECKPOINTS = counter("halflife_job_checkpoints_total", ["result"], "Checkpoints committed and given up in this generation.");
    QUORUM = gauge("halflife_job_quorum_slots", [], "Slots that make a step.");
    QUORUM_CLOSED = counter("halflife_job_quorum_closed_steps_total", [], "Steps whose slots were fixed.");
    QUORUM_DROPPED = counter("halflife_job_quorum_dropped_slots_total", [], "Slots that were not among those that counted.");
    TICKETS = counter("halflife_job_tickets_total", ["state"], "Tickets: granted; done, on every block; void, since their worker was gone.");
    TORN = counter("halflife_job_torn_pushes_total", [], "Void pushes that some blocks had applied and others had not.");
    CLOCK_STALENESS = histogram("halflife_job_clock_staleness_steps", [], "At each ticket: the worker's completed pushes beyond the slowest living worker's.");
    UPDATE_STALENESS = histogram("halflife_job_update_staleness_steps", [], "At each update of a block: its version beyond the one that the gradient was computed at.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_unit_and_kind() {
        for family in [&APPLY, &CONTRIBUTIONS, &JOB_LR, &TICKETS, &STEP_TIME, &RECOVERIES] {
            assert!(family.name.starts_with("halflife_"));
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
        }
    }
}
