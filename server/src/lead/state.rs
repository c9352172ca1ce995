//! What the lead decides: who takes part, who computes what, how the job stands.
//!
//! A plain state machine: every method takes the time it happens at (since the lead's start) and
//! returns what to do about it as [`Effect`]s. No I/O, no clock, no randomness; the edges
//! (`lead.rs`, `lead/control_service.rs`) carry the effects out in order.
//!
//! An assignment is advice, never a permission: a slot computed twice counts once (rule 1), so the
//! machine only has to make sure that every slot is assigned to somebody living.

mod memory;
mod modes;
mod operate;
mod progress;
mod watch;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use halflife_optim::Sums;
use halflife_proto::blocks::{BLOCKS_MAX, BlockId, all_blocks, block_count};
use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::job::Consistency;
use halflife_proto::manifest::{Manifest, Role};
use halflife_proto::membership::{Assignment, BlockSums, Notice, Order, Partial, ServerLoad, Total};
use halflife_proto::placement::{Placement, ServerAddress};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::slots::{SlotRange, SlotTree};

use modes::{Decider, changing_servers};

use super::assignment::split_slots;
use crate::placement::balance;
use crate::planted::{Bug, planted};
pub use memory::Demand;
use operate::Ending;
pub use progress::Behind;
use watch::ProgressWatch;

/// The part of the job the lead decides by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Servers that form the job.
    pub servers: u32,
    /// The tree over the slots.
    pub slots: SlotTree,
    /// Steps in the run.
    pub steps: Step,
    /// Elements per block.
    pub block_elements: u64,
    /// Initial weights come from a file that holds exactly these tensors, by name and shape.
    pub initial_tensors: Option<BTreeMap<String, Vec<u64>>>,
    /// Blocks of a tensor stay on one server, because the optimizer needs norms of it.
    pub whole_tensors: bool,
    /// Silence after which a worker is taken for dead.
    pub lease: Duration,
    /// When steps are applied.
    pub consistency: Consistency,
    /// What decides how much memory the job needs.
    pub demand: Demand,
}

/// Something to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send an order to a server.
    Order(ServerIndex, Order),
    /// Send a notice to a worker.
    Notify(Incarnation, Notice),
    /// Every worker must hear that the job rests, or goes on.
    HoldChanged,
    /// Read the initial weights from their file and send them to the servers.
    LoadInitialWeights,
    /// A worker that was told to wait for a ticket may ask again.
    TicketReady(Incarnation),
    /// Worth a person's attention.
    Warn(String),
}

/// How the job stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Not all servers are here.
    WaitingForServers,
    /// Nobody has shown a model yet, or its blocks are being placed.
    WaitingForWorkers,
    /// The first weights are being set.
    Initializing,
    /// Steps are being made.
    Training,
    /// Asked to rest.
    Paused,
    /// The last step is complete everywhere.
    Finished,
    /// It ended early.
    Stopped(Refusal),
}

/// A server as the lead knows it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its process.
    pub incarnation: Incarnation,
    /// Where workers reach it.
    pub address: ServerAddress,
    /// Whether it holds its blocks.
    pub placed: bool,
    /// Newest step complete on all its blocks.
    pub complete: Option<Step>,
    /// Bytes it may use; `None`: no bound.
    pub memory_max: Option<NonZeroU64>,
    /// How much waits on it, as it said last.
    pub load: ServerLoad,
}

/// What a server holds of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Blocks.
    pub blocks: u64,
    /// Their elements.
    pub elements: u64,
}

/// A worker as the lead knows it.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its place in the order of joining, from 0; never used again.
    pub number: u32,
    /// Its build and machine.
    pub fingerprint: Fingerprint,
    /// The step it says it computes.
    pub step: Step,
    /// When it was last heard of.
    pub heard_at: Duration,
    /// Its assignments, by rising epoch and rising first step: the one in effect at a step is the last
    /// whose first step is not beyond it. Never empty once the worker has joined.
    assignments: Vec<Assignment>,
    /// Servers it says it cannot reach.
    pub unreachable: Vec<ServerIndex>,
    /// Why it has no slots although it lives.
    pub behind: Option<Behind>,
    /// Was asked to leave.
    pub drained: bool,
    /// Steps it held up.
    stalls: u32,
}

