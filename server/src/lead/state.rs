//! What the lead decides: who takes part, who computes what, how the job stands.
//!
//! A plain state machine: every method takes the time it happens at (since the lead's start) and
//! returns what to do about it as [`Effect`]s. No I/O, no clock, no randomness; the edges
//! (`lead.rs`, `lead/control_service.rs`) carry the effects out in order.
//!
//! An assignment is advice, never a permission: a slot computed twice counts once (rule 1), so the
//! machine only has to make sure that every slot is assigned to somebody living.

mod forming;
mod keeping;
mod members;
mod memory;
mod model;
mod modes;
mod operate;
mod parties;
mod progress;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::time::Duration;

use halflife_optim::Sums;
use halflife_proto::blocks::{BlockId, block_count};
use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::manifest::{Manifest, Role};
use halflife_proto::membership::{BlockSums, Notice, Order, Partial, ServerLoad, Total};
use halflife_proto::placement::{Placement, ServerAddress};
use halflife_proto::refusal::{Refusal, RefusalCause};

use super::cuts::Cuts;
use modes::Decider;

pub use forming::Forming;
pub use keeping::{Keeping, Restored};
pub use memory::Demand;
use operate::Ending;
pub use parties::{Effect, Heard, Holding, Joined, Phase, Server, Settings, Worker, Written};
pub use progress::Behind;
use watch::ProgressWatch;

/// Workers of a job that was at its end when it was started again come within so many leases of each other.
const LATECOMERS_LEASES: u32 = 2;

/// The lead's state.
#[derive(Debug)]
pub struct LeadState {
    settings: Settings,
    /// By index; `None` until one registers (again).
    servers: Vec<Option<Server>>,
    workers: BTreeMap<Incarnation, Worker>,
    workers_joined: u32,
    /// Since when nobody takes part any more in a job that is finished.
    alone_since: Option<Duration>,
    model: Option<(Manifest, Placement)>,
    /// By server, once there is a model.
    holdings: Vec<Holding>,
    initial_weights_sent: bool,
    /// Parts of a norm over the model, until every block's is there.
    norm: Option<((Step, u32), BTreeMap<BlockId, BlockSums>)>,
    epoch: u64,
    decider: Decider,
    /// Servers whose blocks change: the others have nothing to tell of slots and pushes.
    changing_servers: BTreeSet<ServerIndex>,
    watch: ProgressWatch,
    /// The step that servers were asked for the missing slots of, until an answer was acted upon.
    missing_asked: Option<Step>,
    hold: Option<Step>,
    ending: Option<Ending>,
    finished: bool,
    /// The servers were told to go.
    released: bool,
    stopped: Option<Refusal>,
    /// In a job that keeps checkpoints.
    cuts: Option<Cuts>,
    /// Void and torn tickets when the cut under way was ordered: later ones are beyond it.
    cut_tickets: Option<(u64, u64)>,
    /// Why the job goes back to its last checkpoint, once it has to.
    recovering: Option<String>,
    /// A server was let go, to come back with another number: until then it is waited for.
    regrouping_until: Option<Duration>,
    /// The newest time it was told.
    now: Duration,
}

impl LeadState {
    /// A job that nobody has come to yet.
    #[must_use]
    pub fn new(settings: Settings) -> LeadState {
        LeadState {
            servers: vec![None; settings.servers as usize],
            decider: Decider::new(&settings),
            cuts: settings.checkpoints.as_ref().map(|keeping| keeping.cuts(settings.steps)),
            cut_tickets: None,
            recovering: None,
            regrouping_until: None,
            now: Duration::ZERO,
            changing_servers: BTreeSet::new(),
            settings,
            workers: BTreeMap::new(),
            workers_joined: 0,
            alone_since: None,
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
            released: false,
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
            if self.cuts.is_some() {
                // One of them may be the one that this process comes back for: its loss is not seen yet.
                let message = format!("all {} servers of the job are registered", self.servers.len());
                return Err(Refusal::new(RefusalCause::NotReady, message));
            }
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
        if self.is_restored() {
            return Vec::new();
        }
        let mut effects = if self.all_placed() { self.look_for_cut() } else { Vec::new() };
        let from_file = self.settings.initial_tensors.is_some();
        if self.all_placed() && from_file && !std::mem::replace(&mut self.initial_weights_sent, true) {
            effects.push(Effect::LoadInitialWeights);
        }
        effects
    }

    /// All blocks of a server are complete at a step.
    pub fn complete(&mut self, index: ServerIndex, step: Step) -> Vec<Effect> {
        let was_initialized = self.complete_step().is_some();
        if let Some(server) = self.server_mut(index) {
            server.complete = server.complete.max(Some(step));
        }
        let opens = !was_initialized && self.tickets().is_some();
        let mut effects = if opens { self.open_tickets() } else { Vec::new() };
        effects.extend(self.look_for_cut());
        effects.extend(self.finish_if_complete());
        effects
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

    /// Every step is complete. Nobody is told before the last checkpoint is made: until then the job may have to go back,
    /// and would miss whoever had left.
    fn finish_once(&mut self) -> Vec<Effect> {
        if self.finished || self.stopped.is_some() || !self.has_nothing_to_save() {
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
    /// without a checkpoint to come back from, that ends an unfinished job. Of a finished one the workers that have not
    /// left may still have to read the last weights.
    pub fn server_lost(&mut self, index: ServerIndex) -> Vec<Effect> {
        let Some(place) = self.servers.get_mut(index.0 as usize) else { return Vec::new() };
        let Some(server) = place.take_if(|_| self.model.is_none()).or_else(|| place.clone()) else { return Vec::new() };
        let message = format!("{index} ({}) is lost", server.address.url);
        if self.finished && (self.cuts.is_none() || self.workers.is_empty() || self.released) {
            return Vec::new(); // it had nothing left to do
        }
        if self.model.is_none() {
            return vec![Effect::Warn(message)];
        }
        if self.cuts.is_some() {
            return self.recover(message);
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

    // ---- the end ----

    fn check_not_stopped(&self) -> Result<(), Refusal> {
        match &self.stopped {
            Some(refusal) => Err(Refusal::new(RefusalCause::JobStopped, refusal.to_string())),
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
    /// ever spoke to keeps its servers. One that was at its end when it was started again waits for more workers for a while:
    /// a cluster that is started again sends all of its, and those that find no lead would come again and again.
    fn finish_when_all_left(&mut self) -> Vec<Effect> {
        if !self.finished || self.released || self.workers_joined == 0 || !self.workers.is_empty() {
            return Vec::new();
        }
        let alone_for = self.now.saturating_sub(*self.alone_since.get_or_insert(self.now));
        if self.began_at_its_end() && alone_for < LATECOMERS_LEASES * self.settings.lease {
            return Vec::new();
        }
        self.released = true;
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
            _ if self.recovering.is_some() => Phase::Restoring,
            _ if self.finished => Phase::Finished,
            (false, ..) => Phase::WaitingForServers,
            (true, _, None) if self.is_restored() => Phase::Restoring,
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

#[cfg(test)]
mod tests;
