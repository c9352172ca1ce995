//! What is promised, checked after every event: bits (P1, P2, P4, P7), membership (P5, P7), bounds.
//! Progress is the business of `liveness.rs`.
//!
//! What is compared with depends on the mode ([`Expected`]). In sync mode it is the same job by one worker and one
//! server that nothing happened to: every version of every block equals its.

use std::collections::HashMap;

use halflife_checkpoint::CheckpointId;
use halflife_client::WeightsVersion;
use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::{Assignment, Notice};
use halflife_proto::placement::Placement;
use halflife_server::lead::Phase;
use halflife_server::lead::simulation::Heard;
use halflife_server::shard::BlockInspection;

use crate::coverage::Transition;
use crate::cuts::CutPromises;
use crate::lead::TICK_US;
use crate::ledger::Ledger;
use crate::quorum::Closings;
use crate::scenario::{BLOCK_ELEMENTS, LEASE_US, Mode, Scenario};
use crate::world::World;

/// Every version of every block, and of the whole weights as a worker sees them.
#[derive(Debug, Default)]
pub struct History {
    pub blocks: HashMap<BlockId, Vec<Vec<u8>>>,
    pub versions: Vec<Vec<f32>>,
    /// The whole state of each block, planes and counts, as a number; of jobs that keep checkpoints.
    pub states: HashMap<BlockId, Vec<u64>>,
}

/// What the weights are compared with.
pub enum Expected<'a> {
    /// Nothing: this is the undisturbed run.
    Itself,
    /// The undisturbed run.
    Undisturbed(&'a History),
    /// The job computed from the slots that the lead fixes.
    Quorum(Box<Closings<'a>>),
    /// The pushes that each block has taken.
    Tickets(Box<Ledger<'a>>),
}

impl<'a> Expected<'a> {
    fn new(scenario: &'a Scenario, undisturbed: Option<&'a History>) -> Expected<'a> {
        match (scenario.job.mode, undisturbed) {
            (Mode::Sync, None) => Expected::Itself,
            (Mode::Sync, Some(undisturbed)) => Expected::Undisturbed(undisturbed),
            (Mode::Quorum(quorum), _) => Expected::Quorum(Box::new(Closings::new(&scenario.job, quorum))),
            (Mode::Bounded(_) | Mode::Async, _) => Expected::Tickets(Box::new(Ledger::new(&scenario.job))),
        }
    }

    fn history(&self) -> Option<&History> {
        match self {
            Expected::Itself | Expected::Tickets(_) => None,
            Expected::Undisturbed(history) => Some(history),
            Expected::Quorum(closings) => Some(&closings.reference.history),
        }
    }
}

/// What was seen so far, and the first promise that was broken.
pub struct Promises<'a> {
    pub violation: Option<String>,
    pub history: History,
    pub expected: Expected<'a>,
    scenario: &'a Scenario,
    steps: HashMap<BlockId, Step>,
    pub complete: Option<Step>,
    pub last_progress: u64,
    pub last_fault: u64,
    pub healed_at: u64,
    /// Faults that struck.
    pub faults: u64,
    /// While somebody was well.
    pub longest_stall_us: u64,
    pub last_look: (Option<Step>, u64),
    pub times_us: Vec<u64>,
    /// Of checkpoints.
    pub cuts: CutPromises,
}

