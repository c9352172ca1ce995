//! A load generator: how fast is this cluster, or this machine, and are its weights right?
//!
//! `docs/bench.md` says what is measured. The map, from the outside in:
//! - [`settings`]: what was asked for, and the job made of it. [`controller`]: the whole measurement.
//!   [`report`]: what comes out. [`sweep`]: one after the other, as a table and a picture.
//! - [`cluster`]: a job's processes, ordered phase by phase; [`phase`]: the times of one.
//!   [`child`]: processes as the controller sees them; [`process`]: what is said between them.
//! - `role`, `server_process`, `worker_process`: the processes' side.
//! - [`shape`]: synthetic models. [`samples`]: synthetic gradients. [`prediction`], [`verification`]: what the
//!   weights must be, and what was found.
//! - [`bound`]: the floor of a step on this machine.
//! - [`statistics`], [`machine`], [`wire`]: medians; clocks, memory, facts; dtypes.

pub mod bound;
pub mod child;
pub mod cluster;
pub mod controller;
pub mod machine;
pub mod phase;
mod plot;
pub mod prediction;
pub mod process;
pub mod report;
mod role;
pub mod samples;
mod server_process;
pub mod settings;
pub mod shape;
pub mod statistics;
pub mod sweep;
pub mod verification;
pub mod wire;
mod worker_process;

pub use role::run as run_process;
