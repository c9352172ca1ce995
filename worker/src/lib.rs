//! A worker of halflife: reads data, computes gradients, trains through the servers.
//!
//! - [`data`]: labelled samples and their parts; [`sampling`]: which of them make up a slot.
//! - [`model`]: loss and gradient.
//! - [`report`], [`progress`], [`digest`], [`weights_file`]: what a run leaves behind.
//! - [`fingerprint`], [`threads`]: what can make bits differ.
//! - `random`, `permutation`: stateless randomness.

pub mod data;
pub mod digest;
pub mod fingerprint;
pub mod model;
mod permutation;
pub mod progress;
mod random;
pub mod report;
pub mod sampling;
pub mod threads;
pub mod weights_file;
