//! Which slots of the step under way all blocks of this server have, in a job with a quorum.
//!
//! A plain counter. One step at a time is under way here: no block takes a contribution to a step before
//! every block has the one before.

use halflife_proto::ids::Step;

/// Counts, by slot, the blocks that have it.
#[derive(Debug)]
pub(crate) struct SlotTally {
    /// Blocks that change.
    blocks: usize,
    step: Step,
    counts: Vec<usize>,
    /// Slots that all blocks have and nobody was told of.
    news: Vec<u32>,
}

impl SlotTally {
    /// Of `blocks` blocks that change and as many slots; step 1 is under way.
    pub(crate) fn new(blocks: usize, slots: u32) -> SlotTally {
        SlotTally { blocks, step: Step::ZERO.next(), counts: vec![0; slots as usize], news: Vec::new() }
    }

    /// A block has added a slot of `step`; whether that is news.
    pub(crate) fn added(&mut self, step: Step, slot: u32) -> bool {
        if step > self.step {
            self.step = step;
            self.counts.fill(0);
            // Of a step that is over there is nothing to tell.
            self.news.clear();
        }
        match self.counts.get_mut(slot as usize) {
            Some(count) if step == self.step => {
                *count += 1;
                if *count == self.blocks {
                    self.news.push(slot);
                }
                *count == self.blocks
            }
            _ => false,
        }
    }

    /// What was not told yet: the step, and its slots in the order in which they became complete.
    pub(crate) fn take_news(&mut self) -> Option<(Step, Vec<u32>)> {
        (!self.news.is_empty()).then(|| (self.step, std::mem::take(&mut self.news)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_told_once_all_blocks_have_it() {
        let mut tally = SlotTally::new(2, 3);
        let added: Vec<_> =
            [(1, 2), (1, 0), (1, 2), (1, 0), (1, 9)].map(|(step, slot)| tally.added(Step(step), slot)).into();
        assert_eq!(added, [false, false, true, true, false]);
        assert_eq!(tally.take_news(), Some((Step(1), vec![2, 0])));
        assert_eq!(tally.take_news(), None);
    }

    #[test]
    fn a_new_step_begins_from_nothing_and_an_old_one_counts_no_more() {
        let mut tally = SlotTally::new(2, 3);
        tally.added(Step(1), 0);
        assert!(!tally.added(Step(2), 0) && !tally.added(Step(1), 0));
        assert_eq!(tally.take_news(), None);
        assert!(tally.added(Step(2), 0));
        assert_eq!(tally.take_news(), Some((Step(2), vec![0])));
    }
}
