//! Updates that wait for norms over more than a block (DESIGN.md rule 6): rounds of all blocks, the lead's totals.
//!
//! Which norms there are, and in which order, is `reduction.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use halflife_proto::ids::TensorIndex;
use halflife_proto::membership::{Partial, Total};
use tokio::sync::watch;

use super::{Shard, shape_of};
use crate::block::{Block, Waiting};
use crate::reduction::{Collecting, Next, Round};

impl Shard {
    /// Takes the total of a norm over the model.
    pub fn supply(self: &Arc<Self>, total: Total) {
        if let Some(round) = self.with_collecting(|collecting| collecting.resume(total)) {
            let shard = self.clone();
            self.run_later(round.work(), move || shard.advance(round));
        }
    }

    pub(super) fn advance(self: &Arc<Self>, round: Round) {
        match round.advance(&self.reductions) {
            Next::Total(round, partial) => {
                // Suspended first: the total may come at once.
                self.with_collecting(|collecting| collecting.suspend(round));
                self.partials.send_replace(Some(partial));
            }
            Next::Apply(members) if self.rules.optimizer.needs_whole_tensors() => self.apply_tensors(members),
            Next::Apply(members) => {
                for (block, waiting) in members {
                    let shard = self.clone();
                    self.run_later(waiting.work(), move || {
                        let (step, begun) = (waiting.step(), Instant::now());
                        let applied = waiting.apply();
                        shard.note_applied(step, begun, 1);
                        drop(shard.finish(&block, applied));
                    });
                }
            }
        }
    }

    fn apply_tensors(self: &Arc<Self>, members: Vec<(Arc<Block>, Waiting)>) {
        let mut tensors: BTreeMap<TensorIndex, Vec<(Arc<Block>, Waiting)>> = BTreeMap::new();
        for member in members {
            tensors.entry(member.0.id().tensor).or_default().push(member);
        }
        for (index, members) in tensors {
            let Some(shape) = self.manifest.get(index).map(shape_of) else { continue };
            let shard = self.clone();
            let work = members.iter().map(|(_, waiting)| waiting.work()).sum();
            self.run_later(work, move || {
                let (blocks, waiting): (Vec<_>, Vec<_>) = members.into_iter().unzip();
                let (step, begun) = (waiting.first().map(Waiting::step), Instant::now());
                let applied = Waiting::apply_tensor(waiting, &shape);
                shard.note_applied(step.unwrap_or_default(), begun, applied.len());
                for (block, applied) in blocks.iter().zip(applied) {
                    drop(shard.finish(block, applied));
                }
            });
        }
    }

    pub(super) fn with_collecting<T>(&self, visit: impl FnOnce(&mut Collecting) -> T) -> T {
        // Moving blocks in and out of a list does not panic half-way.
        visit(&mut self.collecting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows this server's parts of norms over the model.
    #[must_use]
    pub fn partials(&self) -> watch::Receiver<Option<Partial>> {
        self.partials.subscribe()
    }
}
