//! Which server holds which block: decided by the lead, once, balanced by bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use halflife_proto::blocks::{BlockId, all_blocks, block_count};
use halflife_proto::ids::ServerIndex;
use halflife_proto::manifest::Manifest;
use halflife_proto::placement::{Placement, PlacementError, ServerAddress};

/// Places every block on one server: largest first, each on the server with the fewest elements so far
/// (Graham's longest-processing-time rule: at most 4/3 of the best balance). Ties go to the lower
/// server, so the same model and servers always give the same placement, and the blocks of one tensor
/// spread over all servers; with `whole_tensors` they stay together.
///
/// # Errors
/// [`PlacementError`] for a block size the contract does not allow.
pub fn balance(
    manifest: &Manifest,
    version: u64,
    block_elements: u64,
    whole_tensors: bool,
    servers: Vec<ServerAddress>,
) -> Result<Placement, PlacementError> {
    let mut owners: Vec<Vec<Vec<ServerIndex>>> = manifest
        .tensors()
        .iter()
        .map(|tensor| vec![Vec::new(); block_count(tensor, block_elements) as usize])
        .collect();
    let mut loads: BinaryHeap<Reverse<(u64, u32)>> = (0..servers.len() as u32).map(|i| Reverse((0, i))).collect();
    for (blocks, elements) in units(manifest, block_elements, whole_tensors) {
        let Some(Reverse((load, server))) = loads.pop() else { break };
        for id in blocks {
            owners[id.tensor.0 as usize][id.index as usize] = vec![ServerIndex(server)];
        }
        loads.push(Reverse((load + elements, server)));
    }
    Placement::new(manifest, version, block_elements, servers, owners)
}

/// The blocks that must stay together and their elements, the largest unit first.
fn units(manifest: &Manifest, block_elements: u64, whole_tensors: bool) -> Vec<(Vec<BlockId>, u64)> {
    let mut units: Vec<(Vec<BlockId>, u64)> = Vec::new();
    for (id, range) in all_blocks(manifest, block_elements) {
        let elements = range.end - range.start;
        match units.last_mut() {
            Some((blocks, sum)) if whole_tensors && blocks[0].tensor == id.tensor => {
                blocks.push(id);
                *sum += elements;
            }
            _ => units.push((vec![id], elements)),
        }
    }
    units.sort_by_key(|(blocks, elements)| (Reverse(*elements), blocks[0]));
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::manifest::Tensor;
    use proptest::prelude::*;

    fn urls(count: usize) -> Vec<ServerAddress> {
        (0..count).map(|i| format!("http://server-{i}").into()).collect()
    }

    fn loads(manifest: &Manifest, placement: &Placement) -> Vec<u64> {
        let mut loads = vec![0; placement.servers().len()];
        for (id, range) in all_blocks(manifest, placement.block_elements()) {
            loads[placement.server_of(id).unwrap().0 as usize] += range.end - range.start;
        }
        loads
    }

    #[test]
    fn every_tensor_of_several_blocks_is_spread_over_the_servers() {
        let manifest = Manifest::new(vec![Tensor::trainable("a", &[64]), Tensor::trainable("b", &[7])]).unwrap();
        let placement = balance(&manifest, 1, 2, false, urls(3)).unwrap();
        for tensor in placement.owners() {
            let servers: std::collections::HashSet<_> = tensor.iter().flatten().collect();
            assert_eq!(servers.len(), 3);
        }
    }

    #[test]
    fn whole_tensors_stay_on_one_server() {
        let tensors =
            [64, 7, 30, 30].iter().enumerate().map(|(i, n)| Tensor::trainable(format!("t{i}"), &[*n])).collect();
        let manifest = Manifest::new(tensors).unwrap();
        let placement = balance(&manifest, 1, 2, true, urls(3)).unwrap();
        for tensor in placement.owners() {
            assert!(tensor.iter().all(|owners| *owners == tensor[0]));
        }
        assert_eq!(loads(&manifest, &placement), [64, 37, 30]);
    }

    #[test]
    fn more_servers_than_blocks_leave_some_empty() {
        let manifest = Manifest::new(vec![Tensor::trainable("a", &[3])]).unwrap();
        assert_eq!(loads(&manifest, &balance(&manifest, 1, 4, false, urls(3)).unwrap()), [3, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_server_holds_more_than_its_share_and_one_block(
            sizes in proptest::collection::vec(1usize..500, 1..20), servers in 1usize..6, log_block in 0u32..7,
        ) {
            let tensors = sizes.iter().enumerate().map(|(i, n)| Tensor::trainable(format!("t{i}"), &[*n])).collect();
            let manifest = Manifest::new(tensors).unwrap();
            let block = 1u64 << log_block;
            let loads = loads(&manifest, &balance(&manifest, 1, block, false, urls(servers)).unwrap());
            prop_assert_eq!(loads.iter().sum::<u64>(), manifest.elements());
            prop_assert!(loads.iter().all(|load| *load <= manifest.elements() / servers as u64 + block));
        }
    }
}
