//! How long a step takes: an estimate, between what it would take if everything overlapped and if nothing did.

use serde::Serialize;

use super::constants::{
    CORES_PER_IO_THREAD, LOSSY_CPU, NOT_OVERLAPPED, SERVER_TRANSFER_NS, STEP_LATENCY_S, THREAD_BYTES_PER_S, UPDATE_NS,
    WORKER_TRANSFER_NS,
};
use super::question::Question;
use super::traffic::Traffic;

/// Of one step; of one push in the asynchronous modes. Seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pace {
    /// Gradients, as the question says.
    pub gradient_s: f64,
    /// The narrowest link.
    pub link_s: f64,
    /// The fullest server's cores and threads.
    pub server_s: f64,
    /// The worker's side of moving data.
    pub worker_s: f64,
    /// If everything but the gradients overlapped.
    pub best_s: f64,
    /// Estimate.
    pub step_s: f64,
    /// If nothing overlapped.
    pub worst_s: f64,
    /// 1 / `step_s`.
    pub steps_per_second: f64,
    /// CPU time of the fullest server.
    pub server_cpu_s: f64,
}

impl Pace {
    pub(super) fn new(question: &Question, servers: u32) -> Pace {
        let traffic = Traffic::new(question, servers);
        let (elements, parameters) = (question.elements(servers) as f64, question.parameters as f64);
        // A pair of gradient in and weights out is what was measured; either may be more here.
        let pairs = (traffic.gradients_per_step as f64 + f64::from(question.workers)) / 2.0;
        let wire = question.job.wire;
        let of_way = |is_lossy: bool| if is_lossy { LOSSY_CPU.value } else { 1.0 };
        let moved = (of_way(wire.gradients.is_lossy()) + of_way(wire.weights.is_lossy())) / 2.0;
        let server_cpu_s = elements * (UPDATE_NS.value + SERVER_TRANSFER_NS.value * moved * pairs) * 1e-9;
        let threads = f64::from((question.cores / CORES_PER_IO_THREAD).max(1)) * THREAD_BYTES_PER_S.value;
        let moving = (traffic.server_in_bytes + traffic.server_out_bytes) / threads;
        let server_s = moving.max(server_cpu_s / f64::from(question.cores));
        let worker_pairs = (question.gradients_per_worker() as f64 + 1.0) / 2.0;
        let worker_s = parameters * WORKER_TRANSFER_NS.value * moved * worker_pairs * 1e-9;
        let link_s = traffic.narrowest_s;
        let longest = link_s.max(server_s).max(worker_s);
        let rest = link_s + server_s + worker_s - longest;
        let gradient_s = question.gradient_ms / 1e3;
        let after = |parts: f64| match question.job.job.mode.has_tickets() {
            false => STEP_LATENCY_S.value + gradient_s + parts,
            // Workers push by turns: what one takes is shared, until servers and links are the limit.
            true => ((gradient_s + parts + STEP_LATENCY_S.value) / f64::from(question.workers)).max(parts),
        };
        let step_s = after(longest + rest * NOT_OVERLAPPED.value);
        Pace {
            gradient_s,
            link_s,
            server_s,
            worker_s,
            best_s: after(longest),
            step_s,
            worst_s: after(longest + rest),
            steps_per_second: 1.0 / step_s,
            server_cpu_s,
        }
    }
}
