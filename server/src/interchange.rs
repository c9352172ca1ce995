//! A job's weights and moments as plain safetensors files, for PyTorch and back.
//!
//! - [`TensorFile`]: one such file, read and written; [`ModelRecord`]: the model as its metadata tells it.
//! - [`TorchMapping`]: which torch optimizer computes what the job does, and what it calls each plane;
//!   [`ParamGroup`]: its settings, as the file carries them.
//! - `tensor_state`: one tensor's state under torch's names.
//! - [`export`] and [`import`]: between a checkpoint and the files. `docs/checkpoints.md` describes the files.
//!
//! It knows torch's formulas only by the choices that make ours the same; an optimizer that torch has no state for is
//! refused, never approximated. Whole models are held in memory.

pub mod error;
pub mod export;
pub mod import;
mod model_record;
mod param_group;
mod tensor_file;
mod tensor_state;
mod torch_mapping;

pub use error::InterchangeError;
pub use model_record::{MODEL_KEY, ModelRecord};
pub use param_group::ParamGroup;
pub use tensor_file::{Stored, TensorFile};
pub use torch_mapping::{NoTorchState, TorchKind, TorchMapping};

/// Metadata key of a state file: the class of the optimizer.
pub const OPTIMIZER_KEY: &str = "optimizer";
/// Metadata key of a state file: its parameter groups.
pub const GROUPS_KEY: &str = "param_groups";
