//! A worker of halflife: reads data, computes gradients, trains through the servers.
//!
//! - [`training`] is one worker's part in a job; [`local`] a whole job in one process.
//! - [`computation`]: node gradients and scores, from the parts below.
//! - [`data`]: labelled samples and their parts; [`sampling`]: which of them make up a slot.
//! - [`model`]: loss and gradient.
//! - [`report`], [`progress`], [`digest`], [`weights_file`]: what a run leaves behind.
//! - [`meter`]: what is told while it runs.
//! - [`mod@bench`]: a load generator with a synthetic model.
//! - [`threads`]: how many a gradient takes.
//! - `step_spans`: what it adds to the traces of steps.
//! - `random`, `permutation`: stateless randomness.
//!
//! The binary adds the command line (`main.rs`, `arguments.rs`, `summary.rs`, `signals.rs`).

pub mod bench;
pub mod computation;
pub mod data;
pub mod digest;
pub mod local;
pub mod meter;
pub mod model;
mod permutation;
pub mod progress;
mod random;
pub mod report;
pub mod sampling;
mod step_spans;
pub mod threads;
pub mod training;
pub mod weights_file;

/// What can make this process's bits differ from another's.
#[must_use]
pub fn fingerprint() -> halflife_proto::hello::Fingerprint {
    halflife_proto::hello::Fingerprint::of_this_process(threads::per_gradient(), "cpu")
}
