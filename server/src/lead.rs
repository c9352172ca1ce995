//! The lead's edge: carries out what `state` decides.
//!
//! One lock around the state and the links keeps effects in the order of the decisions. Nothing
//! waits under it: links are bounded channels, and one that is full is cut.

pub(crate) mod assignment;
pub mod control_service;
mod cuts;
mod initial_weights;
mod keeper;
mod quorum;
mod state;
mod status;
mod ticket_desk;
mod tickets;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halflife_optim::{Optimizer, StepFactors};
use halflife_proto::ids::{Generation, Incarnation, ServerIndex, Step};
use halflife_proto::job::JobDescription;
use halflife_proto::manifest::Role;
use halflife_proto::membership::{Notice, Order, Report};
use halflife_proto::placement::ServerAddress;
use halflife_proto::refusal::Refusal;
use halflife_proto::slots::SlotTree;
use halflife_proto::tensor_codec::Dtype;
use halflife_proto::trace::Spans;
use halflife_proto::v1;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{error, info, warn};

pub use cuts::{Cuts, Told};
pub use initial_weights::{InitialWeights, InitialWeightsError};
pub use keeper::{Keeper, TORN, UNDONE, VOIDED};
pub(crate) use keeper::{NO_GROUP, schedule};
pub use quorum::Quorum;
pub use state::{Demand, Forming, Keeping, LeadState, Phase, Restored, Server, Settings};
pub use tickets::{Consequences, Tickets};

use crate::config::JobSpec;
use crate::shard::Identity;
use crate::telemetry::LeadSpans;
use keeper::NotCommitted;
use state::{Effect, Heard, Written};
use ticket_desk::TicketDesk;

/// The lead's decisions, for the simulator that carries them out in virtual time.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation {
    pub use super::state::{Effect, Heard, Joined, Worker, Written};
}

/// What a job may need of memory, per element: see [`Demand`].
pub(crate) fn demand(spec: &JobSpec, optimizer: &Optimizer) -> Demand {
    let f32 = size_of::<f32>() as u64;
    let coded = if spec.wire.weights.is_lossy() { spec.wire.weights.encoded_bytes(1) as u64 } else { 0 };
    let planes: u64 = optimizer.planes().iter().map(|plane| plane.dtype.bytes() as u64).sum();
    // A rule that waits for norms holds the whole gradient once more.
    let summed = if optimizer.reductions().is_empty() && !optimizer.needs_whole_tensors() { 0 } else { f32 };
    let gradient_bytes = match spec.wire.gradients {
        Dtype::F32 => f32,
        Dtype::Bf16 => 2,
        Dtype::I8Scaled => 2, // a byte and its share of the scales
    };
    // While a checkpoint is written, a version of the weights and the planes once more.
    let kept = if spec.checkpoint.is_some() { f32 + coded + planes } else { 0 };
    let state_bytes = 2 * (f32 + coded) + planes + summed + kept;
    let (slots, pushes) = if spec.job.mode.has_tickets() { (0, 1) } else { (u64::from(spec.job.slots), 0) };
    Demand { state_bytes, gradient_bytes, slots, pushes }
}

/// What tensors of no parameter group are told under.
const WITHOUT_GROUP: &str = "(none)";

/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(50);

/// The lead of a job.
#[derive(Debug)]
pub struct Lead {
    identity: Identity,
    spec: JobSpec,
    optimizer: Optimizer,
    initial_weights: Option<Arc<InitialWeights>>,
    keeper: Option<Keeper>,
    /// Whether this lead's generation is over.
    over: watch::Sender<bool>,
    started: Instant,
    inner: Mutex<Inner>,
    /// Changes whenever the state may have; for whoever waits for a phase.
    changed: watch::Sender<()>,
    tickets: TicketDesk,
    spans: LeadSpans,
}

#[derive(Debug)]
struct Inner {
    state: LeadState,
    servers: HashMap<ServerIndex, mpsc::Sender<Order>>,
}

