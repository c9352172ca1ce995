//! Steps whose updates wait for norms over more than a block (DESIGN.md rule 6).
//!
//! gathered -> **reduced** -> applied: every optimized block of the server first sums its whole
//! gradient; when all have, the norms are made one after the other in the optimizer's order. Norms of
//! a tensor are made here, since such rules keep a tensor on one server; a norm of the model goes
//! through the lead. Then all blocks are applied.
//!
//! A plain state machine: it never computes under the shard's lock and does no I/O.

use std::sync::Arc;

use halflife_optim::{Reduction, Sums};
use halflife_proto::ids::Step;
use halflife_proto::membership::{Partial, Total};

use crate::block::{Block, Waiting};

/// A block and its step.
pub(crate) type Member = (Arc<Block>, Waiting, Sums);

/// Collects the blocks of a step.
#[derive(Debug, Default)]
pub(crate) struct Collecting {
    members: Vec<Member>,
    suspended: Option<Round>,
}

/// All blocks of a step, and the norms made so far.
#[derive(Debug)]
pub(crate) struct Round {
    step: Step,
    members: Vec<Member>,
    /// Norms made.
    done: usize,
    /// Norms of the model among them.
    stage: u32,
}

/// What a round needs next.
pub(crate) enum Next {
    /// The lead's total for this part, before it can go on: suspend it.
    Total(Round, Partial),
    /// Nothing: apply.
    Apply(Vec<(Arc<Block>, Waiting)>),
}

impl Collecting {
    /// Takes a block; the whole round when it is the last of `expected`.
    pub(crate) fn add(&mut self, member: Member, expected: usize) -> Option<Round> {
        self.members.push(member);
        if self.members.len() < expected {
            return None;
        }
        let mut members = std::mem::take(&mut self.members);
        members.sort_unstable_by_key(|(block, ..)| block.id());
        let step = members.first().map_or(Step::ZERO, |(_, waiting, _)| waiting.step());
        Some(Round { step, members, done: 0, stage: 0 })
    }

    /// Keeps a round until its total comes.
    pub(crate) fn suspend(&mut self, round: Round) {
        self.suspended = Some(round);
    }

    /// The round that waited for this total, with it; `None` for a total nobody waits for (a repeated
    /// or late one).
    pub(crate) fn resume(&mut self, total: Total) -> Option<Round> {
        let mut round = self.suspended.take_if(|round| (round.step, round.stage) == (total.step, total.stage))?;
        round.supply(|_| Sums(total.sums));
        round.stage += 1;
        Some(round)
    }
}

impl Round {
    /// Elements to go over.
    pub(crate) fn work(&self) -> usize {
        self.members.iter().map(|(_, waiting, _)| waiting.work()).sum()
    }

    /// Makes the norms that can be made here.
    pub(crate) fn advance(mut self, reductions: &[Reduction]) -> Next {
        while let Some(reduction) = reductions.get(self.done) {
            if reduction.is_global() {
                let blocks = self.members.iter().map(|(block, _, sums)| (block.id(), sums.0)).collect();
                let partial = Partial { step: self.step, stage: self.stage, blocks };
                return Next::Total(self, partial);
            }
            let totals = self.per_tensor();
            self.supply(|tensor| {
                totals.iter().find(|(of, _)| *of == tensor).map_or(Sums::default(), |(_, sums)| *sums)
            });
        }
        Next::Apply(self.members.into_iter().map(|(block, waiting, _)| (block, waiting)).collect())
    }

    fn per_tensor(&self) -> Vec<(u32, Sums)> {
        let tensors = self.members.chunk_by(|(a, ..), (b, ..)| a.id().tensor == b.id().tensor);
        tensors
            .map(|blocks| {
                let sums: Vec<Sums> = blocks.iter().map(|(.., sums)| *sums).collect();
                (blocks[0].0.id().tensor.0, Sums::combine(&sums))
            })
            .collect()
    }

    fn supply(&mut self, total_of: impl Fn(u32) -> Sums) {
        self.done += 1;
        for (block, waiting, sums) in &mut self.members {
            waiting.supply(total_of(block.id().tensor.0));
            *sums = waiting.sums();
        }
    }
}
