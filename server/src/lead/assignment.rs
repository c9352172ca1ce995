//! Which worker computes which slots.
//!
//! Any split is correct (a slot is defined by its number, never by who computes it), so the split
//! only has to be fair and stable: contiguous runs of slots in the order of the workers' numbers,
//! cut into as few tree nodes as they allow.

use halflife_proto::slots::{SlotRange, SlotTree};

/// The nodes of each of `workers` workers, in their order. Runs differ by at most one slot; workers
/// beyond the number of slots get none and stand by as spares.
#[must_use]
pub fn split_slots(tree: SlotTree, workers: usize) -> Vec<Vec<SlotRange>> {
    let slots = u64::from(tree.slots());
    let active = (workers as u64).min(slots);
    (0..workers as u64)
        .map(|worker| {
            if worker >= active {
                return Vec::new();
            }
            let boundary = |i: u64| (i * slots / active) as u32;
            SlotRange::new(boundary(worker), boundary(worker + 1)).map_or(Vec::new(), |run| tree.decompose(run))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(slots: u32, workers: usize) -> String {
        let split = split_slots(SlotTree::new(slots).unwrap(), workers);
        let nodes = |nodes: &Vec<SlotRange>| {
            nodes.iter().map(|n| format!("{}-{}", n.begin, n.end)).collect::<Vec<_>>().join(" ")
        };
        split.iter().map(nodes).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn slots_are_shared_in_runs_of_nodes() {
        for (slots, workers, expected) in [
            (8, 1, "0-8"),
            (8, 2, "0-4 | 4-8"),
            (8, 3, "0-2 | 2-4 4-5 | 5-6 6-8"),
            (8, 4, "0-2 | 2-4 | 4-6 | 6-8"),
            (2, 3, "0-1 | 1-2 | "),
            (1, 1, "0-1"),
        ] {
            assert_eq!(shown(slots, workers), expected, "{slots} slots, {workers} workers");
        }
    }

    proptest! {
        #[test]
        fn every_slot_has_exactly_one_worker_and_loads_differ_by_one(slots in 1u32..200, workers in 1usize..50) {
            let split = split_slots(SlotTree::new(slots).unwrap(), workers);
            let all: Vec<_> = split.iter().flatten().flat_map(|node| node.begin..node.end).collect();
            prop_assert_eq!(all, (0..slots).collect::<Vec<_>>());
            let loads: Vec<u32> = split.iter().map(|nodes| nodes.iter().map(|node| node.count()).sum()).collect();
            let active = &loads[..workers.min(slots as usize)];
            prop_assert!(active.iter().max().unwrap() - active.iter().min().unwrap() <= 1);
        }
    }
}
