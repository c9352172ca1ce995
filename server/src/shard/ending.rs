//! The last step, which an operator may bring forward while contributions come in.
//!
//! Servers agree on it: each says which step it can end with. A block may be a step ahead of the others, and with all its
//! slots in it cannot be stopped, so what is asked is every block, and none may set out meanwhile. Otherwise a job
//! would end with a step of which one block has nothing to set aside, and wait for that for ever.

use std::sync::{PoisonError, RwLock};

use halflife_proto::ids::Step;

use super::Shard;
use crate::planted::{Bug, planted};

/// The last step. Nothing beyond it is taken.
#[derive(Debug)]
pub(super) struct Ending(RwLock<Step>);

impl Ending {
    pub(super) fn at(step: Step) -> Ending {
        Ending(RwLock::new(step))
    }

    /// Does what depends on the last step, which stays what it is meanwhile.
    pub(super) fn hold<T>(&self, doing: impl FnOnce(Step) -> T) -> T {
        // One assignment under the lock: it is whole even where its owner has panicked.
        doing(*self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shard {
    /// Ends with `step`, or says with which later one, because a block is at it or on its way. Blocks that never change
    /// are past nothing.
    #[must_use]
    pub fn end_with(&self, step: Step) -> Step {
        let mut last = self.ending.0.write().unwrap_or_else(PoisonError::into_inner);
        let changing = self.blocks.all().into_iter().filter(|block| block.changes());
        let reached = changing.filter_map(|block| block.reaches()).max();
        let reached = if planted(Bug::EndsBehindABlock) { self.complete() } else { reached };
        *last = step.max(reached.unwrap_or(Step::ZERO));
        *last
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use halflife_proto::blocks::BlockId;
    use halflife_proto::contribution::{Contribution, Payload};
    use halflife_proto::ids::Generation;
    use halflife_proto::refusal::RefusalCause;
    use halflife_proto::slots::SlotRange;
    use halflife_proto::tensor_codec::Encoded;

    use super::*;
    use crate::shard::{CutAnswer, sample};

    /// Two blocks of one element.
    fn shard() -> (Arc<Shard>, Vec<BlockId>) {
        let shard = sample::shard("steps = 9\nslots = 2", &[&[1], &[1]]);
        let blocks = shard.block_ids();
        (shard, blocks)
    }

    fn contribute(shard: &Arc<Shard>, block: BlockId, step: u64, slots: (u32, u32)) -> Result<(), RefusalCause> {
        let contribution = Contribution {
            block,
            generation: Generation(1),
            step: Step(step),
            slots: SlotRange::new(slots.0, slots.1).unwrap(),
            weight: f64::from(slots.1 - slots.0),
            payload: Payload::Dense(Encoded::f32(1f32.to_le_bytes().to_vec())),
            push: None,
        };
        shard.contribute(contribution).map(drop).map_err(|refusal| refusal.cause)
    }

    /// Both blocks at step 1.
    fn after_one_step() -> (Arc<Shard>, Vec<BlockId>) {
        let (shard, blocks) = shard();
        blocks.iter().for_each(|block| contribute(&shard, *block, 0, (0, 1)).unwrap());
        blocks.iter().for_each(|block| contribute(&shard, *block, 1, (0, 2)).unwrap());
        assert_eq!(shard.complete(), Some(Step(1)));
        (shard, blocks)
    }

    #[test]
    fn a_server_ends_no_earlier_than_its_farthest_block_and_takes_nothing_beyond() {
        assert_eq!(shard().0.end_with(Step(0)), Step(0), "before the initialization");
        let (shard, blocks) = after_one_step();
        contribute(&shard, blocks[0], 2, (0, 2)).unwrap();
        assert_eq!((shard.complete(), shard.end_with(Step(1))), (Some(Step(1)), Step(2)));
        // The other follows, and then the step can be set aside.
        contribute(&shard, blocks[1], 2, (0, 2)).unwrap();
        assert_eq!(shard.cut(Step(2)), CutAnswer::Taken);
        assert_eq!(shard.take_cut().map(|cut| cut.blocks.len()), Some(2));
        assert_eq!(contribute(&shard, blocks[0], 3, (0, 2)), Err(RefusalCause::StepAhead));
    }

    #[test]
    fn a_cut_that_nobody_fetched_is_forgotten_with_the_next_order() {
        let (shard, _) = after_one_step();
        assert_eq!(shard.cut(Step(1)), CutAnswer::Taken);
        assert_eq!(shard.cut(Step(2)), CutAnswer::Taken);
        assert!(shard.take_cut().is_none());
    }

    #[test]
    fn a_step_that_has_only_begun_is_given_up_and_can_be_asked_for_again() {
        let (shard, blocks) = after_one_step();
        contribute(&shard, blocks[0], 2, (0, 1)).unwrap();
        assert_eq!(shard.end_with(Step(1)), Step(1));
        assert_eq!(contribute(&shard, blocks[0], 2, (1, 2)), Err(RefusalCause::StepAhead));
        assert_eq!(shard.cut(Step(1)), CutAnswer::Taken);
        // Another server was past it.
        assert_eq!(shard.end_with(Step(2)), Step(2));
        contribute(&shard, blocks[0], 2, (1, 2)).unwrap();
    }
}
