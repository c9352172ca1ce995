//! Checkpoints of the asynchronous modes (P6): a cut of a ticket holds of every block the pushes of the tickets up to it,
//! whatever has become of them, and no other. Going back to one undoes all tickets after it.

use std::collections::BTreeMap;

use halflife_checkpoint::CheckpointId;
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{Step, Ticket};

use super::{Fate, Kept, Ledger};

impl Ledger<'_> {
    /// A block is set aside at this version.
    pub fn cut(&mut self, id: CheckpointId, block: BlockId, version: Step) -> Kept {
        let Some(replay) = self.blocks.get(&block) else { return Ok(()) };
        let Some(pushes) = replay.pushes_of(version) else {
            return Err(format!("P6: {id} has {block} at {version}, which never was"));
        };
        let taken = &replay.pushes()[..pushes];
        if let Some(later) = taken.iter().find(|ticket| ticket.step() > id.step) {
            return Err(format!("P6: {id} has {block} with {later}"));
        }
        let given = self.tickets.get(..id.step.0 as usize);
        let given = given.ok_or_else(|| format!("P6: {id} is of a ticket that was never given"))?;
        for (number, given) in (1..).zip(given) {
            let is_settled = !matches!(given.fate, Fate::Open | Fate::Voiding);
            if !is_settled || (given.fate == Fate::Done && !taken.contains(&Ticket(number))) {
                return Err(format!("P6: {id} has {block} while ticket {number} is {:?}", given.fate));
            }
        }
        self.cuts.insert((id, block), pushes);
        Ok(())
    }

    /// The job goes back: every ticket after the checkpoint's step is undone.
    pub fn roll_back(&mut self, to: Option<CheckpointId>) -> Kept {
        let Some(id) = to else {
            *self = Ledger::new(self.job);
            return Ok(());
        };
        self.tickets.truncate(id.step.0 as usize);
        let mut blocks = BTreeMap::new();
        for (block, replay) in &self.blocks {
            let pushes =
                self.cuts.get(&(id, *block)).ok_or_else(|| format!("P6: {id} was never set aside of {block}"))?;
            let replay = replay.rolled_back(self.job, &self.optimizer, *block, *pushes, id.step);
            blocks.insert(*block, replay);
        }
        self.known = blocks.keys().map(|block| (*block, id.step)).collect();
        self.blocks = blocks;
        self.clocks.clear();
        self.refused.clear();
        self.last = self.job.spec.job.steps;
        (self.joined, self.updates, self.staleness_max) = (0, 0, 0);
        Ok(())
    }
}
