//! Assembles received blocks into versions of the whole weights. No I/O.
//!
//! Blocks are decoded into the arena of the *next* version; when every block that changes carries
//! the same step, the arena becomes a version and is never written again. A newer block simply
//! overwrites an older one, so a spare that is too slow may skip versions.
//!
//! In the asynchronous modes blocks count their versions each for itself, and no moment is better than
//! another: there the newest blocks stay in one arena, and a *snapshot* of it is copied once a mark is back
//! from every server.

use std::collections::BTreeMap;
use std::sync::Arc;

use halflife_proto::contribution::BlockWeights;
use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::tensor_codec::Dtype;

use crate::block_plan::{BlockPlan, PlannedBlock};
use crate::error::WeightsViolation;
use crate::planted::{Bug, planted};
use crate::weights::WeightsVersion;
use halflife_proto::fault_point::{self, FaultPoint};

/// Superseded versions kept until their readers are done, so that their arena is used again.
const RETIRED_MAX: usize = 2;

/// Weights as they were when a mark was back from every server.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The mark.
    pub(crate) mark: u64,
    /// The weights; their step is the newest version of any block.
    pub(crate) weights: Arc<WeightsVersion>,
    /// By block number: its version.
    pub(crate) versions: Arc<[Step]>,
}

/// What the asynchronous modes need.
#[derive(Debug)]
struct Marks {
    /// By server: the newest mark that is back.
    back: Vec<u64>,
    /// The newest that was back from all.
    taken: u64,
}

/// The version being assembled and what is left of the ones before.
pub(crate) struct Assembly {
    plan: Arc<BlockPlan>,
    generation: Generation,
    last_step: Step,
    elements: usize,
    /// Arena of the next version; `None` until a block of it arrives.
    next: Option<Vec<f32>>,
    lr: f64,
    decay: f64,
    /// Newest step received, by block number.
    received: Vec<Option<Step>>,
    missing: usize,
    /// Blocks that change, by the newest step received of them.
    tally: BTreeMap<Step, usize>,
    published: Option<Arc<WeightsVersion>>,
    retired: Vec<Arc<WeightsVersion>>,
    /// In the asynchronous modes, which never publish by themselves.
    marks: Option<Marks>,
}

impl Assembly {
    /// Nothing received yet, in a job that ends at `last_step`.
    pub(crate) fn new(plan: Arc<BlockPlan>, elements: usize, generation: Generation, last_step: Step) -> Assembly {
        let blocks = plan.blocks().len();
        Assembly {
            plan,
            generation,
            last_step,
            elements,
            next: None,
            lr: 0.0,
            decay: 0.0,
            received: vec![None; blocks],
            missing: blocks,
            tally: BTreeMap::new(),
            published: None,
            retired: Vec::new(),
            marks: None,
        }
    }

    /// The same for a job of the asynchronous modes.
    pub(crate) fn with_snapshots(self) -> Assembly {
        let back = vec![0; self.plan.servers()];
        Assembly { marks: Some(Marks { back, taken: 0 }), ..self }
    }

    /// A mark is back from `server`, behind all weights that it had to send when it came there. A snapshot
    /// when that makes it back from every server, and every block is here.
    pub(crate) fn mark(&mut self, server: ServerIndex, number: u64) -> Option<Snapshot> {
        let marks = self.marks.as_mut()?;
        let back = marks.back.get_mut(server.0 as usize)?;
        *back = number.max(*back);
        let mark = match planted(Bug::MarkOfOneServer) {
            true => number,
            false => marks.back.iter().copied().min()?,
        };
        if mark <= marks.taken || self.missing > 0 {
            return None;
        }
        marks.taken = mark;
        let versions: Arc<[Step]> = self.received.iter().map(|step| step.unwrap_or_default()).collect();
        let step = self.tally.keys().next_back().copied().unwrap_or_default();
        let mut values = self.fresh_arena();
        values.copy_from_slice(self.next.as_deref().expect("every block was copied into the arena"));
        let weights = self.keep(WeightsVersion { step, values, lr: self.lr, decay: self.decay });
        Some(Snapshot { mark, weights, versions })
    }