impl<'a> Promises<'a> {
    /// Nothing seen yet. Of a job in sync mode without an `undisturbed` one to compare with, the history is one.
    pub fn new(scenario: &'a Scenario, undisturbed: Option<&'a History>) -> Promises<'a> {
        Promises {
            violation: None,
            history: History::default(),
            expected: Expected::new(scenario, undisturbed),
            scenario,
            steps: HashMap::new(),
            complete: None,
            last_progress: 0,
            last_fault: 0,
            healed_at: 0,
            faults: 0,
            longest_stall_us: 0,
            last_look: (None, 0),
            times_us: Vec::new(),
            cuts: CutPromises::default(),
        }
    }

    /// A promise is broken; only the first one counts.
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A fault strikes, and is healed some time later.
    pub fn note_fault(&mut self, now: u64, lasts_us: u64) {
        self.faults += 1;
        self.last_fault = now;
        self.healed_at = self.healed_at.max(now + lasts_us);
    }

    /// Something begins anew: waiting counts from now on.
    pub fn note_disturbance(&mut self, now: u64) {
        self.last_fault = now;
    }

    /// Another generation begins: with a checkpoint, or from nothing.
    pub fn roll_back(&mut self, to: Option<CheckpointId>, now: u64) -> Result<(), String> {
        self.steps.clear();
        (self.complete, self.last_look) = (None, (None, now));
        self.times_us.clear();
        self.note_disturbance(now);
        self.last_progress = self.last_progress.max(now);
        match &mut self.expected {
            Expected::Itself | Expected::Undisturbed(_) => Ok(()),
            Expected::Quorum(closings) => {
                closings.roll_back(to.map_or(Step::ZERO, |id| id.step));
                Ok(())
            }
            Expected::Tickets(ledger) => ledger.roll_back(to),
        }
    }

    /// A block is back at a step.
    pub fn note_restored(&mut self, block: BlockId, step: Step) {
        self.steps.insert(block, step);
    }

    /// Looks at a block; whether it has a new version. Each is the next one, and is the reference's.
    pub fn check_block(&mut self, block: BlockId, seen: &BlockInspection) -> bool {
        let limit = BLOCK_ELEMENTS * size_of::<f32>() * self.scenario.job.spec.job.slots as usize;
        if seen.gathered_bytes > limit {
            self.fail(format!("rule 9: {block} holds {} bytes, at most {limit} are due", seen.gathered_bytes));
        }
        let before = self.steps.get(&block).copied();
        let Some(step) = seen.step.filter(|step| Some(*step) != before) else { return false };
        let expected = before.map_or(Step::ZERO, Step::next);
        if step != expected {
            self.fail(format!("{block} went to {step}, expected {expected}"));
        }
        self.steps.insert(block, step);
        if let Expected::Tickets(ledger) = &self.expected {
            if let Err(violation) = ledger.check_block(block, step, &seen.weights) {
                self.fail(violation);
            }
            return true;
        }
        match self.expected.history() {
            None => self.history.blocks.entry(block).or_default().push(seen.weights.to_vec()),
            Some(expected) => {
                let known = expected.blocks.get(&block).and_then(|versions| versions.get(step.0 as usize));
                if known.is_none_or(|known| known[..] != seen.weights[..]) {
                    let why = if known.is_some() { "differs from what it must be" } else { "is not due yet" };
                    self.fail(format!("P2: {block} at {step} {why}"));
                }
            }
        }
        true
    }

    /// A worker has a whole version: it is of one step, and the reference's.
    pub fn check_version(&mut self, worker: usize, version: &WeightsVersion) {
        let step = version.step;
        match self.expected.history() {
            None if step.0 as usize == self.history.versions.len() => {
                self.history.versions.push(version.values.clone())
            }
            None => self.fail(format!("the undisturbed worker skipped to {step}")),
            Some(expected) => {
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                let known = expected.versions.get(step.0 as usize);
                if known.is_none_or(|known| bits(known) != bits(&version.values)) {
                    self.fail(format!("P4: worker {worker} assembled a {step} that never was"));
                }
            }
        }
    }

    /// What the lead takes for complete never goes back.
    pub fn check_lead_step(&mut self, before: Option<Step>, after: Option<Step>) {
        if after < before {
            self.fail(format!("the lead's step went back from {before:?} to {after:?}"));
        }
    }

    /// The blocks of a server.
    pub fn blocks_of(&self, server: usize, model: Option<&(Manifest, Placement)>) -> Vec<BlockId> {
        let Some((manifest, placement)) = model else { return Vec::new() };
        let owner = Some(ServerIndex(server as u32));
        let blocks = all_blocks(manifest, placement.block_elements()).map(|(block, _)| block);
        blocks.filter(|block| placement.server_of(*block) == owner).collect()
    }
}

