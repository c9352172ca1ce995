//! The part of a job that one server holds: its blocks, and how a contribution travels through.
//!
//! contribution -> checks -> block -> (compute threads) -> new weights -> every session, and the
//! server's progress into a watch channel that the node reports from.
//!
//! Owns: the registry of blocks and sessions, the progress counter. Locks are held for a few
//! assignments, never while computing or sending.

mod cut;
mod ending;
#[cfg(feature = "simulation")]
mod inspection;
mod norms;
mod pushes;
mod reading;
#[cfg(test)]
pub(crate) mod sample;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use halflife_optim::{Optimizer, Reduction};
use halflife_proto::PROTOCOL_VERSION;
use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::contribution::{Acknowledgement, Contribution, Outcome, Push};
use halflife_proto::fault_point::{self, FaultPoint};
use halflife_proto::hello::{Fingerprint, Hello};
use halflife_proto::ids::{Generation, Incarnation, JobId, ServerIndex, Step};
use halflife_proto::manifest::{Manifest, Role, Tensor};
use halflife_proto::membership::{Partial, Report, ServerLoad};
use halflife_proto::placement::Placement;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::slots::{SlotRange, SlotTree};
use tokio::sync::watch;

use crate::block::{Applied, Block, Change, Contributed, Rules, Summer, Update, Version};
use crate::compute::{Compute, INLINE_WORK_MAX, Job};
use crate::config::JobSpec;
use crate::planted::{Bug, planted};
use crate::progress::Progress;
use crate::push_tally::PushTally;
use crate::reduction::Collecting;
use crate::registry::{Blocks, Sessions};
use crate::slot_tally::SlotTally;
use crate::telemetry::{Meter, SendSpans, ServerTrace, ShardSpans};
use cut::Cutting;
pub use cut::{CutAnswer, TakenCut};
use ending::Ending;
#[cfg(feature = "simulation")]
pub use inspection::BlockInspection;

/// Who a server is within its job.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The job.
    pub job: JobId,
    /// Incarnation of the job's state.
    pub generation: Generation,
    /// This process.
    pub incarnation: Incarnation,
    /// This build and machine.
    pub fingerprint: Fingerprint,
    /// The server's place in the job.
    pub index: ServerIndex,
}

impl Identity {
    /// How it introduces itself.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            job: Some(self.job.clone()),
            generation: self.generation,
            incarnation: self.incarnation,
            fingerprint: self.fingerprint.clone(),
        }
    }
}

/// What the lead wants to know of a shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Newest step complete on all blocks.
    pub complete: Option<Step>,
    /// Learning rate of that step.
    pub lr: f64,
    /// Why the shard takes nothing more.
    pub halted: Option<Refusal>,
}

/// What the compute threads of a server do.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one; boxing would allocate at every step")]
pub enum ShardJob {
    /// A block's step, the way of nearly all work.
    Update(Arc<Shard>, Arc<Block>, Update),
    /// A part of a round of norms.
    Task(Box<dyn FnOnce() + Send>),
}

impl fmt::Debug for ShardJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ShardJob::Update(..) => "Update",
            ShardJob::Task(_) => "Task",
        })
    }
}

impl Job for ShardJob {
    fn run(self, summer: &mut Summer) {
        match self {
            ShardJob::Update(shard, block, update) => shard.update(block, update, summer),
            ShardJob::Task(task) => task(),
        }
    }
}

/// The compute threads of a server.
pub type ShardCompute = Compute<ShardJob>;

/// A server's part of a job.
#[derive(Debug)]
pub struct Shard {
    identity: Identity,
    rules: Arc<Rules>,
    manifest: Manifest,
    placement: Placement,
    blocks: Blocks,
    sessions: Sessions,
    progress: Mutex<Progress>,
    ending: Ending,
    standing: watch::Sender<Standing>,
    compute: Arc<ShardCompute>,
    /// Norms that updates wait for, in this order.
    reductions: Vec<Reduction>,
    /// Blocks the optimizer moves.
    optimized: usize,
    collecting: Mutex<Collecting>,
    /// One at a time is under way: the next follows only on the total of the one before.
    partials: watch::Sender<Option<Partial>>,
    tally: Tally,
    /// Changes whenever the tally has something to tell the lead.
    news: watch::Sender<()>,
    /// The checkpoint that blocks set their state aside for.
    cutting: Mutex<Cutting>,
    /// Changes whenever a cut is taken.
    cuts: watch::Sender<()>,
    /// Steps up to this one survive every crash.
    durable: AtomicU64,
    meter: Arc<Meter>,
    /// Where steps are traced.
    spans: Option<ShardSpans>,
}

