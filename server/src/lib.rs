//! The server of halflife: owns blocks, applies steps, and, on server 0, leads the job.
//!
//! The map, from the wire inwards:
//! - [`server`] starts and ends a whole server; `main.rs` is its command line, [`startup`] the part of it that says who leads.
//! - [`allocator`] keeps freed memory; [`io_threads`] says how many threads move data; [`connections`] accepts TCP and Unix sockets and speaks HTTP/2 on them.
//! - [`data_service`] and [`lead::control_service`] are the edges: parse, call, answer.
//!   `outbox` holds what waits to be sent to one worker.
//! - [`shard`] is the part of a job one server holds; [`node`] carries out the lead's orders on it;
//!   [`follower`] is the link of a server that does not lead.
//! - [`block`] is one block: what it has gathered, the canonical sum, the update, its versions.
//! - `reduction` is the way of rules that need norms over more than a block. `slot_tally` and `push_tally` count what
//!   the lead is told with a quorum and in the asynchronous modes; [`staleness`] is how stale gradients are.
//! - [`lead`] owns the job; `lead/state.rs` decides without I/O; [`placement`] decides who holds what.
//! - [`recovery`] is how a lead begins, anew or from a checkpoint; `saving` writes blocks and reads them back.
//! - [`telemetry`] is what a process tells of itself while it runs.
//! - [`operator`] is how a person looks at a job and acts on it; [`checkpoint_command`] is the same for its checkpoints,
//!   and [`interchange`] takes weights and moments to PyTorch and back.
//! - [`healthcheck`] asks a server whether it serves; [`signals`] is how both programs are told to end.
//! - [`config`] reads the job file; [`explain`] says what it means, [`plan`] what it needs. [`byte_amount`],
//!   [`socket_address`] and [`whole_number`] read parts of command lines. `registry` is the one file that touches dashmap.

pub mod allocator;
pub mod block;
pub mod byte_amount;
pub mod checkpoint_command;
pub mod compute;
pub mod config;
pub mod connections;
pub mod data_service;
pub mod explain;
pub mod follower;
pub mod healthcheck;
pub mod interchange;
pub mod io_threads;
pub mod lead;
pub mod node;
pub mod operator;
pub mod outbox;
pub mod placement;
pub mod plan;
#[cfg_attr(feature = "planted-bugs", doc(hidden))]
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
mod progress;
mod push_tally;
pub mod recovery;
mod reduction;
mod registry;
mod saving;
pub mod server;
pub mod shard;
pub mod signals;
mod slot_tally;
pub mod socket_address;
pub mod staleness;
pub mod startup;
pub mod step_edge;
pub mod telemetry;
mod ticket_set;
pub mod whole_number;

pub use config::{ConfigError, JobSpec};
/// The optimizers, for programs that predict what a server computes.
pub use halflife_optim as optim;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub use registry::SessionId;
pub use server::{Part, RunningServer, ServerEnd, ServerError, ServerOptions, start};
