//! Tickets on a server in the asynchronous modes: which pushes it takes, and what it tells of those that come again or are void.
//!
//! Each block decides for itself whether a push is new; this is what takes all of them. Whose ticket a push has is not known
//! here: only the lead knows, and tells nobody.

use std::sync::Mutex;

use halflife_proto::ids::Ticket;
use halflife_proto::membership::VoidedTicket;
use halflife_proto::refusal::{Refusal, RefusalCause};

use super::{Shard, Tally, lock};
use crate::push_tally::PushTally;

impl Shard {
    /// A push is refused whose ticket the lead cannot have given yet.
    pub(super) fn check_ticket(&self, ticket: Ticket) -> Result<(), Refusal> {
        match &self.tally {
            Tally::Pushes(tally) => lock(tally).check(ticket),
            // It is refused for having one.
            Tally::Steps | Tally::Slots(_) => Ok(()),
        }
    }

    /// A block had taken this push before, or takes it no more.
    pub(super) fn push_came_again(&self, tally: &Mutex<PushTally>, ticket: Ticket) -> Result<(), Refusal> {
        let mut tally = lock(tally);
        // A void ticket is closed on every block, so that only what is not new can be of one.
        if tally.is_void(ticket) {
            let message = format!("{ticket} is void: its worker was taken for dead, or has left");
            return Err(Refusal::new(RefusalCause::Fenced, message));
        }
        if tally.came_again(ticket) {
            self.news.send_replace(());
        }
        Ok(())
    }

    /// Takes no push with these tickets any more, and tells what had become of them.
    pub fn void(&self, tickets: &[Ticket]) {
        let Tally::Pushes(tally) = &self.tally else { return };
        let blocks: Vec<_> = self.blocks.all().into_iter().filter(|block| block.changes()).collect();
        for ticket in tickets.iter().copied() {
            // Known as void before any block closes it: whoever finds it closed must be told which.
            if lock(tally).void(ticket) {
                let applied = blocks.iter().filter(|block| block.void(ticket)).count() as u64;
                lock(tally).answer(VoidedTicket { ticket, applied, missing: blocks.len() as u64 - applied });
            }
        }
        self.news.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use halflife_proto::contribution::{Contribution, Outcome, Payload, Push};
    use halflife_proto::ids::{Generation, Step};
    use halflife_proto::slots::SlotRange;
    use halflife_proto::tensor_codec::Encoded;

    use super::*;
    use crate::shard::sample;

    /// Two blocks of one element with their first weights, in a job without end.
    fn asynchronous() -> Arc<Shard> {
        let shard = sample::shard("mode = \"async\"\nsteps = 1000000\nslots = 2", &[&[1], &[1]]);
        (0..2).for_each(|block| _ = contribute(&shard, block, None).unwrap());
        shard
    }

    fn contribute(shard: &Arc<Shard>, block: usize, ticket: Option<u64>) -> Result<Outcome, RefusalCause> {
        let contribution = Contribution {
            block: shard.block_ids()[block],
            generation: Generation(1),
            step: Step(0),
            slots: SlotRange { begin: 0, end: if ticket.is_some() { 2 } else { 1 } },
            weight: if ticket.is_some() { 2.0 } else { 1.0 },
            payload: Payload::Dense(Encoded::f32(1f32.to_le_bytes().to_vec())),
            push: ticket.map(|ticket| Push { ticket: Ticket(ticket), sequence: 1 }),
        };
        shard.contribute(contribution).map(|taken| taken.outcome).map_err(|refusal| refusal.cause)
    }

    #[test]
    fn a_flood_of_tickets_that_were_not_given_is_taken_to_a_bound_only() {
        for (first, every) in [(1, 1), (2, 2)] {
            let shard = asynchronous();
            // To one block of two, so that none is ever done.
            let taken = (first..20_000).step_by(every).filter(|ticket| contribute(&shard, 0, Some(*ticket)).is_ok());
            assert_eq!(taken.count(), 4096 / every, "every {every}");
            assert_eq!(contribute(&shard, 1, Some(4097)), Err(RefusalCause::StepAhead));
            assert_eq!(contribute(&shard, 1, Some(first)), Ok(Outcome::Added));
            assert_eq!(contribute(&shard, 1, Some(4097)), Ok(Outcome::Added), "one is done");
        }
    }

    #[test]
    fn a_restored_shard_takes_no_push_that_its_checkpoint_has() {
        let shard = asynchronous();
        let restored = sample::shard("mode = \"async\"\nsteps = 1000000\nslots = 2", &[&[1], &[1]]);
        for id in shard.block_ids() {
            let captured = shard.blocks.get(id).unwrap().cut(Step(9000));
            let crate::block::Cut::Taken(captured) = captured else { panic!("not taken") };
            let planes = vec![("m".to_owned(), captured.planes[0].clone())];
            restored.restore_block(id, Step(9000), &captured.weights.bytes(), planes, captured.updates).unwrap();
        }
        restored.restored(Step(9000));
        assert_eq!(contribute(&restored, 0, Some(9000)), Ok(Outcome::AlreadyApplied));
        assert_eq!(contribute(&restored, 0, Some(9001 + 4096)), Err(RefusalCause::StepAhead));
        assert_eq!(contribute(&restored, 0, Some(9001)), Ok(Outcome::Added));
        assert_eq!(contribute(&restored, 0, Some(9000 + 4096)), Ok(Outcome::Added));
    }
}