impl Worker {
    /// Its newest assignment.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        self.assignments.last().expect("a worker has an assignment from the moment it joins")
    }

    /// What it computes of a step.
    fn nodes_at(&self, step: Step) -> &[SlotRange] {
        let in_effect = self.assignments.iter().rfind(|assignment| assignment.from_step <= step);
        in_effect.map_or(&[], |assignment| &assignment.nodes)
    }

    /// Takes a new one; forgets those it ends, and those that ended before the step after `complete`.
    fn assign(&mut self, assignment: Assignment, complete: Option<Step>) {
        self.assignments.retain(|older| older.from_step < assignment.from_step);
        self.assignments.push(assignment);
        let under_way = complete.map_or(Step::ZERO, Step::next);
        let in_effect = self.assignments.iter().rposition(|assignment| assignment.from_step <= under_way);
        self.assignments.drain(..in_effect.unwrap_or(0));
    }
}

/// What a worker has been told already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    epoch: u64,
    hold: Option<Step>,
    drained: bool,
    finished: bool,
}

/// What a worker learns when it joins.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// The worker's number.
    pub number: u32,
    /// Who holds what.
    pub placement: Placement,
    /// Its slots.
    pub assignment: Assignment,
    /// Newest step complete on every server.
    pub step: Option<Step>,
}

/// The lead's state.
#[derive(Debug)]
pub struct LeadState {
    settings: Settings,
    /// By index; `None` until one registers (again).
    servers: Vec<Option<Server>>,
    workers: BTreeMap<Incarnation, Worker>,
    workers_joined: u32,
    model: Option<(Manifest, Placement)>,
    /// By server, once there is a model.
    holdings: Vec<Holding>,
    initial_weights_sent: bool,
    /// Parts of a norm over the model, until every block's is there.
    norm: Option<((Step, u32), BTreeMap<BlockId, BlockSums>)>,
    epoch: u64,
    decider: Decider,
    /// Servers whose blocks change: the others have nothing to tell of slots and pushes.
    changing_servers: usize,
    watch: ProgressWatch,
    /// The step that servers were asked for the missing slots of, until an answer was acted upon.
    missing_asked: Option<Step>,
    hold: Option<Step>,
    ending: Option<Ending>,
    finished: bool,
    stopped: Option<Refusal>,
}

impl LeadState {
    /// A job that nobody has come to yet.
    #[must_use]
    pub fn new(settings: Settings) -> LeadState {
        LeadState {
            servers: vec![None; settings.servers as usize],
            decider: Decider::new(&settings),
            changing_servers: 0,
            settings,
            workers: BTreeMap::new(),
            workers_joined: 0,
            model: None,
            holdings: Vec::new(),
            initial_weights_sent: false,
            norm: None,
            epoch: 0,
            watch: ProgressWatch::default(),
            missing_asked: None,
            hold: None,
            ending: None,
            finished: false,
            stopped: None,
        }
    }

    // ---- servers ----

    /// A server wants to take part.
    ///
    /// # Errors
    /// `JOB_FULL` when the job has its servers, `JOB_STOPPED` when it has ended.
    pub fn register(
        &mut self,
        incarnation: Incarnation,
        address: ServerAddress,
        memory_max: Option<NonZeroU64>,
    ) -> Result<ServerIndex, Refusal> {
        self.check_not_stopped()?;
        let Some(index) = self.servers.iter().position(Option::is_none) else {
            let expected = format!("{} servers, all registered", self.settings.servers);
            return Err(Refusal::mismatch(RefusalCause::JobFull, "registration", expected, "one more"));
        };
        self.servers[index] = Some(Server {
            incarnation,
            address,
            placed: false,
            complete: None,
            memory_max,
            load: ServerLoad::default(),
        });
        Ok(ServerIndex(index as u32))
    }

    /// A server holds its blocks.
    pub fn placed(&mut self, index: ServerIndex) -> Vec<Effect> {
        if let Some(server) = self.server_mut(index) {
            server.placed = true;
        }
        let from_file = self.settings.initial_tensors.is_some();
        if self.all_placed() && from_file && !std::mem::replace(&mut self.initial_weights_sent, true) {
            return vec![Effect::LoadInitialWeights];
        }
        Vec::new()
    }