/// What is counted for the lead besides whole steps.
#[derive(Debug)]
enum Tally {
    /// Nothing: every slot makes a step.
    Steps,
    /// With a quorum.
    Slots(Mutex<SlotTally>),
    /// In the asynchronous modes.
    Pushes(Mutex<PushTally>),
}

impl Shard {
    /// The empty blocks that `placement` gives this server, which counts in `meter`.
    ///
    /// # Errors
    /// When the job's optimizer cannot be built, which its lead has already checked.
    pub fn new(
        identity: Identity,
        spec: &JobSpec,
        manifest: Manifest,
        placement: Placement,
        compute: Arc<ShardCompute>,
        meter: Arc<Meter>,
    ) -> Result<Arc<Shard>, Refusal> {
        let malformed = |message: String| Refusal::new(RefusalCause::Malformed, message);
        let optimizer =
            Optimizer::new(&spec.optimizer, spec.job.steps).map_err(|error| malformed(error.to_string()))?;
        let slots = SlotTree::new(spec.job.slots).ok_or_else(|| malformed("a job without slots".to_owned()))?;
        let rules = Arc::new(Rules {
            optimizer,
            slots,
            combine: spec.job.combine,
            nonfinite: spec.job.nonfinite,
            steps: Step(spec.job.steps),
            wire: spec.wire,
            consistency: spec.job.consistency(),
        });
        let blocks = Blocks::default();
        let (mut count, mut changing, mut optimized) = (0, 0, 0);
        let changes: Vec<Change> =
            manifest.tensors().iter().map(|tensor| change_of(tensor, &rules.optimizer)).collect();
        for (id, range) in all_blocks(&manifest, placement.block_elements()) {
            if placement.server_of(id) == Some(identity.index) {
                let elements = (range.end - range.start) as usize;
                let tensor = id.tensor.0 as usize;
                let shape = shape_of(&manifest.tensors()[tensor]);
                let change = changes[tensor].clone();
                optimized += usize::from(matches!(change, Change::Optimized(_)));
                let block = Block::new(id, elements, &shape, change, rules.clone());
                count += 1;
                changing += usize::from(block.changes());
                blocks.insert(block);
            }
        }
        let reductions = rules.optimizer.reductions();
        let progress = Progress::new(count, changing);
        let ending = Ending::at(rules.steps);
        let standing = Standing { complete: standing_step(&progress, rules.steps), ..Standing::default() };
        let tally = match (rules.has_tickets(), rules.has_quorum()) {
            (true, _) => Tally::Pushes(Mutex::new(PushTally::new(changing))),
            (false, true) => Tally::Slots(Mutex::new(SlotTally::new(changing, rules.slots.slots()))),
            (false, false) => Tally::Steps,
        };
        let spans = ShardSpans::new(trace_of(&identity, &meter), changing);
        Ok(Arc::new(Shard {
            spans,
            identity,
            rules,
            manifest,
            placement,
            blocks,
            sessions: Sessions::default(),
            progress: Mutex::new(progress),
            ending,
            standing: watch::Sender::new(standing),
            compute,
            reductions,
            optimized,
            collecting: Mutex::default(),
            partials: watch::Sender::new(None),
            tally,
            news: watch::Sender::new(()),
            cutting: Mutex::default(),
            cuts: watch::Sender::new(()),
            durable: AtomicU64::new(0),
            meter,
        }))
    }

    /// Who this server is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The model.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Follows what the lead wants to know.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Newest step complete on all blocks here; in the asynchronous modes, the oldest of their versions.
    #[must_use]
    pub fn complete(&self) -> Option<Step> {
        let complete = self.with_progress(|progress| progress.complete())?;
        if !self.rules.has_tickets() {
            return Some(complete);
        }
        let changing = self.blocks.all().into_iter().filter(|block| block.changes());
        changing.map(|block| block.current().map(|version| version.step)).min().unwrap_or(Some(complete))
    }

    // ---- contributions ----

