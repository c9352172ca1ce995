//! Initial weights from a safetensors file on the lead's disk.
//!
//! Read and checked before the job starts; sent to the servers as contributions to step 0, once
//! their blocks are in place.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use halflife_proto::blocks::all_blocks;
use halflife_proto::contribution::{Contribution, Payload};
use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::Order;
use halflife_proto::placement::Placement;
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::{Encoded, magnitude_max};
use safetensors::{Dtype, SafeTensors};
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{error, info};

/// Why a file cannot give the initial weights.
#[derive(Debug, Error)]
pub enum InitialWeightsError {
    /// It cannot be read.
    #[error("cannot read initial weights {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is not safetensors.
    #[error("initial weights {path}: expected a safetensors file: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// The parser's reason.
        reason: String,
    },
    /// It holds NaN or infinity.
    #[error("initial weights {path}, tensor {name:?}: expected finite values, found NaN or infinity")]
    Nonfinite {
        /// The file.
        path: String,
        /// The tensor.
        name: String,
    },
    /// It holds a tensor of another dtype.
    #[error("initial weights {path}, tensor {name:?}: expected dtype F32, found {found}")]
    WrongDtype {
        /// The file.
        path: String,
        /// The tensor.
        name: String,
        /// Its dtype.
        found: String,
    },
}

/// The tensors of a weights file: all f32.
#[derive(Debug)]
pub struct InitialWeights {
    path: PathBuf,
    tensors: BTreeMap<String, (Vec<u64>, Bytes)>,
}

impl InitialWeights {
    /// Reads a file whole.
    ///
    /// # Errors
    /// [`InitialWeightsError`], naming the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<InitialWeights, InitialWeightsError> {
        let shown = path.display().to_string();
        let bytes =
            std::fs::read(path).map_err(|source| InitialWeightsError::Unreadable { path: shown.clone(), source })?;
        let bytes = Bytes::from(bytes);
        let malformed = |reason: String| InitialWeightsError::Malformed { path: shown.clone(), reason };
        let file = SafeTensors::deserialize(&bytes).map_err(|error| malformed(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                let found = format!("{:?}", view.dtype());
                return Err(InitialWeightsError::WrongDtype { path: shown, name, found });
            }
            if !magnitude_max(view.data()).is_finite() {
                return Err(InitialWeightsError::Nonfinite { path: shown, name });
            }
            let shape = view.shape().iter().map(|dim| *dim as u64).collect();
            tensors.insert(name, (shape, bytes.slice_ref(view.data())));
        }
        Ok(InitialWeights { path: path.to_owned(), tensors })
    }

    /// Names and shapes.
    #[must_use]
    pub fn shapes(&self) -> BTreeMap<String, Vec<u64>> {
        self.tensors.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect()
    }

    /// Sends every block to its server. The state has checked that names and shapes fit.
    pub(super) async fn send(
        &self,
        generation: Generation,
        manifest: &Manifest,
        placement: &Placement,
        servers: &HashMap<ServerIndex, mpsc::Sender<Order>>,
    ) {
        for (block, range) in all_blocks(manifest, placement.block_elements()) {
            let data = manifest
                .get(block.tensor)
                .and_then(|tensor| self.tensors.get(&tensor.name))
                .map(|(_, data)| data.slice(4 * range.start as usize..4 * range.end as usize));
            let server = placement.server_of(block).and_then(|index| servers.get(&index));
            let (Some(data), Some(server)) = (data, server) else {
                error!(%block, "initial weights cannot be sent");
                return;
            };
            let slots = SlotRange { begin: 0, end: 1 };
            let contribution = Contribution {
                block,
                generation,
                step: Step::ZERO,
                slots,
                weight: 1.0,
                payload: Payload::Dense(Encoded::f32(data)),
                push: None,
            };
            if server.send(Order::Initialize(contribution)).await.is_err() {
                return; // the server is gone, which the lead hears of by itself
            }
        }
        info!(path = %self.path.display(), "initial weights are read");
    }
}
