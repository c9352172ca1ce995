//! The SDK: how a worker takes part in a job.
//!
//! - [`Lead`] is the control connection: what the job is, its status, joining it, reading weights.
//! - [`Member`] is a worker that has joined: it asks for work, sends gradients, receives weights.
//! - [`Layout`] places the model's tensors in one flat arena, [`NodeSum`] sums slots in it.
//!
//! Inside, from the decisions outwards:
//! - `work`: which work there is, without I/O. `assembly`: when received blocks make up a version,
//!   without I/O. `session` holds both results where the tasks below meet.
//! - `block_plan`: which block lies where in the arena and on which server. `shipment`: one node's
//!   gradient, cut into contributions. `encoder`: their data in the wire's dtype.
//! - `server_stream`, `heartbeat`: the tasks that own a stream each. `assembler`: the task that owns
//!   the assembly, with `reopening` for streams that broke. `pull`: a consistent read by unary calls.
//! - `fault_point`: where tests let a process die.
//! - `observer`: what is counted of the streams.
//! - `connection`, `retry`, `error`: how connections are set up, what is tried again, what is told.
//!
//! This crate never computes gradients or updates, and never depends on the server.

#[cfg(target_endian = "big")]
compile_error!("tensor data is little-endian on the wire and sent straight from memory");

mod assembler;
mod assembly;
mod block_plan;
mod buffer_pool;
mod bulk;
mod connection;
mod encoder;
mod error;
mod gradient;
mod heartbeat;
mod layout;
mod lead;
mod member;
mod node_sum;
mod observer;
mod options;
#[cfg_attr(feature = "planted-bugs", doc(hidden))]
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
mod pull;
mod reopening;
mod retry;
mod search;
mod server_stream;
mod session;
mod shipment;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod tensor_set;
mod weights;
mod work;

pub use buffer_pool::BufferPool;
pub use error::{ClientError, WeightsViolation};
pub use gradient::{NodeGradient, SlotGradient};
pub use halflife_discovery::{EtcdPlace, JobKeys, Places, PlacesError};
pub use layout::Layout;
pub use lead::Lead;
pub use member::{Member, Work};
pub use node_sum::{NodeSum, NodeSumError};
pub use observer::Observer;
pub use options::ClientOptions;
pub use tensor_set::TensorSet;
pub use weights::WeightsVersion;