    /// Takes a contribution (step 0: an initialization).
    ///
    /// # Errors
    /// A [`Refusal`] with what was expected and what came; nothing has changed.
    pub fn contribute(self: &Arc<Self>, contribution: Contribution) -> Result<Acknowledgement, Refusal> {
        self.check_running()?;
        if contribution.generation != self.identity.generation && !planted(Bug::OldGenerationAccepted) {
            return Err(Refusal::mismatch(
                RefusalCause::WrongGeneration,
                "contribution",
                self.identity.generation,
                contribution.generation,
            ));
        }
        let block = self.find(contribution.block)?;
        let Contribution { step, slots, push, .. } = contribution;
        if let Some(push) = push {
            self.check_ticket(push.ticket)?;
        }
        let contributed = self.ending.hold(|last| {
            if !self.rules.has_tickets() {
                self.check_not_ahead(step, last)?;
            }
            block.contribute(contribution)
        })?;
        // Before anything is computed, since the last update ends the step.
        if let (Some(spans), true) = (&self.spans, contributed.counts()) {
            spans.contributed(push.map_or(step, |push| push.ticket.step()));
        }
        let outcome = match contributed {
            Contributed::Noted(outcome) => self.noted(outcome, step, slots, push)?,
            Contributed::Initialized => {
                self.collect_cut(&block);
                if let Some(version) = block.current() {
                    self.publish(&block, &version);
                }
                Outcome::Added
            }
            Contributed::Ready(outcome, update) => {
                self.compute(block.clone(), update);
                outcome
            }
            Contributed::Halt(refusal) => {
                self.halt(refusal.clone());
                return Err(Refusal::new(RefusalCause::JobStopped, refusal.to_string()));
            }
        };
        let (generation, ticket) = (self.identity.generation, push.map(|push| push.ticket));
        let durable_step = self.durable();
        let acknowledgement =
            Acknowledgement { block: block.id(), generation, step, slots, outcome, durable_step, ticket };
        self.meter.contributed(&acknowledgement);
        Ok(acknowledgement)
    }

    /// What is to be done with a contribution that the block has noted.
    fn noted(&self, outcome: Outcome, step: Step, slots: SlotRange, push: Option<Push>) -> Result<Outcome, Refusal> {
        match (&self.tally, outcome, push) {
            (Tally::Slots(tally), Outcome::Added, _) => {
                let is_news = lock(tally).added(step, slots.begin);
                if is_news {
                    self.news.send_replace(());
                }
            }
            (Tally::Pushes(tally), Outcome::Duplicate | Outcome::AlreadyApplied, Some(push)) => {
                self.push_came_again(tally, push.ticket)?;
            }
            _ => {}
        }
        Ok(outcome)
    }

    // ---- what the lead decides ----

    /// Makes `step` up of exactly these slots.
    ///
    /// # Errors
    /// When the job has to stop, or a block lacks one of them: then it has to, too.
    pub fn close(self: &Arc<Self>, step: Step, slots: &[u32]) -> Result<(), Refusal> {
        let mut small = Vec::new();
        for block in self.blocks.all().into_iter().filter(|block| block.changes()) {
            match block.close(step, slots)? {
                Some(Contributed::Ready(_, update)) if update.work() > INLINE_WORK_MAX => self.compute(block, update),
                Some(Contributed::Ready(_, update)) => small.push((block, update)),
                Some(Contributed::Halt(refusal)) => {
                    self.halt(refusal.clone());
                    return Err(refusal);
                }
                _ => {}
            }
        }
        // All at once, since together they may be too much for a thread of the runtime.
        let (shard, work) = (self.clone(), small.iter().map(|(_, update)| update.work()).sum());
        self.run_later(work, move || {
            let mut summer = Summer::default();
            small.into_iter().for_each(|(block, update)| shard.update(block, update, &mut summer));
        });
        Ok(())
    }

    /// Changes whenever [`Shard::take_news`] has something.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// What the lead was not told yet.
    #[must_use]
    pub fn take_news(&self) -> Option<Report> {
        match &self.tally {
            Tally::Steps => None,
            Tally::Slots(tally) => lock(tally).take_news().map(|(step, slots)| Report::Slots { step, slots }),
            Tally::Pushes(tally) => lock(tally).take_news().map(Report::Pushes),
        }
    }

