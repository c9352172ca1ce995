//! What is promised of checkpoints (P6, P7, rule 8): a cut is every block's whole state after one step, and no other; it
//! comes back as it was; what was told to be durable is never undone; a job ends with its last step kept, or with a
//! reason why not.

use std::collections::{BTreeMap, HashMap};

use halflife_checkpoint::CheckpointId;
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::Step;
use halflife_server::block::Captured;
use halflife_server::lead::{Cuts, Phase};
use halflife_server::shard::Shard;

use crate::coverage::Transition;
use crate::promises::Expected;
use crate::store::{digest, id_of};
use crate::world::World;

/// What blocks have held, and what was said of checkpoints.
#[derive(Debug, Default)]
pub struct CutPromises {
    /// The whole state of each version of each block in this generation, as a number.
    held: HashMap<(BlockId, Step), u64>,
    /// The newest step that servers were told is durable.
    told: Option<Step>,
    /// The step whose checkpoint was the last to be given up in this generation.
    given_up: Option<Step>,
}

impl CutPromises {
    /// Somebody was told that a step survives every crash.
    pub fn tell(&mut self, step: Step) {
        self.told = self.told.max(Some(step));
    }
}

impl World<'_> {
    /// Whether a server takes part in the generation that is led now, or that a lead that stands still may yet commit
    /// something of, since no other has begun.
    pub(crate) fn is_current(&self, server: usize) -> bool {
        let generation = self.servers[server].identity.as_ref().map(|identity| identity.generation);
        let is_led = self.lead.is_leading || self.is_of_former_lead(self.lead.generation);
        is_led && generation == Some(self.lead.generation)
    }

    fn key(&self, block: BlockId, version: Step) -> (BlockId, Step) {
        (block, if self.scenario.job.changes(block.tensor) { version } else { Step::ZERO })
    }

    /// A block has a new version: what it holds is noted, and in sync mode compared with the undisturbed run's.
    pub(crate) fn note_state(&mut self, server: usize, block: BlockId) {
        if !self.scenario.notes_states {
            return;
        }
        let Some(captured) = self.servers[server].shard.as_ref().and_then(|shard| shard.capture(block)) else { return };
        let (version, state) = (captured.weights.step, digest(&captured));
        match &self.promises.expected {
            Expected::Itself => self.promises.history.states.entry(block).or_default().push(state),
            Expected::Undisturbed(expected) => {
                let known = expected.states.get(&block).and_then(|states| states.get(version.0 as usize));
                if known.is_some_and(|known| *known != state) {
                    self.promises.fail(format!("P2: the optimizer's state of {block} at {version} differs"));
                }
            }
            Expected::Quorum(_) | Expected::Tickets(_) => {}
        }
        let key = self.key(block, version);
        self.promises.cuts.held.insert(key, state);
    }

    /// A server has set its blocks aside: each as it was after that step.
    pub(crate) fn check_cut(&mut self, server: usize, id: CheckpointId, cut: &[Captured]) {
        // What is given up already, because of another server, is never committed.
        let lead = self.lead_of(id.generation);
        let Some(lead) = lead.filter(|lead| lead.cuts().and_then(Cuts::under_way) == Some(id.step)) else { return };
        if !self.is_current(server) {
            return;
        }
        let mut blocks = self.promises.blocks_of(server, lead.model());
        blocks.sort_unstable();
        let found: Vec<BlockId> = cut.iter().map(|captured| captured.block).collect();
        if found != blocks {
            self.promises.fail(format!("P6: a cut of {id} is of {found:?}, the server has {blocks:?}"));
        }
        let has_tickets = self.scenario.job.mode.has_tickets();
        for captured in cut {
            let (block, version) = (captured.block, captured.weights.step);
            if version != id.step && !has_tickets {
                self.promises.fail(format!("P6: {id} has {block} at {version}"));
            }
            let known = self.promises.cuts.held.get(&self.key(block, version)).copied();
            if known != Some(digest(captured)) {
                self.promises.fail(format!("P6: {id} has {block} as it never was at {version}"));
            }
            if let Expected::Tickets(ledger) = &mut self.promises.expected
                && let Err(violation) = ledger.cut(id, block, version)
            {
                self.promises.fail(violation);
            }
        }
    }

    /// A server has its blocks back: each is what was set aside.
    pub(crate) fn check_restored(
        &mut self,
        server: usize,
        id: CheckpointId,
        shard: &Shard,
        stored: &BTreeMap<BlockId, u64>,
    ) {
        for (block, expected) in stored {
            let Some(captured) = shard.capture(*block) else {
                return self.promises.fail(format!("P6: {block} has nothing after it was restored"));
            };
            let (found, version) = (digest(&captured), captured.weights.step);
            if (found, version) != (*expected, id.step) {
                self.promises.fail(format!("P6: {block} at {version} is not what {id} has"));
            }
            if let Expected::Undisturbed(undisturbed) = &self.promises.expected
                && let Some(states) = undisturbed.states.get(block)
            {
                let place = if self.scenario.job.changes(block.tensor) { id.step.0 as usize } else { 0 };
                if states.get(place) != Some(&found) {
                    self.promises.fail(format!("P2: {block} was restored from {id} to what it never was"));
                }
            }
            if self.is_current(server) {
                let key = self.key(*block, version);
                self.promises.cuts.held.insert(key, found);
                self.promises.note_restored(*block, version);
            }
        }
    }

    /// Another generation begins, with a checkpoint or from nothing: what it goes back behind is undone.
    pub(crate) fn begin_generation(&mut self, continues: Option<CheckpointId>) {
        let back_to = continues.map(|id| id.step);
        if self.promises.cuts.told > back_to {
            let told = self.promises.cuts.told;
            self.promises.fail(format!("P1: {told:?} was told to be durable, the job goes back to {back_to:?}"));
        }
        let told = self.promises.cuts.told;
        self.promises.cuts = CutPromises { told, ..CutPromises::default() };
        let violation = self.promises.roll_back(continues, self.now);
        if let Err(violation) = violation {
            self.promises.fail(violation);
        }
        self.lead.settled = self.lead.state.tickets().map_or((0, 0, 0), |it| (it.done(), it.void(), it.torn()));
    }

    /// Servers are told that a step survives every crash: it has to be committed.
    pub(crate) fn check_durable(&mut self, step: Step) {
        let id = id_of(step, self.lead.generation);
        if !self.store.committed().contains(&id) {
            self.promises.fail(format!("P1: {step} is told to be durable, {id} is not committed"));
        }
        self.promises.cuts.tell(step);
    }

    pub(crate) fn note_checkpoint_ended(&mut self, step: Step, error: Option<&str>) {
        self.promises.note_disturbance(self.now);
        if error.is_some() {
            self.coverage.pass(Transition::GivenUp);
            self.promises.cuts.given_up = Some(step);
        }
    }

    /// The job is finished: its last step is kept, or there is a reason why not.
    pub(crate) fn check_end_of_checkpoints(&mut self) {
        if self.scenario.job.checkpoints.is_none() || self.lead.state.phase() != Phase::Finished {
            return;
        }
        let last = self.lead.state.complete_step();
        let kept = self.store.surviving().map(|id| id.step);
        if kept != last && self.promises.cuts.given_up != last {
            self.promises.fail(format!("the job is finished at {last:?}, and kept at {kept:?}"));
        }
        self.coverage.pass(if kept == last { Transition::EndKept } else { Transition::EndGivenUp });
    }
}
