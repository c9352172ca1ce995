//! What a step moves over the links.

use serde::Serialize;

use super::question::{Question, wire_bytes};

/// Bytes of one step; of one push in the asynchronous modes. Elements only: headers add less than 1 %.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// Gradients of all workers for one step, each a whole model's.
    pub gradients_per_step: u64,
    /// Into the fullest server.
    pub server_in_bytes: f64,
    /// Out of it.
    pub server_out_bytes: f64,
    /// Into each worker.
    pub worker_in_bytes: f64,
    /// Out of the busiest worker.
    pub worker_out_bytes: f64,
    /// What the narrowest of these takes at the speed of its link, in seconds.
    pub narrowest_s: f64,
    /// Which one that is.
    pub narrowest: &'static str,
}

impl Traffic {
    pub(super) fn new(question: &Question, servers: u32) -> Traffic {
        let wire = question.job.wire;
        let (elements, parameters) = (question.elements(servers), question.parameters);
        let gradients = question.gradients_per_step();
        let server_in_bytes = wire_bytes(wire.gradients, elements) * gradients as f64;
        let server_out_bytes = wire_bytes(wire.weights, elements) * f64::from(question.workers);
        let worker_in_bytes = wire_bytes(wire.weights, parameters);
        let worker_out_bytes = wire_bytes(wire.gradients, parameters) * question.gradients_per_worker() as f64;
        let ways = [
            ("into the fullest server", server_in_bytes),
            ("out of the fullest server", server_out_bytes),
            ("into each worker", worker_in_bytes),
            ("out of the busiest worker", worker_out_bytes),
        ];
        let (narrowest, bytes) = ways.into_iter().fold(ways[0], |most, way| if way.1 > most.1 { way } else { most });
        let narrowest_s = bytes * 8.0 / (question.network_gbit * 1e9);
        Traffic {
            gradients_per_step: gradients,
            server_in_bytes,
            server_out_bytes,
            worker_in_bytes,
            worker_out_bytes,
            narrowest_s,
            narrowest,
        }
    }
}