impl World<'_> {
    /// Notes when a step is complete on every server.
    pub(crate) fn steps_may_be_complete(&mut self) {
        let step = self.pace();
        if step > self.promises.complete
            && let Some(step) = step
        {
            self.promises.complete = Some(step);
            self.promises.last_progress = self.now;
            let kind = if step == Step::ZERO { Transition::Initialized } else { Transition::StepComplete };
            self.coverage.pass(kind);
            self.trace.note(self.now, &[6, step.0], || format!("=== {step} is complete"));
            self.set_off_faults(step.0);
            self.set_off_server_faults(step.0);
        }
    }

    /// How far the job is: the newest step that is complete everywhere; with tickets, how many are settled.
    fn pace(&self) -> Option<Step> {
        let complete = |server: usize| {
            let standing = self.servers[server].shard.as_ref().filter(|_| self.is_current(server))?.standing();
            standing.borrow().complete
        };
        let step = (0..self.servers.len()).map(complete).min().flatten();
        let settled = self.lead.state.tickets().map(|tickets| Step(tickets.done() + tickets.void()));
        step.map(|step| settled.unwrap_or(step))
    }

    /// Every slot of every step that may be under way is somebody's who lives; nobody is a member beyond a lease.
    pub(crate) fn check_membership(&mut self) {
        if !self.lead.is_leading {
            return;
        }
        let state = &self.lead.state;
        let now = self.lead_now().as_micros() as u64;
        let mut violation = None;
        for (incarnation, worker) in state.workers() {
            let silent_us = now.saturating_sub(worker.heard_at.as_micros() as u64);
            if silent_us > LEASE_US + 2 * TICK_US {
                violation = Some(format!("P7: {incarnation} is a member after {silent_us} us of silence"));
            }
        }
        let is_over = matches!(state.phase(), Phase::Stopped(_) | Phase::Finished) || state.ends_early();
        // Who was asked to leave gets nothing more.
        if state.workers().values().any(|worker| !worker.drained) && !is_over {
            violation = violation.or_else(|| self.unassigned());
        }
        if let Some(violation) = violation {
            self.promises.fail(violation);
        }
    }

    fn unassigned(&self) -> Option<String> {
        let state = &self.lead.state;
        let assignments: Vec<Vec<Assignment>> = state
            .workers()
            .keys()
            .map(|incarnation| {
                let told = state.notices(*incarnation, &mut Heard::default());
                let assignment = |notice| match notice {
                    Notice::Assignment(assignment) => Some(assignment),
                    _ => None,
                };
                told.into_iter().filter_map(assignment).collect()
            })
            .collect();
        let complete = state.complete_step();
        let initializers =
            assignments.iter().filter(|of_one| of_one.last().is_some_and(|last| last.initialize)).count();
        if complete.is_none() && !self.scenario.job.from_file && initializers != 1 {
            return Some(format!("{initializers} workers are to initialize"));
        }
        if self.scenario.job.mode.has_tickets() {
            return None; // nobody owns slots
        }
        let under_way = complete.map_or(Step(1), Step::next);
        [under_way, under_way.next(), under_way.next().next()].into_iter().find_map(|step| {
            let mut taken = vec![0; self.scenario.job.spec.job.slots as usize];
            for of_one in &assignments {
                let in_effect = of_one.iter().rfind(|assignment| assignment.from_step <= step);
                for node in in_effect.iter().flat_map(|assignment| &assignment.nodes) {
                    taken[node.begin as usize..node.end as usize].iter_mut().for_each(|times| *times += 1);
                }
            }
            taken.contains(&0).then(|| format!("P5: of {step} the slots are taken so many times each: {taken:?}"))
        })
    }
}
