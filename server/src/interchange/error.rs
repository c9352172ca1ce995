//! What may be wrong with files that are exchanged.

use halflife_proto::manifest::ManifestError;
use thiserror::Error;

use super::torch_mapping::NoTorchState;

/// Why weights or state were not taken over. Nothing was written.
#[derive(Debug, Error)]
pub enum InterchangeError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not a safetensors file, or metadata that cannot be read.
    #[error("{path}: expected {expected}, found {found}")]
    Malformed {
        /// The file.
        path: String,
        /// What should be there.
        expected: &'static str,
        /// What is.
        found: String,
    },
    /// The tensors are no model.
    #[error("{path}: {source}")]
    Model {
        /// The file.
        path: String,
        /// Why not.
        source: ManifestError,
    },
    /// A tensor is missing, unknown or different.
    #[error("{path}: tensor {name:?}: expected {expected}, found {found}")]
    Tensor {
        /// The file.
        path: String,
        /// The tensor, or the key of a part of its state.
        name: String,
        /// What should be there.
        expected: String,
        /// What is.
        found: String,
    },
    /// The state is another optimizer's.
    #[error("{path}: expected the state of torch.optim.{expected}, as the job's optimizer computes, found {found}")]
    Optimizer {
        /// The file.
        path: String,
        /// The job's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// A setting that a moment depends on differs.
    #[error("{path}: param_groups[{group}].{setting}: expected {expected} as in the job, found {found}")]
    Setting {
        /// The file.
        path: String,
        /// The group's place.
        group: usize,
        /// The setting.
        setting: &'static str,
        /// The job's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// Torch has no state for what the job computes.
    #[error(transparent)]
    NoTorchState(#[from] NoTorchState),
    /// Blocks of a tensor that were updated more often than others.
    #[error(
        "tensor {name:?}: expected one number of updates, as torch counts, found {least} to {most} over its blocks: pushes \
         of a worker that died were torn; take a later checkpoint"
    )]
    Torn {
        /// The tensor.
        name: String,
        /// Of its least updated block.
        least: u64,
        /// Of its most updated one.
        most: u64,
    },
}
