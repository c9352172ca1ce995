//! One step of all blocks of a server, set aside for a checkpoint; and a server's blocks put back.
//!
//! The lead orders a cut of a step to come. Each block sets its state aside as it passes that step (`block/cut.rs`);
//! when all have, the cut is whole and [`Shard::take_cut`] gives it to whoever writes it. A server with a block
//! past the step says so, and nothing is set aside. In the asynchronous modes the lead orders a cut
//! only while no push is under way, and then all blocks set aside what they have.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use halflife_optim::{Plane, PlaneSpec};
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::Step;
use halflife_proto::refusal::Refusal;
use tokio::sync::watch;

use super::{Shard, Tally, lock, standing_step};
use crate::block::{Block, Captured, Cut};
#[cfg(feature = "planted-bugs")]
use crate::planted::{Bug, planted};

/// The cut that is being taken, and one that is taken and not fetched yet.
#[derive(Debug, Default)]
pub(super) struct Cutting {
    under_way: Option<TakenCut>,
    taken: Option<TakenCut>,
}

/// The state of a server's blocks after one step.
#[derive(Debug)]
pub struct TakenCut {
    /// The step, in the asynchronous modes the last ticket.
    pub step: Step,
    /// By block.
    pub blocks: Vec<Captured>,
}

/// What becomes of the order to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutAnswer {
    /// It is, or will be, taken.
    Taken,
    /// Some block is at, or on its way to, this later step.
    Passed(Step),
}

impl Shard {
    /// Sets every block's state after `step` aside, now or as the block passes the step. Of an earlier order everything is
    /// forgotten that was not fetched yet.
    #[must_use]
    pub fn cut(&self, step: Step) -> CutAnswer {
        let blocks = self.blocks.all();
        let under_way = Some(TakenCut { step, blocks: Vec::with_capacity(blocks.len()) });
        *lock(&self.cutting) = Cutting { under_way, taken: None };
        let mut passed: Option<Step> = None;
        for block in &blocks {
            match block.cut(step) {
                Cut::Taken(captured) => self.add_to_cut(step, captured),
                Cut::Waits => {}
                Cut::Passed(newest) => passed = passed.max(Some(newest)),
            }
        }
        match passed {
            Some(newest) => {
                lock(&self.cutting).under_way.take_if(|cut| cut.step == step);
                blocks.iter().for_each(|block| block.forget_cut());
                CutAnswer::Passed(newest)
            }
            None => {
                self.finish_cut();
                CutAnswer::Taken
            }
        }
    }

    /// Takes in what the block was to set aside, if it is at that step now.
    pub(super) fn collect_cut(&self, block: &Block) {
        if let Some(captured) = block.take_cut() {
            self.add_to_cut(captured.weights.step, captured);
            self.finish_cut();
        }
    }

    fn add_to_cut(&self, step: Step, captured: Captured) {
        let mut cutting = lock(&self.cutting);
        // In the asynchronous modes blocks count versions of their own.
        let of_this = |cut: &&mut TakenCut| cut.step == step || self.rules.has_tickets();
        if let Some(cut) = cutting.under_way.as_mut().filter(of_this) {
            cut.blocks.push(captured);
        }
    }

    fn finish_cut(&self) {
        let mut cutting = lock(&self.cutting);
        let all = self.blocks.len();
        let Some(mut cut) = cutting.under_way.take_if(|cut| cut.blocks.len() == all) else { return };
        cut.blocks.sort_unstable_by_key(|captured| captured.block);
        cutting.taken = Some(cut);
        drop(cutting);
        self.cuts.send_replace(());
    }

    /// Changes whenever [`Shard::take_cut`] has something.
    #[must_use]
    pub fn cuts(&self) -> watch::Receiver<()> {
        self.cuts.subscribe()
    }

    /// A cut that is whole, once.
    #[must_use]
    pub fn take_cut(&self) -> Option<TakenCut> {
        let taken = lock(&self.cutting).taken.take();
        #[cfg(feature = "planted-bugs")]
        let taken = if planted(Bug::PlanesNotCopied) { taken.map(|cut| self.with_planes_of_now(cut)) } else { taken };
        taken
    }

    #[cfg(feature = "planted-bugs")]
    fn with_planes_of_now(&self, mut cut: TakenCut) -> TakenCut {
        for captured in &mut cut.blocks {
            if let Some(planes) = self.blocks.get(captured.block).and_then(|block| block.planes_now()) {
                captured.planes = planes;
            }
        }
        cut
    }

    /// Contributions to steps up to this one survive every crash from now on.
    pub fn note_durable(&self, step: Step) {
        self.durable.fetch_max(step.0, Ordering::Relaxed);
    }

    /// The planes of its optimized blocks, in order.
    #[must_use]
    pub fn plane_specs(&self) -> &[PlaneSpec] {
        self.rules.optimizer.planes()
    }

    // ---- restore ----

    /// The blocks of this server, in canonical order.
    #[must_use]
    pub fn block_ids(&self) -> Vec<BlockId> {
        self.blocks.all().iter().map(|block| block.id()).collect()
    }

    /// Puts one block's state back, before [`Shard::restored`].
    ///
    /// # Errors
    /// A block that is not here, or that the state does not fit.
    pub fn restore_block(
        &self,
        id: BlockId,
        step: Step,
        weights: &Bytes,
        planes: Vec<(String, Plane)>,
        updates: u64,
    ) -> Result<(), Refusal> {
        self.find(id)?.restore(step, weights, planes, updates)
    }

    /// Every block is back at `step`: the job goes on from there.
    pub fn restored(self: &Arc<Self>, step: Step) {
        let complete = self.with_progress(|progress| {
            progress.restore(step);
            standing_step(progress, self.rules.steps)
        });
        if let Tally::Pushes(tally) = &self.tally {
            lock(tally).resume(step);
        }
        self.note_durable(step);
        self.standing.send_modify(|standing| standing.complete = complete);
    }
}
