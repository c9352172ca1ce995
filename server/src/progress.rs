//! How far a server's blocks are: the newest step complete on all of them.
//!
//! A plain counter. Blocks are never more than one step apart, because a contribution beyond the
//! newest complete step's next is refused.

use halflife_proto::ids::Step;

/// Counts completed blocks of the step after the newest complete one.
#[derive(Debug)]
pub struct Progress {
    /// Blocks to initialize.
    blocks: usize,
    /// Blocks that change in later steps.
    changing: usize,
    complete: Option<Step>,
    done: usize,
}

impl Progress {
    /// Nothing is complete yet, unless there is nothing to complete.
    #[must_use]
    pub fn new(blocks: usize, changing: usize) -> Progress {
        Progress { blocks, changing, complete: (blocks == 0).then_some(Step::ZERO), done: 0 }
    }

    /// Newest step complete on all blocks; `None` before the initialization is.
    #[must_use]
    pub fn complete(&self) -> Option<Step> {
        self.complete
    }

    /// The step being completed.
    #[must_use]
    pub fn next(&self) -> Step {
        self.complete.map_or(Step::ZERO, Step::next)
    }

    /// Everything is back at `step`.
    pub fn restore(&mut self, step: Step) {
        (self.complete, self.done) = (Some(step), 0);
    }

    /// Whether any step ever changes a block here.
    #[must_use]
    pub fn has_changing_blocks(&self) -> bool {
        self.changing > 0
    }

    /// A block has reached the next step. Returns that step when it is the last block to.
    pub fn block_done(&mut self) -> Option<Step> {
        self.done += 1;
        let expected = if self.complete.is_none() { self.blocks } else { self.changing };
        debug_assert!(self.done <= expected, "a block reached a step twice");
        if self.done < expected {
            return None;
        }
        let step = self.next();
        self.complete = Some(step);
        self.done = 0;
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_complete_when_every_block_that_takes_part_has_reached_it() {
        let mut progress = Progress::new(3, 2);
        let reached: Vec<_> = (0..7).map(|_| progress.block_done().map(|step| step.0)).collect();
        assert_eq!(reached, [None, None, Some(0), None, Some(1), None, Some(2)]);
        assert_eq!(progress.complete(), Some(Step(2)));
    }

    #[test]
    fn a_server_without_blocks_waits_for_nothing() {
        assert_eq!(Progress::new(0, 0).complete(), Some(Step::ZERO));
    }
}
