//! The constants that a plan rests on, each with where it was measured. Another machine has others: within a
//! factor of two, as far as we have seen.

/// A number and its source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Constant {
    pub(super) value: f64,
    /// What it is, with its unit.
    pub(super) what: &'static str,
    /// Where it comes from.
    pub(super) source: &'static str,
}

/// A server's CPU time for the update of one element.
pub(super) const UPDATE_NS: Constant = Constant {
    value: 0.8,
    what: "ns of a server's CPU per element and step: the update",
    source: "with the next two fitted to the steps of 25.6M and 124M in docs/performance.md, within 12 %",
};

/// A server's CPU time for one worker's gradient in, and the weights back.
pub(super) const SERVER_TRANSFER_NS: Constant = Constant {
    value: 2.7,
    what: "ns of a server's CPU per element and worker: gradient in, weights out",
    source: "fitted likewise; 1.7 times as much where others use the same cores",
};

/// A worker's CPU time for its gradient out, and the weights in.
pub(super) const WORKER_TRANSFER_NS: Constant = Constant {
    value: 2.9,
    what: "ns of a worker's CPU per element: gradient out, weights in",
    source: "fitted likewise",
};

/// CPU time of moving data in a dtype that rounds.
pub(super) const LOSSY_CPU: Constant = Constant {
    value: 0.87,
    what: "of that CPU time where the wire rounds, both ways",
    source: "bf16 against f32, docs/performance.md",
};

/// What one thread moves.
pub(super) const THREAD_BYTES_PER_S: Constant =
    Constant { value: 3e9, what: "bytes/s that one I/O thread moves", source: "loopback, server/src/io_threads.rs" };

/// Cores for each I/O thread, unless `--io-threads` says otherwise.
pub(super) const CORES_PER_IO_THREAD: u32 = 4;

/// A step of 1,024 parameters.
pub(super) const STEP_LATENCY_S: Constant = Constant {
    value: 75e-6,
    what: "s for a step without data, on loopback: add your network's round trips",
    source: "bench --small, docs/performance.md",
};

/// How much of what could overlap does not.
pub(super) const NOT_OVERLAPPED: Constant = Constant {
    value: 1.0 / 3.0,
    what: "of the time beside the slowest part is not hidden behind it",
    source: "0.11 to 0.56 over links of 2.5 and 10 Gb/s, docs/performance.md",
};

/// What a server writes to a local disk.
pub(super) const DISK_BYTES_PER_S: Constant = Constant {
    value: 2.2e9,
    what: "bytes/s written to a local disk, synced (O_DIRECT)",
    source: "1.5 GB on the virtual machine of docs/performance.md; yours is another",
};

/// A process without a job.
pub(super) const PROGRAM_BYTES: u64 = 64 << 20;
/// Where that comes from.
pub(super) const PROGRAM_SOURCE: &str = "the program, its threads and what the allocator keeps: an allowance";

/// Parts of a checkpoint in memory while it is written: 4 under way, 2 waiting, 1 being filled.
pub(super) const SAVING_BYTES: u64 = 7 * halflife_checkpoint::store::PART_BYTES as u64;

/// Copies of the weights in a worker at most: the current ones, the next, two that readers may hold.
pub(super) const WEIGHT_ARENAS: u64 = 4;
/// Gradients in a worker at most that go round: `client/src/buffer_pool.rs`.
pub(super) const GRADIENT_ARENAS: u64 = 4;

/// What the built-in model holds of the parameters' size: weights and gradients as its own tensors, and one while it
/// computes. Measured with all of the above: 36.7 bytes per parameter, an MLP of 67.7M, 16 samples a slot.
pub(super) const MODEL_ARENAS: u64 = 3;

/// How much slower than the best a number of servers may be to be recommended.
pub(super) const NEAR_ENOUGH: f64 = 1.25;

/// Every constant, for the list at the end of the text.
pub(super) const ALL: [Constant; 8] = [
    UPDATE_NS,
    SERVER_TRANSFER_NS,
    WORKER_TRANSFER_NS,
    LOSSY_CPU,
    THREAD_BYTES_PER_S,
    STEP_LATENCY_S,
    NOT_OVERLAPPED,
    DISK_BYTES_PER_S,
];
