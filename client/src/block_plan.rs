//! Which block lies where in the arena, and which server serves it.

use std::ops::Range;

use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::ids::{ServerIndex, TensorIndex};
use halflife_proto::job::Wire;
use halflife_proto::manifest::{Manifest, Role};
use halflife_proto::placement::Placement;
use halflife_proto::tensor_codec::Dtype;

use crate::layout::Layout;

/// One block of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedBlock {
    pub(crate) id: BlockId,
    /// Its elements in the arena.
    pub(crate) arena: Range<usize>,
    pub(crate) server: ServerIndex,
    /// Never changes after step 0 and takes no contributions.
    pub(crate) frozen: bool,
    /// How its contributions' data is encoded.
    pub(crate) gradients: Dtype,
}

impl PlannedBlock {
    /// Its elements' bytes in the arena.
    pub(crate) fn arena_bytes(&self) -> Range<usize> {
        self.arena.start * size_of::<f32>()..self.arena.end * size_of::<f32>()
    }
}

/// Every block of the model in canonical order, with its places.
#[derive(Clone, Debug)]
pub(crate) struct BlockPlan {
    blocks: Vec<PlannedBlock>,
    /// Number of each tensor's first block; the last entry is the number of blocks.
    first_of_tensor: Vec<usize>,
    /// Numbers of each server's blocks.
    of_server: Vec<Vec<usize>>,
    first_trainable: Option<usize>,
    wire: Wire,
}

impl BlockPlan {
    /// Plans a placement of `manifest`; placements are complete for their manifest.
    pub(crate) fn new(manifest: &Manifest, layout: &Layout, placement: &Placement, wire: Wire) -> BlockPlan {
        let mut blocks = Vec::new();
        let mut first_of_tensor = vec![0; manifest.tensors().len() + 1];
        let mut of_server = vec![Vec::new(); placement.servers().len()];
        let mut first_trainable = None;
        for (id, elements) in all_blocks(manifest, placement.block_elements()) {
            let server = placement.server_of(id).expect("a placement names an owner for every block");
            let role = &manifest.tensors()[id.tensor.0 as usize].role;
            let begin = layout.range(id.tensor).start;
            let arena = begin + elements.start as usize..begin + elements.end as usize;
            if *role == Role::Trainable {
                first_trainable.get_or_insert(blocks.len());
            }
            of_server[server.0 as usize].push(blocks.len());
            first_of_tensor[id.tensor.0 as usize + 1] += 1;
            let (frozen, gradients) = (*role == Role::Frozen, wire.contributions(role));
            blocks.push(PlannedBlock { id, arena, server, frozen, gradients });
        }
        for tensor in 1..first_of_tensor.len() {
            first_of_tensor[tensor] += first_of_tensor[tensor - 1];
        }
        BlockPlan { blocks, first_of_tensor, of_server, first_trainable, wire }
    }

    /// Every block, in canonical order; a block's place here is its number.
    pub(crate) fn blocks(&self) -> &[PlannedBlock] {
        &self.blocks
    }

    /// The number of a block, `None` when there is no such block.
    pub(crate) fn number_of(&self, id: BlockId) -> Option<usize> {
        let TensorIndex(tensor) = id.tensor;
        let begin = *self.first_of_tensor.get(tensor as usize)?;
        let end = *self.first_of_tensor.get(tensor as usize + 1)?;
        let number = begin + id.index as usize;
        (number < end).then_some(number)
    }

    /// Number of servers.
    pub(crate) fn servers(&self) -> usize {
        self.of_server.len()
    }

    /// Numbers of a server's blocks, in canonical order.
    pub(crate) fn numbers_of_server(&self, server: ServerIndex) -> &[usize] {
        self.of_server.get(server.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// How tensor data travels.
    pub(crate) fn wire(&self) -> Wire {
        self.wire
    }

    /// Number of the first trainable tensor's first block.
    pub(crate) fn first_trainable(&self) -> Option<usize> {
        self.first_trainable
    }
}

/// Plans for tests: blocks of 2 elements dealt out to two servers in turn.
#[cfg(test)]
pub(crate) mod example {
    use super::*;
    use halflife_proto::blocks::block_count;
    use halflife_proto::manifest::Tensor;

    pub(crate) const BLOCK_ELEMENTS: u64 = 2;

    /// Frozen `f` (2 elements), trainable `w` (5), `t` tied to `w`, buffer `b` (1).
    pub(crate) fn manifest() -> Manifest {
        let frozen = Tensor { role: Role::Frozen, ..Tensor::trainable("f", &[2]) };
        let tied = Tensor { role: Role::Tied("w".into()), ..Tensor::trainable("t", &[5]) };
        let buffer = Tensor { role: Role::Buffer, ..Tensor::trainable("b", &[1]) };
        Manifest::new(vec![frozen, Tensor::trainable("w", &[5]), tied, buffer]).unwrap()
    }

    pub(crate) fn plan() -> (Layout, BlockPlan) {
        plan_with(Wire::default())
    }

    pub(crate) fn plan_with(wire: Wire) -> (Layout, BlockPlan) {
        let manifest = manifest();
        let mut next = 0;
        let mut deal = || {
            next += 1;
            vec![ServerIndex((next - 1) % 2)]
        };
        let owners = manifest.tensors().iter().map(|tensor| {
            let blocks = block_count(tensor, BLOCK_ELEMENTS);
            (0..blocks).map(|_| deal()).collect::<Vec<_>>()
        });
        let owners = owners.collect();
        let urls = vec!["http://a".to_owned().into(), "http://b".to_owned().into()];
        let placement = Placement::new(&manifest, 1, BLOCK_ELEMENTS, urls, owners).unwrap();
        let layout = Layout::new(&manifest);
        let plan = BlockPlan::new(&manifest, &layout, &placement, wire);
        (layout, plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_numbered_and_placed_in_canonical_order() {
        let (_, plan) = example::plan();
        let places: Vec<_> = plan.blocks().iter().map(|block| (block.arena.clone(), block.server.0)).collect();
        assert_eq!(places, [(0..2, 0), (2..4, 1), (4..6, 0), (6..7, 1), (7..8, 0)]);
        for (number, block) in plan.blocks().iter().enumerate() {
            assert_eq!(plan.number_of(block.id), Some(number));
        }
        for (tensor, index) in [(0, 1), (1, 3), (2, 0), (4, 0), (u32::MAX, 0)] {
            assert_eq!(plan.number_of(BlockId { tensor: TensorIndex(tensor), index }), None);
        }
        assert_eq!(plan.numbers_of_server(ServerIndex(1)), [1, 3]);
        assert_eq!(plan.first_trainable(), Some(1));
        assert!(plan.blocks()[0].frozen && !plan.blocks()[4].frozen);
    }
}
