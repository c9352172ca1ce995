//! Which server holds which block: decided by the lead, once, balanced by bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use halflife_proto::blocks::{all_blocks, block_count};
use halflife_proto::ids::ServerIndex;
use halflife_proto::manifest::Manifest;
use halflife_proto::placement::{Placement, PlacementError};

/// Places every block on one server: largest blocks first, each on the server with the fewest
/// elements so far (Graham's longest-processing-time rule: at most 4/3 of the best balance). Ties go
/// to the lower server, so the same model and servers always give the same placement, and the
/// blocks of one tensor spread over all servers.
///
/// # Errors
/// [`PlacementError`] for a block size the contract does not allow.
pub fn balance(
    manifest: &Manifest,
    version: u64,
    block_elements: u64,
    servers: Vec<String>,
) -> Result<Placement, PlacementError> {
    let mut owners: Vec<Vec<Vec<ServerIndex>>> = manifest
        .tensors()
        .iter()
        .map(|tensor| vec![Vec::new(); block_count(tensor, block_elements) as usize])
        .collect();
    let mut blocks: Vec<_> = all_blocks(manifest, block_elements).collect();
    blocks.sort_by_key(|(id, range)| (Reverse(range.end - range.start), *id));
    let mut loads: BinaryHeap<Reverse<(u64, u32)>> = (0..servers.len() as u32).map(|i| Reverse((0, i))).collect();
    for (id, range) in blocks {
        let Some(Reverse((load, server))) = loads.pop() else { break };
        owners[id.tensor.0 as usize][id.index as usize] = vec![ServerIndex(server)];
        loads.push(Reverse((load + range.end - range.start, server)));
    }
    Placement::new(manifest, version, block_elements, servers, owners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::manifest::Tensor;
    use proptest::prelude::*;

    fn urls(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("http://server-{i}")).collect()
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
        let placement = balance(&manifest, 1, 2, urls(3)).unwrap();
        for tensor in placement.owners() {
            let servers: std::collections::HashSet<_> = tensor.iter().flatten().collect();
            assert_eq!(servers.len(), 3);
        }
    }

    #[test]
    fn more_servers_than_blocks_leave_some_empty() {
        let manifest = Manifest::new(vec![Tensor::trainable("a", &[3])]).unwrap();
        assert_eq!(loads(&manifest, &balance(&manifest, 1, 4, urls(3)).unwrap()), [3, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_server_holds_more_than_its_share_and_one_block(
            sizes in proptest::collection::vec(1usize..500, 1..20), servers in 1usize..6, log_block in 0u32..7,
        ) {
            let tensors = sizes.iter().enumerate().map(|(i, n)| Tensor::trainable(format!("t{i}"), &[*n])).collect();
            let manifest = Manifest::new(tensors).unwrap();
            let block = 1u64 << log_block;
            let loads = loads(&manifest, &balance(&manifest, 1, block, urls(servers)).unwrap());
            prop_assert_eq!(loads.iter().sum::<u64>(), manifest.elements());
            prop_assert!(loads.iter().all(|load| *load <= manifest.elements() / servers as u64 + block));
        }
    }
}