    /// All blocks of a server are complete at a step.
    pub fn complete(&mut self, index: ServerIndex, step: Step) -> Vec<Effect> {
        let was_initialized = self.complete_step().is_some();
        if let Some(server) = self.server_mut(index) {
            server.complete = server.complete.max(Some(step));
        }
        if !was_initialized && self.tickets().is_some() {
            return self.open_tickets();
        }
        self.finish_if_complete()
    }

    /// How much waits on a server.
    pub fn load(&mut self, index: ServerIndex, load: ServerLoad) {
        if let Some(server) = self.server_mut(index) {
            server.load = load;
        }
    }

    fn finish_if_complete(&mut self) -> Vec<Effect> {
        if self.complete_step() < Some(self.settings.steps) { Vec::new() } else { self.finish_once() }
    }

    /// Every step is complete.
    fn finish_once(&mut self) -> Vec<Effect> {
        if self.finished || self.stopped.is_some() {
            return Vec::new();
        }
        self.finished = true;
        let mut effects = self.notify_all(&Notice::Finished(self.settings.steps));
        effects.extend(self.finish_when_all_left());
        effects
    }

    /// A server's part of a norm over the model. When the last part is there, every server gets the
    /// total: blocks along each tensor's tree, then tensors in the order of the manifest (rule 6).
    pub fn partial(&mut self, partial: Partial) -> Vec<Effect> {
        let Some((manifest, placement)) = &self.model else { return Vec::new() };
        let key = (partial.step, partial.stage);
        let (known, parts) = self.norm.get_or_insert_with(|| (key, BTreeMap::new()));
        if *known > key {
            return Vec::new(); // its total is out already
        }
        if *known < key {
            (*known, *parts) = (key, BTreeMap::new());
        }
        parts.extend(partial.blocks);
        let trainable = manifest.tensors().iter().filter(|tensor| tensor.role == Role::Trainable);
        let expected: u64 = trainable.map(|tensor| block_count(tensor, placement.block_elements())).sum();
        if (parts.len() as u64) < expected {
            return Vec::new();
        }
        let blocks: Vec<(&BlockId, &BlockSums)> = parts.iter().collect();
        let tensors: Vec<Sums> = blocks
            .chunk_by(|(a, _), (b, _)| a.tensor == b.tensor)
            .map(|blocks| Sums::combine(&blocks.iter().map(|(_, sums)| Sums(**sums)).collect::<Vec<_>>()))
            .collect();
        let order = Order::Total(Total { step: key.0, stage: key.1, sums: Sums::combine(&tensors).0 });
        self.order_all(&order)
    }

    fn order_all(&self, order: &Order) -> Vec<Effect> {
        (0..self.servers.len() as u32).map(|index| Effect::Order(ServerIndex(index), order.clone())).collect()
    }

    /// A server met an error that ends the job.
    pub fn halted(&mut self, refusal: Refusal) -> Vec<Effect> {
        self.stop(refusal)
    }

    /// A server is gone. Before there is a model another may register in its place; afterwards,
    /// without a checkpoint to come back from, that ends an unfinished job.
    pub fn server_lost(&mut self, index: ServerIndex) -> Vec<Effect> {
        let Some(place) = self.servers.get_mut(index.0 as usize) else { return Vec::new() };
        let Some(server) = place.take_if(|_| self.model.is_none()).or_else(|| place.clone()) else { return Vec::new() };
        let message = format!("{index} ({}) is lost", server.address.url);
        if self.finished {
            return Vec::new(); // it had nothing left to do
        }
        if self.model.is_none() {
            return vec![Effect::Warn(message)];
        }
        let message = format!("{message} and the job keeps no checkpoints to recover it from");
        self.stop(Refusal::new(RefusalCause::JobStopped, message))
    }

    fn server_mut(&mut self, index: ServerIndex) -> Option<&mut Server> {
        self.servers.get_mut(index.0 as usize)?.as_mut()
    }

    fn present(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().flatten()
    }

    fn all_placed(&self) -> bool {
        self.servers.iter().all(|server| server.as_ref().is_some_and(|server| server.placed))
    }