impl Lead {
    /// The lead of a job that nobody has come to yet; the roots of its steps' traces go to `spans`.
    #[must_use]
    pub fn new(
        identity: Identity,
        spec: JobSpec,
        initial_weights: Option<InitialWeights>,
        keeper: Option<Keeper>,
        spans: Spans,
    ) -> Arc<Lead> {
        let optimizer = Optimizer::new(&spec.optimizer, spec.job.steps).expect("a job spec has a valid optimizer");
        let norms_of_tensors = optimizer.reductions().iter().any(|reduction| !reduction.is_global());
        let settings = Settings {
            whole_tensors: optimizer.needs_whole_tensors() || norms_of_tensors,
            servers: spec.job.servers,
            slots: SlotTree::new(spec.job.slots).expect("a job spec has at least one slot"),
            steps: Step(spec.job.steps),
            block_elements: spec.job.block_elements,
            initial_tensors: initial_weights.as_ref().map(InitialWeights::shapes),
            lease: Duration::from_millis(spec.membership.lease_ms),
            consistency: spec.job.consistency(),
            demand: demand(&spec, &optimizer),
            checkpoints: keeper.as_ref().map(|keeper| keeper.keeping().clone()),
            forming: spec.membership.servers_min.map(|servers_min| Forming {
                servers_min,
                wait: Duration::from_millis(spec.membership.server_wait_ms),
            }),
        };
        let consistency = spec.job.consistency();
        let why = consistency.why_not_reproducible(spec.job.slots).or(spec.wire.why_not_reproducible());
        if let Some(why) = why {
            warn!("P2 is off, the trained bits depend on who computed what: {why}");
        }
        let inner = Inner { state: LeadState::new(settings), servers: HashMap::new() };
        Arc::new(Lead {
            spans: LeadSpans::new(spans, identity.job.clone(), identity.generation),
            identity,
            optimizer,
            spec,
            initial_weights: initial_weights.map(Arc::new),
            keeper,
            over: watch::Sender::new(false),
            started: Instant::now(),
            inner: Mutex::new(inner),
            changed: watch::Sender::new(()),
            tickets: TicketDesk::default(),
        })
    }

    /// Who leads.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Resolves once this generation is over; [`Lead::dissolve`] then lets its servers go.
    pub async fn is_over(&self) {
        // The sender lives as long as `self`.
        drop(self.over.subscribe().wait_for(|over| *over).await);
    }

    /// Lets go of every server: each loses its link, and comes back to whoever leads then.
    pub fn dissolve(&self) {
        self.lock().servers.clear();
    }

    /// Another lead has begun this later generation: this one's is over.
    pub fn superseded(self: &Arc<Self>, by: Generation) {
        self.decide(|state, _| ((), state.superseded(by)));
    }

