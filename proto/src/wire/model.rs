//! Blocks, slots, tensors, placements.

use super::{required, unimplemented};
use crate::blocks::BlockId;

use crate::ids::{ServerIndex, TensorIndex};

use crate::manifest::{Dtype, Manifest, Role, Tensor};

use crate::placement::{Placement, ServerAddress};
use crate::refusal::{Refusal, RefusalCause};
use crate::slots::SlotRange;

use crate::v1;

impl From<BlockId> for v1::BlockId {
    fn from(block: BlockId) -> v1::BlockId {
        let dense = v1::DenseBlock { tensor: block.tensor.0, index: block.index };
        v1::BlockId { kind: Some(v1::block_id::Kind::Dense(dense)) }
    }
}

/// Reads a block id.
///
/// # Errors
/// `MALFORMED` when it names nothing, `UNIMPLEMENTED` for a sparse block.
pub fn read_block_id(wire: Option<v1::BlockId>) -> Result<BlockId, Refusal> {
    match required(wire.and_then(|id| id.kind), "block")? {
        v1::block_id::Kind::Dense(dense) => Ok(BlockId { tensor: TensorIndex(dense.tensor), index: dense.index }),
        v1::block_id::Kind::Sparse(_) => Err(unimplemented("a sparse block")),
    }
}

impl From<SlotRange> for v1::SlotRange {
    fn from(range: SlotRange) -> v1::SlotRange {
        v1::SlotRange { begin: range.begin, end: range.end }
    }
}

/// Reads a slot range that is not empty; whether it is a node is the block's to check.
///
/// # Errors
/// `MISALIGNED_SLOTS` for an empty range.
pub fn read_slots(wire: Option<v1::SlotRange>) -> Result<SlotRange, Refusal> {
    let wire = required(wire, "slots")?;
    SlotRange::new(wire.begin, wire.end).ok_or_else(|| {
        let found = format!("[{}, {})", wire.begin, wire.end);
        Refusal::mismatch(RefusalCause::MisalignedSlots, "slot range", "begin < end", found)
    })
}

impl From<Dtype> for v1::Dtype {
    fn from(dtype: Dtype) -> v1::Dtype {
        match dtype {
            Dtype::F32 => v1::Dtype::F32,
            Dtype::Bf16 => v1::Dtype::Bf16,
            Dtype::I8Scaled => v1::Dtype::I8Scaled,
        }
    }
}

/// Reads a dtype.
///
/// # Errors
/// `WRONG_DTYPE` for an unknown one.
pub fn read_dtype(wire: i32) -> Result<Dtype, Refusal> {
    match v1::Dtype::try_from(wire) {
        Ok(v1::Dtype::F32) => Ok(Dtype::F32),
        Ok(v1::Dtype::Bf16) => Ok(Dtype::Bf16),
        Ok(v1::Dtype::I8Scaled) => Ok(Dtype::I8Scaled),
        Ok(v1::Dtype::Unspecified) | Err(_) => {
            let expected = "DTYPE_F32 (1), DTYPE_BF16 (2) or DTYPE_I8_SCALED (3)";
            Err(Refusal::mismatch(RefusalCause::WrongDtype, "dtype", expected, wire))
        }
    }
}

impl From<&Manifest> for v1::Manifest {
    fn from(manifest: &Manifest) -> v1::Manifest {
        v1::Manifest { tensors: manifest.tensors().iter().map(v1::Tensor::from).collect() }
    }
}

impl From<&Tensor> for v1::Tensor {
    fn from(tensor: &Tensor) -> v1::Tensor {
        let (role, tied_to) = match &tensor.role {
            Role::Trainable => (v1::TensorRole::Trainable, String::new()),
            Role::Frozen => (v1::TensorRole::Frozen, String::new()),
            Role::Buffer => (v1::TensorRole::Buffer, String::new()),
            Role::Tied(to) => (v1::TensorRole::Tied, to.clone()),
        };
        v1::Tensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: v1::Dtype::from(tensor.dtype).into(),
            role: role.into(),
            tied_to,
        }
    }
}

/// Reads a manifest.
///
/// # Errors
/// `MALFORMED` with what is wrong with it.
pub fn read_manifest(wire: Option<v1::Manifest>) -> Result<Manifest, Refusal> {
    let tensors = required(wire, "manifest")?.tensors.into_iter().map(read_tensor).collect::<Result<_, _>>()?;
    Manifest::new(tensors).map_err(|error| Refusal::new(RefusalCause::Malformed, format!("manifest: {error}")))
}

fn read_tensor(wire: v1::Tensor) -> Result<Tensor, Refusal> {
    let role = match wire.role() {
        v1::TensorRole::Trainable => Role::Trainable,
        v1::TensorRole::Frozen => Role::Frozen,
        v1::TensorRole::Buffer => Role::Buffer,
        v1::TensorRole::Tied => Role::Tied(wire.tied_to),
        v1::TensorRole::Unspecified => {
            let what = format!("role of tensor {:?}", wire.name);
            return Err(Refusal::mismatch(RefusalCause::Malformed, what, "a tensor role", wire.role));
        }
    };
    let dtype = read_dtype(wire.dtype)?;
    if dtype != Dtype::F32 {
        return Err(unimplemented(&format!("a tensor of dtype {dtype} (tensor {:?})", wire.name)));
    }
    Ok(Tensor { dtype, name: wire.name, shape: wire.shape, role })
}

impl From<&Placement> for v1::Placement {
    fn from(placement: &Placement) -> v1::Placement {
        let owners =
            |list: &Vec<ServerIndex>| v1::BlockOwners { servers: list.iter().map(|server| server.0).collect() };
        let tensors =
            placement.owners().iter().map(|blocks| v1::TensorPlacement { blocks: blocks.iter().map(owners).collect() });
        v1::Placement {
            version: placement.version(),
            block_elements: placement.block_elements(),
            servers: placement.servers().iter().map(|server| server.url.clone()).collect(),
            unix_sockets: placement.servers().iter().map(|server| server.unix_socket.clone()).collect(),
            tensors: tensors.collect(),
        }
    }
}

/// Reads a placement of `manifest`.
///
/// # Errors
/// `MALFORMED` when it does not fit the manifest.
pub fn read_placement(wire: Option<v1::Placement>, manifest: &Manifest) -> Result<Placement, Refusal> {
    let wire = required(wire, "placement")?;
    let owners = wire.tensors.into_iter().map(|tensor| {
        tensor.blocks.into_iter().map(|block| block.servers.into_iter().map(ServerIndex).collect()).collect()
    });
    // A peer that knows nothing of Unix sockets names none.
    let mut unix_sockets = wire.unix_sockets.into_iter();
    let servers = wire.servers.into_iter().map(|url| {
        let unix_socket = unix_sockets.next().unwrap_or_default();
        ServerAddress { url, unix_socket }
    });
    Placement::new(manifest, wire.version, wire.block_elements, servers.collect(), owners.collect())
        .map_err(|error| Refusal::new(RefusalCause::Malformed, error.to_string()))
}
