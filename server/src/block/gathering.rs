//! What a block holds of the step it waits for, and when that is whole (DESIGN.md rule 1).
//!
//! A plain state machine: no I/O, no arithmetic on gradients. Contributions are keyed by nodes of
//! the slot tree; the nodes held are always disjoint.

use halflife_proto::contribution::{Outcome, Payload};
use halflife_proto::slots::{SlotRange, SlotTree};

use crate::planted::{Bug, planted};

/// One node's contribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Its slots, a node of the tree.
    pub slots: SlotRange,
    /// Sum of its sample weights.
    pub weight: f64,
    /// Its gradient sum.
    pub payload: Payload,
    /// Largest magnitude in the payload; 0 when it has no data.
    pub magnitude_max: f32,
}

/// The contributions to one step of one block.
#[derive(Clone, Debug)]
pub struct Gathering {
    tree: SlotTree,
    /// Disjoint, in slot order.
    held: Vec<Held>,
}

impl Gathering {
    /// Nothing held yet.
    #[must_use]
    pub fn new(tree: SlotTree) -> Gathering {
        Gathering { tree, held: Vec::new() }
    }

    /// Takes a contribution whose slots are a node of the tree (the caller has checked). One that
    /// is already covered changes nothing; one that covers held nodes takes their place.
    pub fn add(&mut self, arrived: Held) -> Outcome {
        debug_assert!(self.tree.is_node(arrived.slots));
        let is_covered = self.held.iter().any(|held| held.slots.covers(arrived.slots));
        if is_covered && !planted(Bug::ForgottenDedupe) {
            return Outcome::Duplicate;
        }
        let before = self.held.len();
        if planted(Bug::LateNodeIgnored) && self.held.iter().any(|held| arrived.slots.covers(held.slots)) {
            return Outcome::Duplicate;
        }
        if !planted(Bug::CoveringNodeAdded) && !planted(Bug::ForgottenDedupe) {
            self.held.retain(|held| !arrived.slots.covers(held.slots));
        }
        let outcome = if self.held.len() < before { Outcome::Replaced } else { Outcome::Added };
        let place = self.held.partition_point(|held| held.slots.begin < arrived.slots.begin);
        self.held.insert(place, arrived);
        outcome
    }

    /// Whether every slot is covered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        // Disjoint by construction, so counting is enough.
        let held = self.held.iter().map(|held| held.slots.count()).sum::<u32>();
        held == self.tree.slots() || (planted(Bug::PartialStepApplied) && held + 1 == self.tree.slots() && held > 0)
    }

    /// The slots that nothing held covers, as runs in slot order.
    pub fn missing(&self) -> impl Iterator<Item = SlotRange> {
        let ends = std::iter::once(0).chain(self.held.iter().map(|held| held.slots.end));
        let begins = self.held.iter().map(|held| held.slots.begin).chain(std::iter::once(self.tree.slots()));
        ends.zip(begins).filter_map(|(end, begin)| SlotRange::new(end, begin))
    }

    /// Lets go of all but these single slots; how many of them are held.
    pub fn keep(&mut self, slots: &[u32]) -> usize {
        self.held.retain(|held| held.slots.count() == 1 && slots.contains(&held.slots.begin));
        self.held.len()
    }

    /// What is held, disjoint, in slot order.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Hands over what is held and starts on the next step.
    pub fn take(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.held)
    }

    /// Takes back a list that [`Gathering::take`] handed over, emptied, unless something came meanwhile.
    pub fn recycle(&mut self, list: Vec<Held>) {
        debug_assert!(list.is_empty());
        if self.held.is_empty() {
            self.held = list;
        }
    }

    /// Bytes of gradient data held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.held.iter().map(|held| held.payload.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(begin: u32, end: u32) -> Held {
        let slots = SlotRange::new(begin, end).unwrap();
        Held { slots, weight: f64::from(end - begin), payload: Payload::Absent, magnitude_max: 0.0 }
    }

    /// arrivals in order: (begin, end, outcome, complete afterwards)
    fn run(slots: u32, arrivals: &[(u32, u32, Outcome, bool)]) {
        let mut gathering = Gathering::new(SlotTree::new(slots).unwrap());
        for (begin, end, outcome, complete) in arrivals {
            assert_eq!(gathering.add(held(*begin, *end)), *outcome, "[{begin}, {end})");
            assert_eq!(gathering.is_complete(), *complete, "[{begin}, {end})");
        }
    }

    #[test]
    fn arrivals_are_added_replaced_or_duplicate() {
        use Outcome::{Added, Duplicate, Replaced};
        run(1, &[(0, 1, Added, true), (0, 1, Duplicate, true)]);
        run(4, &[(0, 2, Added, false), (0, 1, Duplicate, false), (1, 2, Duplicate, false), (2, 4, Added, true)]);
        run(4, &[(0, 1, Added, false), (0, 2, Replaced, false), (3, 4, Added, false), (0, 4, Replaced, true)]);
        run(6, &[(4, 6, Added, false), (4, 5, Duplicate, false), (0, 4, Added, true), (0, 6, Replaced, true)]);
    }

    #[test]
    fn what_is_kept_are_the_slots_that_are_named() {
        let mut gathering = Gathering::new(SlotTree::new(4).unwrap());
        for slot in [3, 0, 2] {
            gathering.add(held(slot, slot + 1));
        }
        assert_eq!(gathering.keep(&[0, 1, 3]), 2);
        assert_eq!(gathering.held(), [held(0, 1), held(3, 4)]);
    }

    #[test]
    fn what_is_missing_are_the_runs_between_what_is_held() {
        let mut gathering = Gathering::new(SlotTree::new(8).unwrap());
        let mut missing_with = |nodes: &[(u32, u32)]| {
            nodes.iter().for_each(|(begin, end)| _ = gathering.add(held(*begin, *end)));
            gathering.missing().map(|run| (run.begin, run.end)).collect::<Vec<_>>()
        };
        assert_eq!(missing_with(&[]), [(0, 8)]);
        assert_eq!(missing_with(&[(2, 4), (4, 5)]), [(0, 2), (5, 8)]);
        assert_eq!(missing_with(&[(0, 2), (6, 8)]), [(5, 6)]);
        assert_eq!(missing_with(&[(0, 8)]), []);
    }

    proptest! {
        #[test]
        fn what_is_held_is_disjoint_and_completes_once_every_slot_came(
            slots in 1u32..40,
            arrivals in proptest::collection::vec((0u32..40, 0u32..40), 1..60),
        ) {
            let tree = SlotTree::new(slots).unwrap();
            let mut gathering = Gathering::new(tree);
            let mut seen = vec![false; slots as usize];
            for (a, b) in arrivals {
                let (a, b) = (a % slots, b % slots);
                let range = SlotRange::new(a.min(b), a.max(b) + 1).unwrap();
                for node in tree.decompose(range) {
                    gathering.add(held(node.begin, node.end));
                    seen[node.begin as usize..node.end as usize].fill(true);
                }
                prop_assert!(gathering.held().windows(2).all(|pair| pair[0].slots.end <= pair[1].slots.begin));
                prop_assert_eq!(gathering.is_complete(), seen.iter().all(|slot| *slot));
            }
        }
    }
}