    /// Takes in one block from `server`; a version when it was the last one missing.
    ///
    /// # Errors
    /// [`WeightsViolation`] for weights that do not fit; nothing has changed then.
    pub(crate) fn receive(
        &mut self,
        server: ServerIndex,
        weights: &BlockWeights,
    ) -> Result<Option<Arc<WeightsVersion>>, WeightsViolation> {
        let plan = Arc::clone(&self.plan);
        let (number, block) = check_fit(&plan, self.generation, server, plan.wire().weights, weights)?;
        let is_new = match self.received[number] {
            None => true,
            Some(_) if block.frozen => false,
            // With tickets a block's updates follow each other on any thread, so their versions may come in any
            // order; the newest is what counts.
            Some(newest) if self.marks.is_some() && weights.step < newest => false,
            // A stream that was opened again begins with a version of which some blocks may have been overtaken
            // before it broke, published or not. By one step: a server's blocks are never further apart.
            Some(newest) if weights.step.next() == newest => false,
            Some(newest) if weights.step < newest => {
                return Err(WeightsViolation::StepBack { block: block.id, expected: newest, found: weights.step });
            }
            Some(newest) => weights.step > newest,
        };
        if weights.step > self.last_step {
            let (expected, found) = (self.last_step, weights.step);
            return Err(WeightsViolation::StepBeyond { block: block.id, expected, found });
        }
        if !is_new {
            return Ok(None);
        }
        self.copy(number, block, weights);
        self.count(number, block, weights.step);
        if self.marks.is_some() {
            return Ok(None);
        }
        Ok(self.complete_step().map(|step| self.publish(step)))
    }

    /// Whether everything from `server` is of `step` or later: it owes nothing more up to there. In the asynchronous
    /// modes it owes every mark to come, whatever blocks it has.
    pub(crate) fn has_all_of(&self, server: ServerIndex, step: Step) -> bool {
        self.marks.is_none()
            && self.plan.numbers_of_server(server).iter().all(|number| {
                let block = &self.plan.blocks()[*number];
                self.received[*number].is_some_and(|received| block.frozen || received >= step)
            })
    }

    /// The oldest step among the newest of every block, when they differ, none is missing, and that
    /// step was not published: a version that was skipped.
    pub(crate) fn torn_at(&self) -> Option<Step> {
        let oldest = self.tally.keys().next().copied()?;
        let torn = self.missing == 0 && self.tally.len() > 1 && self.marks.is_none();
        let skipped = self.published.as_ref().is_none_or(|published| published.step < oldest);
        (torn && skipped).then_some(oldest)
    }

    fn copy(&mut self, number: usize, block: &PlannedBlock, weights: &BlockWeights) {
        let mut next = self.next.take().unwrap_or_else(|| self.fresh_arena());
        weights.data.decode_to(weights.dtype, &mut next[block.arena.clone()]);
        self.next = Some(next);
        if self.plan.first_trainable() == Some(number) {
            (self.lr, self.decay) = (weights.lr, weights.decay);
        }
    }

    fn count(&mut self, number: usize, block: &PlannedBlock, step: Step) {
        let before = self.received[number].replace(step);
        if before.is_none() {
            self.missing -= 1;
        }
        if block.frozen {
            return;
        }
        let of_step = self.tally.entry(step).or_default();
        *of_step += 1;
        if *of_step == 1 {
            fault_point::reach(FaultPoint::FirstWeights);
        }
        if let Some(before) = before
            && let Some(count) = self.tally.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.tally.remove(&before);
            }
        }
    }

    fn complete_step(&self) -> Option<Step> {
        match (self.missing, self.tally.len()) {
            // A model of frozen tensors alone stays as it was initialized.
            (0, 0) => Some(Step::ZERO),
            (0, 1) => self.tally.keys().next().copied(),
            (0, 2) if planted(Bug::TornVersion) && self.tally.values().any(|blocks| *blocks == 1) => {
                self.tally.keys().next_back().copied()
            }
            _ => None,
        }
    }

    fn publish(&mut self, step: Step) -> Arc<WeightsVersion> {
        let values = self.next.take().expect("a block was copied into the arena just now");
        fault_point::reach(FaultPoint::WeightsComplete);
        self.keep(WeightsVersion { step, values, lr: self.lr, decay: self.decay })
    }

    /// Keeps a version, so that its arena is used again once nobody reads it.
    fn keep(&mut self, version: WeightsVersion) -> Arc<WeightsVersion> {
        let version = Arc::new(version);
        if let Some(superseded) = self.published.replace(Arc::clone(&version)) {
            if self.retired.len() == RETIRED_MAX {
                self.retired.remove(0);
            }
            self.retired.push(superseded);
        }
        version
    }

    /// An arena whose frozen blocks are filled in: of a version nobody reads any more, or new.
    fn fresh_arena(&mut self) -> Vec<f32> {
        for index in (0..self.retired.len()).rev() {
            match Arc::try_unwrap(self.retired.swap_remove(index)) {
                Ok(version) => return version.values,
                Err(in_use) => self.retired.push(in_use),
            }
        }
        let mut arena = vec![0.0; self.elements];
        if let Some(published) = &self.published {
            for block in self.plan.blocks().iter().filter(|block| block.frozen) {
                arena[block.arena.clone()].copy_from_slice(&published.values[block.arena.clone()]);
            }
        }
        arena
    }
}