    fn find(&self, id: BlockId) -> Result<Arc<Block>, Refusal> {
        if let Some(block) = self.blocks.get(id) {
            return Ok(block);
        }
        match self.placement.server_of(id) {
            Some(owner) => {
                Err(Refusal::mismatch(RefusalCause::NotOwner, format!("owner of {id}"), owner, self.identity.index))
            }
            None => {
                let tensors = self.manifest.tensors().len();
                let expected = match self.manifest.get(id.tensor) {
                    Some(tensor) => format!("a block of {:?} ({} elements)", tensor.name, tensor.elements()),
                    None => format!("one of {tensors} tensors"),
                };
                Err(Refusal::mismatch(RefusalCause::UnknownBlock, "block id", expected, id))
            }
        }
    }

    /// A contribution beyond the step after the newest complete one would let blocks drift more than
    /// one step apart.
    fn check_not_ahead(&self, step: Step, last: Step) -> Result<(), Refusal> {
        let (next, complete) = self.with_progress(|progress| (progress.next(), progress.complete()));
        if step <= next.min(last) {
            return Ok(());
        }
        if step > last {
            let expected = format!("at most {last}, with which the job ends");
            return Err(Refusal::mismatch(RefusalCause::StepAhead, "contribution", expected, step));
        }
        if complete.is_none() {
            return Err(Refusal::new(RefusalCause::NotInitialized, "not every block has weights yet"));
        }
        Err(Refusal::mismatch(RefusalCause::StepAhead, "contribution", format!("at most {next}"), step))
    }

    fn check_running(&self) -> Result<(), Refusal> {
        match &self.standing.borrow().halted {
            Some(refusal) => Err(Refusal::new(RefusalCause::JobStopped, refusal.to_string())),
            None => Ok(()),
        }
    }

    /// Waits while more contributions are under way than the compute threads need to be busy.
    pub async fn has_room(&self) {
        self.compute.has_room().await;
    }

    fn compute(self: &Arc<Self>, block: Arc<Block>, update: Update) {
        self.compute.run(update.work(), ShardJob::Update(self.clone(), block, update));
    }

    fn run_later(&self, work: usize, task: impl FnOnce() + Send + 'static) {
        self.compute.run(work, ShardJob::Task(Box::new(task)));
    }

    fn update(self: &Arc<Self>, block: Arc<Block>, update: Update, summer: &mut Summer) {
        if !update.needs_norms() {
            let mut next = Some(update);
            while let Some(update) = next {
                let (step, begun) = (update.step(), Instant::now());
                let applied = update.run(summer);
                self.note_applied(step, begun, 1);
                next = self.finish(&block, applied);
            }
            return;
        }
        let waiting = update.reduce(summer);
        let sums = waiting.sums();
        let round = self.with_collecting(|collecting| collecting.add((block, waiting, sums), self.optimized));
        if let Some(round) = round {
            // The last block may be a small one; the round is not.
            let shard = self.clone();
            self.run_later(round.work(), move || shard.advance(round));
        }
    }

    /// Updates of `blocks` blocks for `step` have taken the time since `begun`.
    fn note_applied(&self, step: Step, begun: Instant, blocks: usize) {
        let took = begun.elapsed();
        self.meter.applied(took);
        if let Some(spans) = &self.spans {
            spans.applied(step, took, blocks);
        }
    }

    /// What records the weights that are sent to a worker. In the asynchronous modes a version is no step, and nothing does.
    pub(crate) fn send_spans(&self) -> Option<SendSpans> {
        let trace = (!self.rules.has_tickets()).then(|| trace_of(&self.identity, &self.meter))?;
        SendSpans::new(trace)
    }

    /// Makes an update seen. In the asynchronous modes the next may wait for it already.
    fn finish(self: &Arc<Self>, block: &Block, applied: Applied) -> Option<Update> {
        let version = block.install(applied);
        fault_point::reach(FaultPoint::BlockApplied);
        // Before anybody learns of the version, and so could contribute to the next.
        self.collect_cut(block);
        let Tally::Pushes(tally) = &self.tally else {
            self.publish(block, &version);
            return None;
        };
        // Sent before it is counted: once the lead knows of it, it is in front of any mark to come.
        self.sessions.send_weights(block.id(), &version);
        let (settled, next) = block.settle();
        if settled.is_some_and(|settled| lock(tally).settled(settled)) {
            self.news.send_replace(());
        }
        next
    }

    /// Counts the block, then sends it: whoever holds the last block of a step must find the server
    /// ready for the next.
    fn publish(&self, block: &Block, version: &Version) {
        let completed = self.with_progress(|progress| {
            let completed = progress.block_done();
            completed.and_then(|_| standing_step(progress, self.rules.steps))
        });
        if let Some(step) = completed {
            self.meter.step_complete();
            self.standing.send_modify(|standing| {
                standing.complete = Some(step);
                standing.lr = version.lr;
            });
        }
        self.sessions.send_weights(block.id(), version);
    }

