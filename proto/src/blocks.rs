//! Blocks: how tensors are cut into the units of placement, transfer and update.

use std::fmt;
use std::ops::Range;

use crate::ids::TensorIndex;
use crate::manifest::{Manifest, Role, Tensor};

/// Elements per block unless the job says otherwise: 1 MiB of f32.
pub const BLOCK_ELEMENTS_DEFAULT: u64 = 1 << 18;
/// Largest block: 4 MiB of f32. What arrives is checked on the runtime's threads; larger blocks would hold them too long.
pub const BLOCK_ELEMENTS_MAX: u64 = 1 << 20;

/// Most blocks a model may be cut into: what is said of every block (placement, parts of a norm)
/// must fit one message. At the default block size that is 34 thousand million parameters.
pub const BLOCKS_MAX: u64 = 1 << 17;

/// Names a block: run `index` of the flattened tensor `tensor`.
///
/// The wire also reserves blocks of sparse tables; they will join as another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// The tensor.
    pub tensor: TensorIndex,
    /// Which run of it, from 0.
    pub index: u32,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}/{}", self.tensor.0, self.index)
    }
}

/// Number of blocks a tensor is cut into: none for a tied one.
#[must_use]
pub fn block_count(tensor: &Tensor, block_elements: u64) -> u64 {
    match tensor.role {
        Role::Tied(_) => 0,
        _ => tensor.elements().div_ceil(block_elements),
    }
}

/// The elements of block `index` within its flattened tensor, `None` when there is no such block.
#[must_use]
pub fn block_range(tensor: &Tensor, index: u32, block_elements: u64) -> Option<Range<u64>> {
    if u64::from(index) >= block_count(tensor, block_elements) {
        return None;
    }
    let begin = u64::from(index) * block_elements;
    Some(begin..tensor.elements().min(begin + block_elements))
}

/// Every block of a model in canonical order (tensor, then index), with its element range.
pub fn all_blocks(manifest: &Manifest, block_elements: u64) -> impl Iterator<Item = (BlockId, Range<u64>)> + '_ {
    manifest.tensors().iter().enumerate().flat_map(move |(tensor_index, tensor)| {
        (0..block_count(tensor, block_elements) as u32).filter_map(move |index| {
            let range = block_range(tensor, index, block_elements)?;
            Some((BlockId { tensor: TensorIndex(tensor_index as u32), index }, range))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_tile_each_tensor_and_skip_tied_ones() {
        let tied = Tensor { role: Role::Tied("a".into()), ..Tensor::trainable("t", &[5]) };
        let manifest = Manifest::new(vec![Tensor::trainable("a", &[5]), tied, Tensor::trainable("s", &[])]).unwrap();
        let blocks: Vec<_> = all_blocks(&manifest, 2).map(|(id, range)| (id.tensor.0, id.index, range)).collect();
        assert_eq!(blocks, [(0, 0, 0..2), (0, 1, 2..4), (0, 2, 4..5), (2, 0, 0..1)]);
    }
}