    /// Newest step complete on every server; `None` before the initialization is. In the asynchronous
    /// modes, the step up to which every ticket is done or void.
    #[must_use]
    pub fn complete_step(&self) -> Option<Step> {
        if !self.all_placed() {
            return None;
        }
        // A server without blocks that change says so with the last step.
        let complete = self.present().map(|server| server.complete).min().flatten();
        complete.map(|complete| self.settled_step(complete))
    }

    // ---- workers ----

    /// A worker joins, or asks again with the same incarnation.
    ///
    /// # Errors
    /// `NOT_READY` while servers are missing or place their blocks, `MANIFEST_MISMATCH` with the
    /// differences, `OUT_OF_MEMORY` when a server could not hold what one more worker may send,
    /// `JOB_STOPPED` after the end.
    pub fn join(
        &mut self,
        now: Duration,
        incarnation: Incarnation,
        fingerprint: Fingerprint,
        manifest: Manifest,
    ) -> (Result<Joined, Refusal>, Vec<Effect>) {
        if let Err(refusal) = self.check_not_stopped() {
            return (Err(refusal), Vec::new());
        }
        let (placement, mut effects) = match self.admit_model(manifest) {
            (Ok(placement), effects) => (placement, effects),
            (Err(refusal), effects) => return (Err(refusal), effects),
        };
        if !self.workers.contains_key(&incarnation) {
            if let Err(refusal) = self.check_memory(self.workers.len() + 1) {
                return (Err(refusal), effects);
            }
            effects.extend(self.warn_of_mixed_fingerprints(&fingerprint));
            let number = self.workers_joined;
            self.workers_joined += 1;
            let worker = Worker {
                number,
                fingerprint,
                step: Step::ZERO,
                heard_at: now,
                assignments: Vec::new(),
                unreachable: Vec::new(),
                behind: None,
                drained: false,
                stalls: 0,
            };
            self.workers.insert(incarnation, worker);
            self.admit_to_tickets(incarnation);
            // The others hold the slots of the step under way; the joiner starts with a later one. A
            // worker that is alone holds them all, at once.
            let others = self.workers.values().filter(|worker| worker.is_eligible()).count();
            let from_step = match self.complete_step() {
                Some(complete) if others > 1 || planted(Bug::JoinerBeginsLate) => complete.next().next(),
                _ => Step::ZERO,
            };
            effects.extend(self.reassign(from_step, Some(incarnation)));
        }
        let worker = &self.workers[&incarnation];
        let joined = Joined {
            number: worker.number,
            placement,
            // The oldest that still matters; the newer ones follow as notices.
            assignment: worker.assignments[0].clone(),
            step: self.complete_step(),
        };
        (Ok(joined), effects)
    }

    /// Shows a model: the first one becomes the job's. Gives the placement once it is in effect.
    ///
    /// # Errors
    /// As [`LeadState::join`].
    pub fn admit_model(&mut self, manifest: Manifest) -> (Result<Placement, Refusal>, Vec<Effect>) {
        // A stopped job's weights can still be read, if it ever had a model.
        if let (Err(refusal), None) = (self.check_not_stopped(), &self.model) {
            return (Err(refusal), Vec::new());
        }
        let present = self.present().count();
        if present < self.servers.len() {
            let message = format!("waiting for servers: {present} of {} are here", self.servers.len());
            return (Err(Refusal::new(RefusalCause::NotReady, message)), Vec::new());
        }
        let Some((known, placement)) = &self.model else {
            return match self.place(manifest) {
                Ok(effects) => (Err(Refusal::new(RefusalCause::NotReady, "the servers place their blocks")), effects),
                Err(refusal) => (Err(refusal), Vec::new()),
            };
        };
        let differences = known.differences(&manifest);
        if !differences.is_empty() {
            let message = format!("the worker's model is not the job's: {}", differences.join("; "));
            return (Err(Refusal::new(RefusalCause::ManifestMismatch, message)), Vec::new());
        }
        if !self.all_placed() {
            return (Err(Refusal::new(RefusalCause::NotReady, "the servers place their blocks")), Vec::new());
        }
        (Ok(placement.clone()), Vec::new())
    }