    /// What it keeps of checkpoints.
    #[must_use]
    pub fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref()
    }

    /// The job.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// What everyone may know of the job.
    #[must_use]
    pub fn description(&self) -> JobDescription {
        let job = &self.spec.job;
        JobDescription {
            id: self.identity.job.clone(),
            generation: self.identity.generation,
            seed: job.seed,
            slots: job.slots,
            steps: job.steps,
            block_elements: job.block_elements,
            combine: job.combine,
            consistency: job.consistency(),
            workload_toml: self.spec.workload_toml(),
            spec_revision: self.keeper.as_ref().map_or(0, Keeper::spec_revision),
            optimizer_toml: self.spec.optimizer_toml(),
            wire: self.spec.wire,
            keeps_checkpoints: self.keeper.is_some(),
        }
    }

    /// Learning rate and decay factor of the newest complete step, for the first trainable tensor (0 before
    /// step 1).
    fn factors(&self, state: &LeadState) -> (f64, f64) {
        let step = state.complete_step().unwrap_or(Step::ZERO);
        let first = state
            .model()
            .and_then(|(manifest, _)| manifest.tensors().iter().find(|tensor| tensor.role == Role::Trainable));
        match (first, step) {
            (None, _) | (_, Step::ZERO) => (0.0, 0.0),
            (Some(tensor), step) => {
                let shape: Vec<usize> = tensor.shape.iter().map(|dim| *dim as usize).collect();
                let factors = self.optimizer.factors(&self.optimizer.tensor(&tensor.name, &shape), step.0, step.0);
                (factors.lr(), factors.decay())
            }
        }
    }

    /// Learning rate and decay factor of each parameter group at `step` (0 at step 0), those of no group first.
    pub(crate) fn group_factors(&self, step: Step) -> Vec<(String, f64, f64)> {
        let mut told: Vec<(String, f64, f64)> = Vec::new();
        for (index, rule) in self.optimizer.group_rules().iter().enumerate() {
            let name = rule.group().unwrap_or(WITHOUT_GROUP);
            // Nothing forbids two groups of one name.
            let is_taken = told.iter().any(|(known, ..)| known == name);
            let name = if is_taken { format!("{name} #{index}") } else { name.to_owned() };
            let factors = (step > Step::ZERO).then(|| self.optimizer.factors(rule, step.0, step.0));
            told.push((
                name,
                factors.as_ref().map_or(0.0, StepFactors::lr),
                factors.as_ref().map_or(0.0, StepFactors::decay),
            ));
        }
        told
    }

    /// How the job stands.
    #[must_use]
    pub fn status(&self) -> v1::JobStatus {
        status::of(self)
    }

    /// How long it has led.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Reads the state.
    pub fn read<T>(&self, visit: impl FnOnce(&LeadState) -> T) -> T {
        visit(&self.lock().state)
    }

    /// Follows the state: wakes after every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Looks for silence until the process ends.
    pub async fn watch_leases(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            self.decide(|state, now| ((), state.tick(now)));
        }
    }

    /// Takes a server in: its index, and the orders it will get.
    ///
    /// # Errors
    /// As [`LeadState::register`].
    pub fn admit_server(
        self: &Arc<Self>,
        incarnation: Incarnation,
        address: ServerAddress,
        memory_max: Option<NonZeroU64>,
    ) -> Result<(ServerIndex, mpsc::Receiver<Order>), Refusal> {
        let (orders, receiver) = mpsc::channel(crate::node::CHANNEL_CAPACITY);
        let mut inner = self.lock();
        let index = inner.state.register(incarnation, address.clone(), memory_max)?;
        info!(%index, url = address.url, "a server has joined the job");
        inner.servers.insert(index, orders);
        drop(inner);
        self.changed.send_replace(());
        self.decide(|state, _| ((), state.restore_once_complete()));
        Ok((index, receiver))
    }

    /// Takes a server's reports until they end, which is the loss of the server.
    pub async fn follow_server(self: Arc<Self>, index: ServerIndex, mut reports: mpsc::Receiver<Report>) {
        while let Some(report) = reports.recv().await {
            self.decide(|state, now| {
                let effects = match report {
                    Report::Placed(_) => state.placed(index),
                    Report::Complete(step) => state.complete(index, step),
                    Report::Partial(partial) => state.partial(partial),
                    Report::Slots { step, slots } => state.slots_complete(index, step, &slots),
                    Report::Pushes(pushes) => state.pushes(index, &pushes),
                    Report::Halted(refusal) => {
                        error!(%index, %refusal, "a server has halted");
                        state.halted(refusal)
                    }
                    Report::Missing(step, slots) => state.missing(now, step, &slots),
                    Report::LastStep(step) => state.last_step(index, step),
                    Report::CutPassed { step, newest } => state.cut_passed(index, step, newest),
                    Report::CutTaken(step) => state.cut_taken(index, step),
                    Report::Saved(step, file) => state.saved(index, step, file),
                    Report::SaveFailed(step, reason) => state.save_failed(index, step, &reason),
                    Report::Load(load) => {
                        state.load(index, load);
                        Vec::new()
                    }
                    Report::Register { .. } => Vec::new(), // already registered
                };
                ((), effects)
            });
        }
        // The link goes before the place is free, so that a successor's link is never the one removed.
        self.lock().servers.remove(&index);
        self.decide(|state, _| ((), state.server_lost(index)));
    }

    /// What a worker is told, from now until it is fenced or the job stops. Read off the state whenever
    /// that has changed, so that a slow reader finds the newest and nothing queues up.
    fn notices(self: &Arc<Self>, incarnation: Incarnation) -> impl Stream<Item = Notice> + use<> {
        let (notices, receiver) = mpsc::channel(1);
        let lead = self.clone();
        tokio::spawn(async move {
            let mut changes = lead.changes();
            let mut heard = Heard::default();
            loop {
                changes.mark_unchanged();
                let untold = lead.read(|state| state.notices(incarnation, &mut heard));
                for notice in untold {
                    let last = matches!(notice, Notice::Fenced(_) | Notice::Stopped(_));
                    if notices.send(notice).await.is_err() || last {
                        return;
                    }
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = notices.closed() => return,
                }
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Lets the state decide and carries out what follows, as one.
    fn decide<T>(self: &Arc<Self>, decide: impl FnOnce(&mut LeadState, Duration) -> (T, Vec<Effect>)) -> T {
        let mut inner = self.lock();
        let now = self.started.elapsed();
        inner.state.clock(now);
        let (result, effects) = decide(&mut inner.state, now);
        let acted = !effects.is_empty();
        for effect in effects {
            self.carry_out(&mut inner, effect);
        }
        let complete = self.spans.is_on().then(|| inner.state.complete_step()).flatten();
        drop(inner);
        if let Some(step) = complete {
            self.spans.complete(step);
        }
        if acted {
            self.changed.send_replace(());
        }
        result
    }

    fn carry_out(self: &Arc<Self>, inner: &mut Inner, effect: Effect) {
        match effect {
            Effect::Order(index, order) => {
                // A closed link is a lost server, which `follow_server` hears of by itself.
                let full = inner
                    .servers
                    .get(&index)
                    .is_some_and(|orders| matches!(orders.try_send(order), Err(TrySendError::Full(_))));
                if full {
                    warn!(%index, "a server does not take its orders; it is cut off");
                    inner.servers.remove(&index);
                }
            }
            // Whoever follows the worker's notices finds it in the state, once `changed` has fired.
            Effect::Notify(..) | Effect::HoldChanged => {}
            Effect::LoadInitialWeights => {
                let servers = inner.servers.clone();
                let model = inner.state.model().cloned();
                if let (Some(weights), Some((manifest, placement))) = (self.initial_weights.clone(), model) {
                    let generation = self.identity.generation;
                    tokio::spawn(async move { weights.send(generation, &manifest, &placement, &servers).await });
                }
            }
            Effect::Commit(written) => {
                let lead = self.clone();
                tokio::spawn(async move { lead.commit(&written).await });
            }
            Effect::LetGo(index) => {
                info!(%index, "a server is to take the place of one that is lost");
                inner.servers.remove(&index);
            }
            Effect::Recover(why) => {
                warn!("{why}: this generation of the job is over");
                self.over.send_replace(true);
            }
            Effect::TicketReady(worker) => self.tickets.call(worker),
            Effect::Warn(message) => warn!("{message}"),
        }
    }

    async fn commit(self: Arc<Self>, written: &Written) {
        let Some(keeper) = &self.keeper else { return };
        let error = match keeper.commit(&self, written).await {
            Ok(()) => None,
            Err(NotCommitted::Failed(error)) => Some(error),
            Err(NotCommitted::Fenced(newest)) => return self.superseded(newest),
        };
        let is_committed = error.is_none();
        // With the last one the job is finished, and its servers may end before anything is thrown away.
        let is_last = self.read(|state| state.cuts().is_some_and(|cuts| cuts.is_last(written.step)));
        if is_committed && is_last {
            keeper.prune().await;
        }
        self.decide(|state, _| ((), state.checkpoint_ended(written.step, error)));
        if is_committed && !is_last {
            keeper.prune().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // The state machine's methods do not panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
