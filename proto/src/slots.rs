//! Slots and the fixed binary tree over them (DESIGN.md rule 2).
//!
//! The gradient of a step is the sum over its slots along one tree: the root is `[0, slots)`, a
//! node of n > 1 slots splits at the largest power of two below n. Floating-point addition is not
//! associative; summing along the same tree everywhere is what makes the trained bits independent
//! of who computed which slots.

use std::fmt;

/// Slots `[begin, end)` of a step. Not necessarily a node of the tree: see [`SlotTree::is_node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotRange {
    /// First slot.
    pub begin: u32,
    /// One past the last slot; greater than `begin`.
    pub end: u32,
}

impl SlotRange {
    /// The range of slots `[begin, end)`, `None` if that is empty.
    #[must_use]
    pub fn new(begin: u32, end: u32) -> Option<SlotRange> {
        (begin < end).then_some(SlotRange { begin, end })
    }

    /// Number of slots, at least 1.
    #[must_use]
    pub fn count(self) -> u32 {
        self.end - self.begin
    }

    /// Whether every slot of `other` is in this range.
    #[must_use]
    pub fn covers(self, other: SlotRange) -> bool {
        self.begin <= other.begin && other.end <= self.end
    }

    /// The two children of a node, `None` for a leaf: split at the largest power of two below the
    /// count.
    #[must_use]
    pub fn children(self) -> Option<(SlotRange, SlotRange)> {
        let count = self.count();
        if count == 1 {
            return None;
        }
        let left = 1 << (count - 1).ilog2();
        let middle = self.begin + left;
        Some((SlotRange { end: middle, ..self }, SlotRange { begin: middle, ..self }))
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slots [{}, {})", self.begin, self.end)
    }
}

/// The tree over a job's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotTree {
    root: SlotRange,
}

impl SlotTree {
    /// The tree over `slots` slots, `None` for zero.
    #[must_use]
    pub fn new(slots: u32) -> Option<SlotTree> {
        SlotRange::new(0, slots).map(|root| SlotTree { root })
    }

    /// All slots.
    #[must_use]
    pub fn root(self) -> SlotRange {
        self.root
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(self) -> u32 {
        self.root.end
    }

    /// Whether `range` is a node of this tree.
    #[must_use]
    pub fn is_node(self, range: SlotRange) -> bool {
        let mut node = self.root;
        loop {
            if node == range {
                return true;
            }
            let Some((left, right)) = node.children() else {
                return false;
            };
            node = match (left.covers(range), right.covers(range)) {
                (true, _) => left,
                (_, true) => right,
                _ => return false,
            };
        }
    }

    /// The fewest nodes that make up `range`, in slot order. Empty when `range` leaves the tree.
    #[must_use]
    pub fn decompose(self, range: SlotRange) -> Vec<SlotRange> {
        let mut nodes = Vec::new();
        if self.root.covers(range) {
            collect_nodes(self.root, range, &mut nodes);
        }
        nodes
    }
}

fn collect_nodes(node: SlotRange, range: SlotRange, nodes: &mut Vec<SlotRange>) {
    if range.covers(node) {
        nodes.push(node);
    } else if node.begin < range.end
        && range.begin < node.end
        && let Some((left, right)) = node.children()
    {
        collect_nodes(left, range, nodes);
        collect_nodes(right, range, nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(begin: u32, end: u32) -> SlotRange {
        SlotRange::new(begin, end).unwrap()
    }

    #[test]
    fn a_node_splits_at_the_largest_power_of_two_below_its_count() {
        for (count, left) in [(2, 1), (3, 2), (4, 2), (5, 4), (8, 4), (9, 8), (1000, 512)] {
            let (a, b) = range(7, 7 + count).children().unwrap();
            assert_eq!((a, b), (range(7, 7 + left), range(7 + left, 7 + count)));
        }
        assert_eq!(range(3, 4).children(), None);
    }

    #[test]
    fn ranges_that_straddle_a_split_are_not_nodes() {
        let tree = SlotTree::new(6).unwrap();
        for node in [(0, 6), (0, 4), (4, 6), (0, 2), (2, 4), (0, 1), (5, 6)] {
            assert!(tree.is_node(range(node.0, node.1)), "{node:?}");
        }
        for other in [(0, 3), (1, 3), (3, 5), (2, 6), (0, 7), (6, 8)] {
            assert!(!tree.is_node(range(other.0, other.1)), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn a_decomposition_is_nodes_that_tile_the_range(slots in 1u32..300, a in 0u32..300, b in 0u32..300) {
            let tree = SlotTree::new(slots).unwrap();
            let (a, b) = (a.min(slots - 1), b.min(slots - 1));
            let wanted = range(a.min(b), a.max(b) + 1);
            let nodes = tree.decompose(wanted);
            prop_assert!(nodes.iter().all(|node| tree.is_node(*node)));
            prop_assert_eq!(nodes.first().unwrap().begin, wanted.begin);
            prop_assert_eq!(nodes.last().unwrap().end, wanted.end);
            prop_assert!(nodes.windows(2).all(|pair| pair[0].end == pair[1].begin));
            prop_assert!(nodes.len() <= 2 * 32);
        }
    }
}