    fn place(&mut self, manifest: Manifest) -> Result<Vec<Effect>, Refusal> {
        if !manifest.tensors().iter().any(|tensor| matches!(tensor.role, Role::Trainable)) {
            return Err(Refusal::mismatch(
                RefusalCause::ManifestMismatch,
                "manifest",
                "at least one trainable tensor",
                "none",
            ));
        }
        let blocks: u64 =
            manifest.tensors().iter().map(|tensor| block_count(tensor, self.settings.block_elements)).sum();
        if blocks > BLOCKS_MAX {
            let what =
                format!("model of {} elements in blocks of {}", manifest.elements(), self.settings.block_elements);
            let expected = format!("at most {BLOCKS_MAX} blocks");
            return Err(Refusal::mismatch(RefusalCause::TooLarge, what, expected, format!("{blocks}")));
        }
        if let Some(initial) = &self.settings.initial_tensors {
            check_initial_tensors(initial, &manifest)?;
        }
        let addresses = self.present().map(|server| server.address.clone()).collect();
        let placement = balance(&manifest, 1, self.settings.block_elements, self.settings.whole_tensors, addresses)
            .map_err(|error| Refusal::new(RefusalCause::Malformed, error.to_string()))?;
        self.changing_servers = changing_servers(&manifest, &placement);
        self.holdings = holdings(&manifest, &placement);
        if let Err(refusal) = self.check_memory(1) {
            self.holdings.clear();
            return Err(refusal);
        }
        self.model = Some((manifest.clone(), placement.clone()));
        Ok(self.order_all(&Order::Place { manifest, placement }))
    }

    fn check_memory(&self, workers: usize) -> Result<(), Refusal> {
        let demand = &self.settings.demand;
        self.present().zip(&self.holdings).enumerate().try_for_each(|(index, (server, holding))| {
            let name = format!("{} ({})", ServerIndex(index as u32), server.address.url);
            demand.check(&name, server.memory_max, holding.elements, workers as u64)
        })
    }

    /// A worker is alive.
    ///
    /// # Errors
    /// `FENCED` for a worker that is not, or no longer, a member.
    pub fn heartbeat(
        &mut self,
        now: Duration,
        incarnation: Incarnation,
        step: Step,
        unreachable: Vec<ServerIndex>,
    ) -> Result<(), Refusal> {
        let Some(worker) = self.workers.get_mut(&incarnation) else {
            if planted(Bug::FencedHeartbeatAccepted) {
                return Ok(());
            }
            let lease_ms = self.settings.lease.as_millis();
            let message = format!("{incarnation} is no member: it never joined, or was silent for over {lease_ms} ms");
            return Err(Refusal::new(RefusalCause::Fenced, message));
        };
        worker.heard_at = now;
        worker.step = worker.step.max(step);
        worker.unreachable = unreachable;
        Ok(())
    }

    /// What a worker must still be told, in order. Whoever asks again with the same `heard` gets it
    /// again: nothing is lost with a connection, and nothing piles up for one that does not read.
    #[must_use]
    pub fn notices(&self, incarnation: Incarnation, heard: &mut Heard) -> Vec<Notice> {
        let Some(worker) = self.workers.get(&incarnation) else {
            let lease_ms = self.settings.lease.as_millis();
            let message = format!("{incarnation} is no member any more: it left, or was silent for over {lease_ms} ms");
            return vec![Notice::Fenced(Refusal::new(RefusalCause::Fenced, message))];
        };
        let untold = worker.assignments.iter().filter(|assignment| assignment.epoch > heard.epoch);
        let mut notices: Vec<Notice> = untold.cloned().map(Notice::Assignment).collect();
        heard.epoch = worker.assignment().epoch;
        if std::mem::replace(&mut heard.hold, self.hold) != self.hold {
            notices.push(Notice::Hold(self.hold));
        }
        if self.is_drained(incarnation) && !std::mem::replace(&mut heard.drained, true) {
            notices.push(Notice::Drained);
        }
        if self.finished && !std::mem::replace(&mut heard.finished, true) {
            notices.push(Notice::Finished(self.settings.steps));
        }
        notices.extend(self.stopped.clone().map(Notice::Stopped));
        notices
    }

