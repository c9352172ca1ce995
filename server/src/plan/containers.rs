//! What to ask a cluster for: requests and limits.

use serde::Serialize;

use super::memory::{ServerMemory, WorkerMemory};
use super::pace::Pace;
use super::question::Question;

/// Memory is asked for in whole pieces of this.
const PIECE_BYTES: u64 = 64 << 20;
/// CPU is asked for in whole pieces of so many thousandths of a core, and at least this much.
const PIECE_MILLICORES: u64 = 250;

/// Of one container, as Kubernetes writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// `requests.memory` and `limits.memory`: equal, since a server that is killed for memory costs the job a recovery.
    pub memory: String,
    /// `requests.cpu`.
    pub cpu_request: String,
    /// `limits.cpu`: whole cores, which is also the number of compute threads.
    pub cpu_limit: String,
}

/// Of both kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Containers {
    /// Each server.
    pub server: Resources,
    /// Each worker, without its data and activations.
    pub worker: Resources,
}

impl Containers {
    pub(super) fn new(question: &Question, server: &ServerMemory, worker: &WorkerMemory, pace: &Pace) -> Containers {
        let busy = pace.server_cpu_s / pace.step_s;
        let millicores = |cores: f64| ((cores * 1000.0) as u64).max(1).next_multiple_of(PIECE_MILLICORES);
        let of_server = millicores(busy).min(u64::from(question.cores) * 1000);
        Containers {
            server: Resources {
                memory: memory(server.most_bytes),
                cpu_request: cpu(of_server),
                cpu_limit: question.cores.to_string(),
            },
            // One thread computes gradients, one moves data.
            worker: Resources { memory: memory(worker.most_bytes), cpu_request: cpu(1000), cpu_limit: "2".to_owned() },
        }
    }
}

fn memory(bytes: u64) -> String {
    format!("{}Mi", bytes.div_ceil(PIECE_BYTES).saturating_mul(PIECE_BYTES) >> 20)
}

fn cpu(millicores: u64) -> String {
    if millicores.is_multiple_of(1000) { (millicores / 1000).to_string() } else { format!("{millicores}m") }
}
