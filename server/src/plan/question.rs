//! What a plan is asked for.

use std::num::NonZeroU64;

use halflife_optim::Optimizer;
use halflife_proto::dtype::SCALED_GROUP_ELEMENTS;
use halflife_proto::slots::SlotTree;
use halflife_proto::tensor_codec::Dtype;
use serde::Serialize;

use crate::config::JobSpec;
use crate::lead::assignment::split_slots;

/// A size of job, and what it runs on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Question {
    /// Elements of the model.
    pub parameters: u64,
    /// Workers that take part.
    pub workers: u32,
    /// Servers; `None`: as many as recommended.
    #[serde(rename = "servers_asked")]
    pub servers: Option<u32>,
    /// Each machine's link, in 10^9 bits per second and direction.
    pub network_gbit: f64,
    /// Cores of each server.
    pub cores: u32,
    /// What a worker takes for its gradients of a step, in milliseconds.
    pub gradient_ms: f64,
    /// Bytes that each server may use, if they are bounded.
    pub memory_max: Option<NonZeroU64>,
    /// Optimizer, slots, wire, checkpoints.
    #[serde(skip)]
    pub job: JobSpec,
}

impl Question {
    pub(super) fn optimizer(&self) -> Optimizer {
        Optimizer::new(&self.job.optimizer, self.job.job.steps).expect("a job spec has a valid optimizer")
    }

    /// Elements of the fullest server at most: blocks are dealt out one by one, so it has at most one more than its share
    /// (`placement.rs`). Where tensors stay whole, nobody knows without the model; this is the even share then.
    pub(super) fn elements(&self, servers: u32) -> u64 {
        let share = self.parameters.div_ceil(u64::from(servers.max(1)));
        if servers <= 1 || self.keeps_tensors_whole() {
            return share;
        }
        share.saturating_add(self.job.job.block_elements).min(self.parameters)
    }

    pub(super) fn keeps_tensors_whole(&self) -> bool {
        let optimizer = self.optimizer();
        optimizer.needs_whole_tensors() || optimizer.reductions().iter().any(|reduction| !reduction.is_global())
    }

    /// Gradients that all workers send for one step: of each node that a worker sums, or of each slot where the wire
    /// rounds or a quorum chooses. With tickets a step is one push of one worker.
    pub(super) fn gradients_per_step(&self) -> u64 {
        let job = &self.job.job;
        if job.mode.has_tickets() {
            return 1;
        }
        if self.job.wire.gradients.is_lossy() || job.consistency().partial_quorum(job.slots).is_some() {
            return u64::from(job.slots);
        }
        let tree = SlotTree::new(job.slots).expect("a job spec has at least one slot");
        split_slots(tree, self.workers as usize).iter().map(|nodes| nodes.len() as u64).sum()
    }

    /// Gradients that the busiest worker sends for one step.
    pub(super) fn gradients_per_worker(&self) -> u64 {
        self.gradients_per_step().div_ceil(u64::from(self.active_workers()))
    }

    /// Workers that have something to compute; others stand by, and get the weights all the same.
    pub(super) fn active_workers(&self) -> u32 {
        if self.job.job.mode.has_tickets() { self.workers } else { self.workers.min(self.job.job.slots) }
    }
}

/// Bytes of so many elements on the wire.
pub(super) fn wire_bytes(dtype: Dtype, elements: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // an estimate
    let per_element = dtype.encoded_bytes(SCALED_GROUP_ELEMENTS) as f64 / SCALED_GROUP_ELEMENTS as f64;
    per_element * elements as f64
}
