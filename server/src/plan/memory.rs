//! Memory of a server and of a worker.

use halflife_proto::tensor_codec::Dtype;
use halflife_proto::{HTTP2_SEND_BYTES, HTTP2_WINDOW_BYTES};
use serde::Serialize;

use super::constants::{GRADIENT_ARENAS, MODEL_ARENAS, PROGRAM_BYTES, SAVING_BYTES, WEIGHT_ARENAS};
use super::question::{Question, wire_bytes};
use crate::lead::demand;

/// Bytes of an f32.
const F32_BYTES: u64 = size_of::<f32>() as u64;

/// Of the fullest server, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerMemory {
    /// Its elements.
    pub elements: u64,
    /// Per element: weights and the optimizer's state, what a checkpoint sets aside.
    pub state_bytes_per_element: u64,
    /// All of that.
    pub state_bytes: u64,
    /// Gradients that may wait for the last of their step.
    pub gradient_bytes: u64,
    /// Data under way on workers' connections.
    pub connection_bytes: u64,
    /// What the lead reserves as workers join, and compares with `--memory-max`.
    pub reserved_bytes: u64,
    /// The program, and parts of a checkpoint on their way: not part of what is reserved.
    pub program_bytes: u64,
    /// Most that the process may use.
    pub most_bytes: u64,
}

impl ServerMemory {
    pub(super) fn new(question: &Question, servers: u32) -> ServerMemory {
        let demand = demand(&question.job, &question.optimizer());
        let (elements, workers) = (question.elements(servers), u64::from(question.workers));
        let reserved_bytes = demand.reserved(elements, workers);
        let connection_bytes = demand.reserved(0, workers);
        let state_bytes = demand.state_bytes.saturating_mul(elements);
        let program_bytes = PROGRAM_BYTES + if question.job.checkpoint.is_some() { SAVING_BYTES } else { 0 };
        ServerMemory {
            elements,
            state_bytes_per_element: demand.state_bytes,
            state_bytes,
            gradient_bytes: reserved_bytes.saturating_sub(state_bytes).saturating_sub(connection_bytes),
            connection_bytes,
            reserved_bytes,
            program_bytes,
            most_bytes: reserved_bytes.saturating_add(program_bytes),
        }
    }
}

/// Of a worker, in bytes, without its data and activations.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerMemory {
    /// Versions of the weights.
    pub weight_bytes: u64,
    /// Gradients, and what i8 has rounded off.
    pub gradient_bytes: u64,
    /// Data under way on its connections.
    pub connection_bytes: u64,
    /// What the built-in model computes with; 0 for a job whose workers are the user's own.
    pub model_bytes: u64,
    /// The program.
    pub program_bytes: u64,
    /// The sum.
    pub most_bytes: u64,
}

impl WorkerMemory {
    pub(super) fn new(question: &Question, servers: u32) -> WorkerMemory {
        let arena = question.parameters.saturating_mul(F32_BYTES);
        // What i8 rounds off is kept until the next slot.
        let kept = if question.job.wire.gradients == Dtype::I8Scaled { arena } else { 0 };
        let window = HTTP2_WINDOW_BYTES as u64 + HTTP2_SEND_BYTES as u64;
        // A server has no more to send than its blocks, nor a worker more to send it than their gradients.
        let elements = question.elements(servers);
        let wire = question.job.wire;
        let all = wire_bytes(wire.weights, elements)
            + wire_bytes(wire.gradients, elements) * question.gradients_per_worker() as f64;
        let weight_bytes = WEIGHT_ARENAS.saturating_mul(arena);
        let gradient_bytes = GRADIENT_ARENAS.saturating_mul(arena).saturating_add(kept);
        let connection_bytes = window.min(all as u64).saturating_mul(u64::from(servers));
        let model_bytes = if question.job.workload.is_some() { MODEL_ARENAS.saturating_mul(arena) } else { 0 };
        let parts = [weight_bytes, gradient_bytes, connection_bytes, model_bytes, PROGRAM_BYTES];
        let most_bytes = parts.into_iter().fold(0, u64::saturating_add);
        WorkerMemory {
            weight_bytes,
            gradient_bytes,
            connection_bytes,
            model_bytes,
            program_bytes: PROGRAM_BYTES,
            most_bytes,
        }
    }
}
