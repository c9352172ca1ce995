//! The floor of a step on this machine: the same bytes over raw TCP, the same kernel, nothing else.
//!
//! What it is: each server process holds a share of the weights (double-buffered) and of the optimizer's
//! state, cut into chunks of the job's block size. Each worker has one connection to each server; a
//! step is its gradient up, chunk by chunk, and the new weights down. A chunk is summed and updated by
//! whoever brought its last gradient ([`server`]), while others are still on their way. Blocking threads,
//! reads and writes of a MiB and more, no framing, no allocation per step, no NaN scan, no membership, no
//! second server to agree with.
//!
//! Promises: correct weights, compared with the prediction at the end. Does not: know tensors (the share
//! is one run under the settings of tensors of no group), or survive anything. Shares of a few KiB are read and
//! written by tasks of the runtime instead of threads (`inline.rs`).

mod inline;
pub mod server;
mod share;
mod sum;
pub mod worker;

use std::io;
use std::net::TcpStream;
use std::ops::Range;

use halflife_proto::job::Combine;
use halflife_proto::slots::SlotTree;
use halflife_server::optim::{ConfigError, OptimizerConfig};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::prediction::Course;

/// Shares up to here are read and written by one task on each side, since handing work to another
/// takes longer than sending it. Small enough for the system's socket buffers, so that no two wait for
/// each other.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of one write.
const WRITE_BYTES: usize = 1 << 20;

/// Everything both sides must agree on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoundPlan {
    /// Elements of the model.
    pub elements: usize,
    /// Elements per chunk.
    pub chunk_elements: usize,
    /// Servers.
    pub servers: usize,
    /// Workers; each has the slot of its number.
    pub workers: u32,
    /// How slots combine.
    pub combine: Combine,
    /// The optimizer.
    pub optimizer_toml: String,
    /// Steps, at most; for schedules.
    pub steps: u64,
}

/// Why the bound cannot be measured.
#[derive(Debug, Error)]
pub enum BoundError {
    /// Connections failed.
    #[error("the bound's connections: {0}")]
    Connection(#[from] io::Error),
    /// The optimizer cannot be read.
    #[error("the bound's optimizer: {0}")]
    Settings(#[from] halflife_proto::strict_toml::TomlError),
    /// The optimizer cannot be built.
    #[error("the bound's optimizer: {0}")]
    Optimizer(#[from] ConfigError),
    /// Updates need more than a chunk.
    #[error("--bound needs an optimizer that updates each element by itself, found one with norms")]
    Norms,
    /// A thread is gone.
    #[error("the bound's connections: one has ended")]
    Ended,
}

impl BoundPlan {
    /// The elements of a server.
    #[must_use]
    pub fn share(&self, server: usize) -> Range<usize> {
        let boundary = |server: usize| (server as u128 * self.elements as u128 / self.servers as u128) as usize;
        boundary(server)..boundary(server + 1)
    }

    fn optimizer(&self) -> Result<OptimizerConfig, BoundError> {
        Ok(halflife_proto::strict_toml::from_str(&self.optimizer_toml)?)
    }

    fn course(&self) -> Course {
        let slots = SlotTree::new(self.workers).expect("a benchmark has workers");
        Course { slots, combine: self.combine, steps: self.steps }
    }

    fn is_inline(&self) -> bool {
        let largest = (0..self.servers).map(|server| self.share(server).len()).max().unwrap_or(0);
        largest <= self.chunk_elements && largest * size_of::<f32>() <= INLINE_BYTES_MAX
    }
}

/// Sockets of the bound wait for nothing.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

#[cfg(test)]
mod tests;