    fn with_progress<T>(&self, visit: impl FnOnce(&mut Progress) -> T) -> T {
        // The counter's methods do not panic half-way.
        visit(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    // ---- the end ----

    /// Takes nothing more; weights can still be read.
    pub fn halt(&self, refusal: Refusal) {
        self.standing.send_modify(|standing| {
            standing.halted.get_or_insert(refusal);
        });
    }

    /// Slots of `step` that some block here lacks, as runs in slot order; none once it is complete.
    #[must_use]
    pub fn missing(&self, step: Step) -> Vec<SlotRange> {
        let mut lacking = vec![false; self.rules.slots.slots() as usize];
        for block in self.blocks.all() {
            for run in block.missing(step) {
                lacking[run.begin as usize..run.end as usize].fill(true);
            }
        }
        let mut begin = 0;
        lacking
            .chunk_by(|a, b| a == b)
            .filter_map(|run| {
                let slots = SlotRange { begin, end: begin + run.len() as u32 };
                begin = slots.end;
                run[0].then_some(slots)
            })
            .collect()
    }

    /// How much waits here.
    #[must_use]
    pub fn load(&self) -> ServerLoad {
        let gathered = self.blocks.all().iter().map(|block| block.gathered_bytes() as u64).sum();
        ServerLoad {
            gathered_bytes: gathered,
            queued_work: self.compute.queued_work() as u64,
            sessions: self.sessions.all().len() as u32,
        }
    }

    /// What waits to be sent to workers: messages, and the bytes of weights among them.
    #[must_use]
    pub fn waiting_to_be_sent(&self) -> (usize, usize) {
        let waiting = self.sessions.all().into_iter().map(|outbox| outbox.waiting());
        waiting.fold((0, 0), |(messages, bytes), (more, of_them)| (messages + more, bytes + of_them))
    }

    /// Blocks held here.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Newest step known to survive the loss of every process; 0 without any.
    #[must_use]
    pub fn durable(&self) -> Step {
        Step(self.durable.load(Ordering::Relaxed))
    }

    /// Ends every open session.
    pub fn close_sessions(&self, status: Option<tonic::Status>) {
        for outbox in self.sessions.all() {
            outbox.close(status.clone());
        }
    }
}

fn trace_of(identity: &Identity, meter: &Meter) -> ServerTrace {
    let Identity { job, generation, index, .. } = identity.clone();
    ServerTrace { spans: meter.spans().clone(), job, generation, index }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Tallies' methods do not panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn change_of(tensor: &Tensor, optimizer: &Optimizer) -> Change {
    match tensor.role {
        Role::Trainable => Change::Optimized(Arc::new(optimizer.tensor(&tensor.name, &shape_of(tensor)))),
        Role::Buffer => Change::Averaged,
        Role::Frozen | Role::Tied(_) => Change::Never,
    }
}

fn shape_of(tensor: &Tensor) -> Vec<usize> {
    tensor.shape.iter().map(|dim| *dim as usize).collect()
}

/// The step to report: a server whose blocks never change is as far as the job can get once it is
/// initialized, so that nobody waits for it.
fn standing_step(progress: &Progress, steps: Step) -> Option<Step> {
    progress.complete().map(|step| if progress.has_changing_blocks() { step } else { steps })
}

/// Where the data service finds the shard once there is one.
#[derive(Debug, Default)]
pub struct ShardPlace {
    shard: RwLock<Option<Arc<Shard>>>,
    meter: Arc<Meter>,
}

impl ShardPlace {
    /// Without a shard; the server counts in `meter`.
    #[must_use]
    pub fn new(meter: Arc<Meter>) -> ShardPlace {
        ShardPlace { shard: RwLock::default(), meter }
    }

    /// What the server counts, through all its shards.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Takes the shard away: the job's state goes back to a checkpoint.
    pub fn clear(&self) -> Option<Arc<Shard>> {
        self.shard.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts a shard in place.
    pub fn set(&self, shard: Arc<Shard>) {
        *self.shard.write().unwrap_or_else(PoisonError::into_inner) = Some(shard);
    }

    /// The shard, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Shard>> {
        self.shard.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