    /// A worker goes; its slots move at once.
    pub fn leave(&mut self, incarnation: Incarnation) -> Vec<Effect> {
        if self.workers.remove(&incarnation).is_none() {
            return Vec::new();
        }
        let mut effects = self.void_tickets_of(incarnation);
        effects.extend(self.reassign(Step::ZERO, None));
        effects.extend(self.finish_when_all_left());
        effects
    }

    /// Time has passed: workers that were silent for a lease are taken for dead.
    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let lease = self.settings.lease;
        let dead: Vec<(Incarnation, u32)> = self
            .workers
            .iter()
            .filter(|(_, worker)| now.saturating_sub(worker.heard_at) > lease && !planted(Bug::MissingFence))
            .map(|(incarnation, worker)| (*incarnation, worker.number))
            .collect();
        let mut effects = Vec::new();
        for (incarnation, number) in &dead {
            let message =
                format!("worker {number} was silent for over {} ms; its slots move to the others", lease.as_millis());
            effects.push(Effect::Warn(message.clone()));
            effects.push(Effect::Notify(*incarnation, Notice::Fenced(Refusal::new(RefusalCause::Fenced, message))));
            self.workers.remove(incarnation);
            effects.extend(self.void_tickets_of(*incarnation));
        }
        if !dead.is_empty() && !planted(Bug::SlotsNotMoved) {
            effects.extend(self.reassign(Step::ZERO, None));
            effects.extend(self.finish_when_all_left());
        }
        effects.extend(self.watch_progress(now));
        effects
    }

    /// Shares the slots among the living. `joiner` learns its share from the answer to its join.
    fn reassign(&mut self, from_step: Step, joiner: Option<Incarnation>) -> Vec<Effect> {
        self.epoch += 1;
        let complete = self.complete_step();
        let under_way = complete.map_or(Step::ZERO, Step::next);
        let mut moved = false;
        let initialized = complete.is_some();
        // Where everybody stands back, nobody does: whoever has slots is watched, or one that is cut off could
        // keep the step under way for good.
        if !self.workers.values().any(Worker::is_eligible) {
            self.workers.values_mut().for_each(|worker| worker.behind = None);
        }
        let mut by_number: Vec<(&Incarnation, &mut Worker)> = self.workers.iter_mut().collect();
        by_number.sort_by_key(|(_, worker)| worker.number);
        let sharing = by_number.iter().filter(|(_, worker)| worker.is_eligible()).count();
        let shares = match self.settings.consistency.mode.has_tickets() {
            // Nobody owns slots: a ticket is all slots of its step.
            true => Vec::new(),
            false => split_slots(self.settings.slots, sharing),
        };
        let mut shares = shares.into_iter();
        let mut initializer = !initialized && self.settings.initial_tensors.is_none();
        let mut effects = Vec::new();
        for (incarnation, worker) in by_number {
            let shares_in = worker.is_eligible();
            let nodes = if shares_in { shares.next().unwrap_or_default() } else { Vec::new() };
            let initialize = shares_in && std::mem::take(&mut initializer);
            let assignment = Assignment { epoch: self.epoch, from_step, nodes, initialize };
            let before = worker.nodes_at(under_way).to_vec();
            worker.assign(assignment.clone(), complete);
            moved |= worker.nodes_at(under_way) != before;
            if Some(*incarnation) != joiner {
                effects.push(Effect::Notify(*incarnation, Notice::Assignment(assignment)));
            }
        }
        // Whoever computes the step under way from now on gets time for it. A spare's coming and going moves nothing
        // and must not be an excuse for who holds the step up.
        if moved || !initialized {
            self.watch.restart();
            self.missing_asked = None;
        }
        effects
    }

    fn warn_of_mixed_fingerprints(&self, joining: &Fingerprint) -> Vec<Effect> {
        let other = self.workers.values().find(|worker| worker.fingerprint != *joining);
        other
            .map(|worker| {
                Effect::Warn(format!(
                    "workers differ ({} / {joining}): the trained bits may depend on who computes what (promise P2 is off)",
                    worker.fingerprint
                ))
            })
            .into_iter()
            .collect()
    }

    // ---- the end ----

    fn check_not_stopped(&self) -> Result<(), Refusal> {
        match &self.stopped {
            Some(refusal) => Err(Refusal::new(RefusalCause::JobStopped, format!("the job has stopped: {refusal}"))),
            None => Ok(()),
        }
    }

    fn stop(&mut self, refusal: Refusal) -> Vec<Effect> {
        if self.finished || self.stopped.is_some() {
            return Vec::new();
        }
        self.stopped = Some(refusal.clone());
        let mut effects = self.order_all(&Order::Halt(refusal.clone()));
        effects.extend(self.notify_all(&Notice::Stopped(refusal)));
        effects
    }

    /// Once the last worker has left a finished job, its servers may go too. A job that only tools
    /// ever spoke to keeps its servers.
    fn finish_when_all_left(&mut self) -> Vec<Effect> {
        if !self.finished || self.workers_joined == 0 || !self.workers.is_empty() {
            return Vec::new();
        }
        self.order_all(&Order::Finish(self.settings.steps))
    }

    fn notify_all(&self, notice: &Notice) -> Vec<Effect> {
        self.workers.keys().map(|incarnation| Effect::Notify(*incarnation, notice.clone())).collect()
    }

    // ---- reading ----

    /// How the job stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if let Some(refusal) = &self.stopped {
            return Phase::Stopped(refusal.clone());
        }
        match (self.servers.iter().all(Option::is_some), self.all_placed(), self.complete_step()) {
            _ if self.finished => Phase::Finished,
            (false, ..) => Phase::WaitingForServers,
            (true, false, _) => Phase::WaitingForWorkers,
            (true, true, None) => Phase::Initializing,
            (true, true, Some(_)) if self.hold.is_some() => Phase::Paused,
            (true, true, Some(_)) => Phase::Training,
        }
    }

    /// The servers, by index; `None` for one that is not here.
    #[must_use]
    pub fn servers(&self) -> &[Option<Server>] {
        &self.servers
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &BTreeMap<Incarnation, Worker> {
        &self.workers
    }

    /// What each server holds; empty before there is a model.
    #[must_use]
    pub fn holdings(&self) -> &[Holding] {
        &self.holdings
    }

    /// Bytes reserved on a server that holds so many elements.
    #[must_use]
    pub fn reserved_bytes(&self, holding: Holding) -> u64 {
        self.settings.demand.reserved(holding.elements, self.workers.len() as u64)
    }

    /// The model and who holds it, once shown.
    #[must_use]
    pub fn model(&self) -> Option<&(Manifest, Placement)> {
        self.model.as_ref()
    }
}

