//! The pushes of the asynchronous modes that a block has taken, and which come next.
//!
//! A push is taken once per ticket and never given back: from then on it counts. One is applied at a time,
//! in the order in which they came; the others wait, at most one for each worker.

use std::collections::VecDeque;

use halflife_proto::ids::{Step, Ticket};

use super::gathering::Held;
use crate::planted::{Bug, planted};

/// A push that has been taken and is not applied yet.
#[derive(Debug)]
pub(super) struct Pushed {
    pub(super) ticket: Ticket,
    /// The version of the block that the gradient was computed at.
    pub(super) read: Step,
    pub(super) held: Held,
}

/// A push that has been applied, and is seen by whoever reads the block's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its ticket.
    pub ticket: Ticket,
    /// How many updates its gradient had not seen.
    pub staleness: u64,
}

/// The pushes of one block.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    /// Taken or void.
    closed: TicketSet,
    pub(super) applying: Option<Settled>,
    pub(super) waiting: VecDeque<Pushed>,
}

impl Pushes {
    /// Whether this ticket is new here; from now on it is not.
    pub(super) fn close(&mut self, ticket: Ticket) -> bool {
        self.closed.insert(ticket.0)
    }

    /// Whether this ticket was new here; it is taken no more.
    pub(super) fn void(&mut self, ticket: Ticket) -> bool {
        match planted(Bug::VoidedPushApplied) {
            true => self.closed.clone().insert(ticket.0),
            false => self.close(ticket),
        }
    }

    /// Whether a ticket that was taken is not applied yet.
    pub(super) fn is_pending(&self, ticket: Ticket) -> bool {
        self.applying.is_some_and(|applying| applying.ticket == ticket)
            || self.waiting.iter().any(|pushed| pushed.ticket == ticket)
    }

    /// Bytes of gradients that wait.
    pub(super) fn bytes(&self) -> usize {
        self.waiting.iter().map(|pushed| pushed.held.payload.bytes()).sum()
    }
}

/// A set of numbers from 1, as the ranges that are in it: a low-water mark (the first range), and what is
/// out of order beyond it. It has no more ranges than there are numbers missing below its largest: in a
/// block, tickets that are given and have not come.
#[derive(Clone, Debug, Default)]
struct TicketSet {
    /// First and last of each, ascending, never touching.
    ranges: Vec<(u64, u64)>,
}

impl TicketSet {
    /// Adds a number; false when it is there already.
    fn insert(&mut self, number: u64) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        let joins_before = match after.checked_sub(1).map(|before| self.ranges[before].1) {
            Some(last) if number <= last => return false,
            // Numbers are from 1, so nothing is below zero here.
            Some(last) => number - 1 == last,
            None => false,
        };
        let joins_after = self.ranges.get(after).is_some_and(|(first, _)| first - 1 == number);
        match (joins_before, joins_after) {
            (true, true) => {
                self.ranges[after - 1].1 = self.ranges[after].1;
                self.ranges.remove(after);
            }
            (true, false) => self.ranges[after - 1].1 = number,
            (false, true) => self.ranges[after].0 = number,
            (false, false) => self.ranges.insert(after, (number, number)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_in_order_are_one_range() {
        let mut set = TicketSet::default();
        for number in 1..=1000 {
            assert!(set.insert(number) && !set.insert(number));
        }
        assert_eq!(set.ranges, [(1, 1000)]);
        assert!(set.insert(1002) && set.insert(1004) && set.insert(1003));
        assert_eq!(set.ranges, [(1, 1000), (1002, 1004)]);
        assert!(set.insert(1001) && !set.insert(1003));
        assert_eq!(set.ranges, [(1, 1004)]);
    }

    proptest! {
        #[test]
        fn each_number_is_new_exactly_once(numbers in proptest::collection::vec(1u64..60, 0..200)) {
            let (mut set, mut reference) = (TicketSet::default(), std::collections::BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(set.insert(number), reference.insert(number));
                let contained: Vec<u64> = set.ranges.iter().flat_map(|(first, last)| *first..=*last).collect();
                prop_assert!(contained.iter().eq(reference.iter()));
                prop_assert!(set.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }
}