/// Checks what does not depend on what was received before: block, owner, dtype, size, generation.
pub(crate) fn check_fit<'a>(
    plan: &'a BlockPlan,
    generation: Generation,
    server: ServerIndex,
    dtype: Dtype,
    weights: &BlockWeights,
) -> Result<(usize, &'a PlannedBlock), WeightsViolation> {
    let id = weights.block;
    let number = plan.number_of(id).ok_or(WeightsViolation::UnknownBlock { block: id })?;
    let block = &plan.blocks()[number];
    if block.server != server {
        return Err(WeightsViolation::NotOwner { block: id, expected: block.server, found: server });
    }
    if weights.dtype != dtype {
        return Err(WeightsViolation::WrongDtype { block: id, expected: dtype, found: weights.dtype });
    }
    let expected = dtype.encoded_bytes(block.arena.len());
    if weights.data.len() != expected {
        return Err(WeightsViolation::WrongSize { block: id, expected, found: weights.data.len() });
    }
    if weights.generation != generation {
        let (expected, found) = (generation.0, weights.generation.0);
        return Err(WeightsViolation::WrongGeneration { block: id, expected, found });
    }
    Ok((number, block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_plan::example;
    use bytes::Bytes;
    use halflife_proto::blocks::BlockId;
    use halflife_proto::ids::TensorIndex;

    const GENERATION: Generation = Generation(3);

    fn assembly() -> Assembly {
        let (layout, plan) = example::plan();
        Assembly::new(Arc::new(plan), layout.elements(), GENERATION, Step(9))
    }

    /// Block `number` of `step`, every element 100 x number + step.
    fn block(assembly: &Assembly, number: usize, step: u64) -> (ServerIndex, BlockWeights) {
        let planned = &assembly.plan.blocks()[number];
        let values = vec![(100 * number) as f32 + step as f32; planned.arena.len()];
        let data = Bytes::from(bytemuck::cast_slice::<f32, u8>(&values).to_vec()).into();
        let (block, dtype, lr, decay) = (planned.id, Dtype::F32, step as f64, number as f64);
        (planned.server, BlockWeights { block, generation: GENERATION, step: Step(step), dtype, data, lr, decay })
    }

    fn receive(assembly: &mut Assembly, number: usize, step: u64) -> Option<Arc<WeightsVersion>> {
        let (server, weights) = block(assembly, number, step);
        assembly.receive(server, &weights).unwrap()
    }

    fn receive_all(assembly: &mut Assembly, numbers: &[usize], step: u64) -> Option<Arc<WeightsVersion>> {
        numbers.iter().fold(None, |version, number| receive(assembly, *number, step).or(version))
    }

    #[test]
    fn a_version_is_published_when_every_block_that_changes_is_of_one_step() {
        let mut assembly = assembly();
        assert_eq!(receive_all(&mut assembly, &[4, 2, 0, 3], 0), None);
        let version = receive(&mut assembly, 1, 0).unwrap();
        assert_eq!(version.values, [0.0, 0.0, 100.0, 100.0, 200.0, 200.0, 300.0, 400.0]);
        assert_eq!(receive_all(&mut assembly, &[3, 1, 2], 1), None);
        let version = receive(&mut assembly, 4, 1).unwrap();
        assert_eq!(version.values, [0.0, 0.0, 101.0, 101.0, 201.0, 201.0, 301.0, 401.0]);
        assert_eq!((version.step, version.lr, version.decay), (Step(1), 1.0, 1.0));
    }

    #[test]
    fn a_published_version_never_changes_and_its_arena_is_used_again_when_free() {
        let mut assembly = assembly();
        let first = receive_all(&mut assembly, &[0, 1, 2, 3, 4], 0).unwrap();
        let before = first.values.clone();
        let second = receive_all(&mut assembly, &[1, 2, 3, 4], 1).unwrap();
        let third = receive_all(&mut assembly, &[1, 2, 3, 4], 2).unwrap();
        assert_eq!(first.values, before);
        let (free, kept) = (first.values.as_ptr(), third.values[0..2].to_vec());
        drop((first, second));
        let fourth = receive_all(&mut assembly, &[1, 2, 3, 4], 3).unwrap();
        let fifth = receive_all(&mut assembly, &[1, 2, 3, 4], 4).unwrap();
        assert!([&fourth, &fifth].iter().any(|version| version.values.as_ptr() == free));
        assert_eq!(fifth.values[0..2], kept, "frozen blocks come along");
    }

    #[test]
    fn a_slow_reader_skips_versions_and_can_tell() {
        let mut assembly = assembly();
        receive_all(&mut assembly, &[0, 1, 2, 3, 4], 0).unwrap();
        assert_eq!(assembly.torn_at(), None);
        receive_all(&mut assembly, &[2, 4], 1);
        assert_eq!(assembly.torn_at(), None, "step 0 is at hand");
        receive_all(&mut assembly, &[2, 4], 2);
        receive_all(&mut assembly, &[1, 3], 1);
        assert_eq!(assembly.torn_at(), Some(Step(1)));
        assert!(assembly.has_all_of(ServerIndex(1), Step(1)) && !assembly.has_all_of(ServerIndex(1), Step(2)));
        assert_eq!(receive_all(&mut assembly, &[1, 3], 2).unwrap().step, Step(2));
    }

    #[test]
    fn the_same_block_again_changes_nothing() {
        let mut assembly = assembly();
        let version = receive_all(&mut assembly, &[0, 1, 2, 3, 4], 5).unwrap();
        assert_eq!(receive_all(&mut assembly, &[0, 1, 2, 3, 4], 5), None);
        assert_eq!(receive(&mut assembly, 0, 0), None, "a frozen block is of any step");
        assert_eq!(version.step, Step(5));
    }

    #[test]
    fn a_stream_that_begins_again_repeats_no_more_than_the_published_version() {
        let mut assembly = assembly();
        receive_all(&mut assembly, &[0, 1, 2, 3, 4], 5).unwrap();
        receive_all(&mut assembly, &[2, 4], 6);
        assert_eq!(receive_all(&mut assembly, &[2, 4], 5), None, "as a stream opened again begins");
        let (server, older) = block(&assembly, 2, 4);
        assert!(matches!(assembly.receive(server, &older), Err(WeightsViolation::StepBack { .. })));
        let version = receive_all(&mut assembly, &[1, 3], 6).unwrap();
        assert_eq!((version.step, version.values[4]), (Step(6), 206.0));
    }

    #[test]
    fn a_stream_that_begins_again_before_anything_was_published_repeats_a_version() {
        let mut assembly = assembly();
        receive_all(&mut assembly, &[0, 2, 4], 5);
        receive_all(&mut assembly, &[2], 6);
        assert_eq!(receive_all(&mut assembly, &[2, 4], 5), None);
        receive_all(&mut assembly, &[1, 3], 5);
        assert_eq!(receive_all(&mut assembly, &[1, 3, 4], 6).unwrap().step, Step(6));
    }

    #[test]
    fn a_snapshot_is_the_newest_blocks_once_a_mark_is_back_from_every_server() {
        let mut assembly = assembly().with_snapshots();
        assert!(receive_all(&mut assembly, &[0, 1, 2, 3], 0).is_none());
        assert!(assembly.mark(ServerIndex(0), 1).is_none());
        receive(&mut assembly, 4, 0);
        assert_eq!(assembly.mark(ServerIndex(1), 1).expect("back from both").versions[..], [Step::ZERO; 5]);
        receive(&mut assembly, 2, 1);
        receive(&mut assembly, 3, 2);
        assert!(assembly.mark(ServerIndex(0), 2).is_none());
        receive(&mut assembly, 2, 3);
        let first = assembly.mark(ServerIndex(1), 2).expect("back from both");
        assert_eq!(first.versions[..], [0, 0, 3, 2, 0].map(Step));
        assert_eq!(first.weights.values, [0.0, 0.0, 100.0, 100.0, 203.0, 203.0, 302.0, 400.0]);
        assert_eq!((first.mark, first.weights.step), (2, Step(3)));
        assert!(assembly.mark(ServerIndex(1), 2).is_none(), "told once");
        let before = first.weights.values.clone();
        receive(&mut assembly, 4, 1);
        assembly.mark(ServerIndex(1), 3);
        let second = assembly.mark(ServerIndex(0), 3).unwrap();
        assert_eq!((second.weights.values[7], first.weights.values.clone()), (401.0, before));
        assert_eq!(assembly.torn_at(), None);
    }

    #[test]
    fn with_tickets_a_server_owes_marks_whatever_blocks_it_has() {
        let mut assembly = assembly().with_snapshots();
        for number in 0..5 {
            let (server, weights) = block(&assembly, number, 9);
            assembly.receive(server, &weights).unwrap();
        }
        assert!((0..2).all(|server| !assembly.has_all_of(ServerIndex(server), Step(9))));
        assert!(assembly.mark(ServerIndex(0), 1).is_none() && assembly.mark(ServerIndex(1), 1).is_some());
    }

    #[test]
    fn a_stream_that_begins_again_may_find_its_first_version_superseded() {
        let mut assembly = assembly();
        receive_all(&mut assembly, &[0, 1, 2, 3, 4], 5).unwrap();
        receive_all(&mut assembly, &[2, 4], 6);
        // Their stream breaks and asks to begin with step 5; before it does, the others complete step 6.
        receive_all(&mut assembly, &[1, 3], 6).unwrap();
        assert_eq!(receive_all(&mut assembly, &[2, 4], 5), None);
        let (server, older) = block(&assembly, 2, 4);
        assert!(matches!(assembly.receive(server, &older), Err(WeightsViolation::StepBack { .. })));
        assert_eq!(receive_all(&mut assembly, &[1, 2, 3, 4], 7).unwrap().step, Step(7));
    }

    #[test]
    fn with_tickets_versions_may_come_in_any_order() {
        let mut assembly = assembly().with_snapshots();
        receive(&mut assembly, 4, 7);
        receive(&mut assembly, 4, 3);
        assert_eq!(assembly.received[4], Some(Step(7)));
    }

    #[test]
    fn weights_that_do_not_fit_are_refused_by_what_is_wrong() {
        let mut assembly = assembly();
        receive_all(&mut assembly, &[0, 1, 2, 3, 4], 5);
        let (server, good) = block(&assembly, 1, 6);
        let unknown = BlockId { tensor: TensorIndex(2), index: 0 };
        for (found, expected) in [
            (BlockWeights { block: unknown, ..good.clone() }, "found block 2/0"),
            (
                BlockWeights { data: good.data.clone().into_contiguous().slice(1..).into(), ..good.clone() },
                "expected 8 bytes, found 7",
            ),
            (BlockWeights { dtype: Dtype::Bf16, ..good.clone() }, "expected weights in f32, found bf16"),
            (BlockWeights { generation: Generation(2), ..good.clone() }, "expected generation 3, found 2"),
            (BlockWeights { step: Step(3), ..good.clone() }, "expected step 5 or later, found step 3"),
            (BlockWeights { step: Step(10), ..good.clone() }, "expected step 9 at most, found step 10"),
        ] {
            let violation = assembly.receive(server, &found).unwrap_err().to_string();
            assert!(violation.contains(expected), "{violation}");
        }
        let violation = assembly.receive(ServerIndex(0), &good).unwrap_err().to_string();
        assert!(violation.contains("expected from server 1, found from server 0"), "{violation}");
        assert_eq!(receive_all(&mut assembly, &[1, 2, 3, 4], 6).unwrap().step, Step(6), "state unchanged");
    }
}