fn holdings(manifest: &Manifest, placement: &Placement) -> Vec<Holding> {
    let mut holdings = vec![Holding::default(); placement.servers().len()];
    for (block, range) in all_blocks(manifest, placement.block_elements()) {
        if let Some(holding) = placement.server_of(block).and_then(|owner| holdings.get_mut(owner.0 as usize)) {
            holding.blocks += 1;
            holding.elements += range.end - range.start;
        }
    }
    holdings
}

fn check_initial_tensors(initial: &BTreeMap<String, Vec<u64>>, manifest: &Manifest) -> Result<(), Refusal> {
    let mut lines = Vec::new();
    for tensor in manifest.tensors().iter().filter(|tensor| !matches!(tensor.role, Role::Tied(_))) {
        match initial.get(&tensor.name) {
            None => lines.push(format!("{:?} is in the model, not in the file", tensor.name)),
            Some(shape) if *shape != tensor.shape => {
                lines.push(format!("{:?}: the model has shape {:?}, the file {shape:?}", tensor.name, tensor.shape));
            }
            Some(_) => {}
        }
    }
    let known = |name: &String| manifest.tensors().iter().any(|tensor| tensor.name == *name);
    lines.extend(
        initial.keys().filter(|name| !known(name)).map(|name| format!("{name:?} is in the file, not in the model")),
    );
    if lines.is_empty() {
        return Ok(());
    }
    let message = format!("job.init_from does not fit the worker's model: {}", lines.join("; "));
    Err(Refusal::new(RefusalCause::ManifestMismatch, message))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
