//! Which tickets a block has taken, or a server has on all its blocks: nearly all numbers up to the newest, so ranges.
//!
//! A plain value; it does not know what the numbers stand for.

/// Most tickets that the lead has out at a time: open, or void and not closed by every server yet. More workers than that
/// wait for each other. Servers rest on it: what is further beyond the tickets that came was given to nobody.
pub(crate) const TICKETS_OUT_MAX: u64 = 4096;

/// A set of numbers from 1, as the ranges that are in it: a low-water mark (the first range), and what is
/// out of order beyond it. It has no more ranges than there are numbers missing below its largest: in a
/// block or a server, tickets that are given and have not come: [`TICKETS_OUT_MAX`] at most.
#[derive(Clone, Debug, Default)]
pub(crate) struct TicketSet {
    /// First and last of each, ascending, never touching.
    ranges: Vec<(u64, u64)>,
    /// How many are there.
    count: u64,
}

impl TicketSet {
    /// All numbers from 1 to `last`.
    pub(crate) fn up_to(last: u64) -> TicketSet {
        TicketSet { ranges: (last > 0).then_some((1, last)).into_iter().collect(), count: last }
    }

    /// The largest that may still be added, so that at most [`TICKETS_OUT_MAX`] are missing up to it, with itself.
    pub(crate) fn last_allowed(&self) -> u64 {
        let last = self.ranges.last().map_or(0, |(_, last)| *last);
        last.max(self.count + TICKETS_OUT_MAX)
    }

    /// Whether a number is there.
    pub(crate) fn contains(&self, number: u64) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).is_some_and(|place| number <= self.ranges[place].1)
    }

    /// Adds a number; false when it is there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
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
        self.count += 1;
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

    #[test]
    fn no_more_numbers_may_be_missing_than_tickets_can_be_out() {
        let mut set = TicketSet::default();
        assert_eq!(set.last_allowed(), TICKETS_OUT_MAX);
        assert!(set.insert(TICKETS_OUT_MAX));
        assert_eq!(set.last_allowed(), TICKETS_OUT_MAX + 1, "all below it are missing");
        assert!(set.insert(1) && set.insert(2));
        assert_eq!(set.last_allowed(), TICKETS_OUT_MAX + 3);
        let mut set = TicketSet::up_to(100);
        assert_eq!((set.last_allowed(), set.insert(100), set.insert(101)), (TICKETS_OUT_MAX + 100, false, true));
        assert_eq!(set.ranges, [(1, 101)]);
        assert_eq!(TicketSet::up_to(0).ranges, []);
    }

    proptest! {
        #[test]
        fn each_number_is_new_exactly_once(numbers in proptest::collection::vec(1u64..60, 0..200)) {
            let (mut set, mut reference) = (TicketSet::default(), std::collections::BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(set.contains(number), reference.contains(&number));
                prop_assert_eq!(set.insert(number), reference.insert(number));
                prop_assert!(set.contains(number));
                let contained: Vec<u64> = set.ranges.iter().flat_map(|(first, last)| *first..=*last).collect();
                prop_assert!(contained.iter().eq(reference.iter()));
                prop_assert_eq!(set.count, reference.len() as u64);
                prop_assert!(set.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }
}
