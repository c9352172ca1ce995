//! One block: its weights, its planes, and the life of a step in it.
//!
//! gathered -> (reduced) -> applied. [`Block::contribute`] decides under the block's lock and
//! never computes under it: when a step is whole it hands out an [`Update`] that owns everything
//! the arithmetic needs, and [`Block::install`] takes the result back. While an update is out, the
//! weights of the step before stay readable.
//!
//! Two versions of the weights are kept (DESIGN.md rule 3): a contribution to step t + 1 proves that
//! its sender has every block at t, so nobody needs t - 1 once that step is applied.

mod aside;
mod checks;
mod cut;
mod gathering;
mod pushes;
mod sum;
mod update;
mod weights;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use halflife_optim::{Optimizer, Plane, PlaneSpec, TensorRule};
use halflife_proto::blocks::BlockId;
use halflife_proto::contribution::{Contribution, Outcome, Payload, Push};
use halflife_proto::ids::{Step, Ticket};
use halflife_proto::job::{Combine, Consistency, Wire};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::slots::{SlotRange, SlotTree};

use aside::{Aside, PlanesInUse};
use checks::is_initial;
pub use cut::{Captured, Cut};
use gathering::{Gathering, Held};
pub use pushes::Settled;
use pushes::{Pushed, Pushes};
pub use sum::Summer;
pub use update::{Applied, Update, Waiting};
pub use weights::{Version, WeightsBuffer};

use crate::config::NonfinitePolicy;
use crate::planted::{Bug, planted};

/// How the blocks of a tensor change from step to step.
#[derive(Debug, Clone)]
pub enum Change {
    /// By the optimizer, with the tensor's settings.
    Optimized(Arc<TensorRule>),
    /// To the mean over slots.
    Averaged,
    /// Never.
    Never,
}

/// What all blocks of a job have in common.
#[derive(Debug)]
pub struct Rules {
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The tree over the slots.
    pub slots: SlotTree,
    /// How slots combine.
    pub combine: Combine,
    /// What a NaN or infinity does.
    pub nonfinite: NonfinitePolicy,
    /// Steps in the run.
    pub steps: Step,
    /// How tensor data travels.
    pub wire: Wire,
    /// When steps are applied.
    pub consistency: Consistency,
}

impl Rules {
    /// Whether each push is applied by itself.
    #[must_use]
    pub fn has_tickets(&self) -> bool {
        self.consistency.mode.has_tickets()
    }

    /// Whether the lead says which slots make a step: with a quorum below all of them.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        self.consistency.partial_quorum(self.slots.slots()).is_some()
    }

    /// A buffer for a version of a block's weights.
    fn weights_buffer(&self, elements: usize) -> WeightsBuffer {
        WeightsBuffer::new(elements, self.wire.weights)
    }

    /// Whether updates wait for norms over more than a block.
    #[must_use]
    pub fn reduces(&self) -> bool {
        self.optimizer.needs_whole_tensors() || !self.optimizer.reductions().is_empty()
    }
}

/// Arrays of optimizer state beside the weights, in the optimizer's order of planes. Shared only while a checkpoint
/// is written: an update that finds them shared changes a copy.
pub type Planes = Arc<Vec<Plane>>;

/// A block and its lock.
#[derive(Debug)]
pub struct Block {
    id: BlockId,
    elements: usize,
    change: Change,
    rules: Arc<Rules>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    gathering: Gathering,
    /// What the asynchronous modes have instead of gathering.
    pushes: Pushes,
    /// Newest weights; `None` before the initialization.
    current: Option<Version>,
    /// The step before.
    previous: Option<Version>,
    /// `None` while an update has them.
    planes: Option<Planes>,
    /// Updates this block's tensor has had: what bias correction counts.
    updates: u64,
    /// BLAKE3 of the initial weights, to recognize a repeated initialization; `None` in a restored block, too.
    initial_digest: Option<blake3::Hash>,
    /// The step whose state is to be set aside once the block is there.
    cut: Option<Step>,
    /// What was.
    aside: Aside,
}

/// What a contribution led to.
#[derive(Debug)]
pub enum Contributed {
    /// Noted; nothing further to do.
    Noted(Outcome),
    /// It completed the step: compute this and [`Block::install`] the result.
    Ready(Outcome, Update),
    /// It set the first weights, which are installed.
    Initialized,
    /// It completed a step that must not be applied: the job has to stop.
    Halt(Refusal),
}

impl Contributed {
    /// Whether it added something to a step.
    pub(crate) fn counts(&self) -> bool {
        match self {
            Contributed::Noted(outcome) | Contributed::Ready(outcome, _) => {
                matches!(outcome, Outcome::Added | Outcome::Replaced)
            }
            Contributed::Initialized | Contributed::Halt(_) => false,
        }
    }
}

impl Block {
    /// A block without weights, of a tensor of `shape`.
    #[must_use]
    pub fn new(id: BlockId, elements: usize, shape: &[usize], change: Change, rules: Arc<Rules>) -> Block {
        let planes = match &change {
            Change::Optimized(_) => initial_planes(&rules.optimizer, id, elements, shape),
            Change::Averaged | Change::Never => Planes::default(),
        };
        let state = State {
            gathering: Gathering::new(rules.slots),
            pushes: Pushes::default(),
            current: None,
            previous: None,
            planes: Some(planes),
            updates: 0,
            initial_digest: None,
            cut: None,
            aside: Aside::default(),
        };
        Block { id, elements, change, rules, state: Mutex::new(state) }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Whether steps change it.
    #[must_use]
    pub fn changes(&self) -> bool {
        !matches!(self.change, Change::Never)
    }

    /// Newest weights, `None` before the initialization.
    #[must_use]
    pub fn current(&self) -> Option<Version> {
        self.lock().current.clone()
    }

    /// The weights of exactly `step`, if still (or already) kept. A frozen block is the same at
    /// every step.
    #[must_use]
    pub fn at(&self, step: Step) -> Option<Version> {
        let state = self.lock();
        if !self.changes() {
            return state.current.as_ref().map(|version| version.carried_to(step));
        }
        [&state.current, &state.previous].into_iter().flatten().find(|version| version.step == step).cloned()
    }

    /// A copy of an optimizer plane as it stands after exactly `step`, little-endian f32 whatever it is
    /// kept in.
    ///
    /// # Errors
    /// `UNKNOWN_BLOCK` for a plane this block does not have, `STEP_GONE` when the plane is of another
    /// step, `NOT_READY` while an update has it.
    pub fn plane_at(&self, name: &str, step: Step) -> Result<Bytes, Refusal> {
        let index = self.plane_index(name)?;
        let state = self.lock();
        match (&state.planes, &state.current) {
            (Some(planes), Some(current)) if current.step == step => {
                Ok(Bytes::copy_from_slice(bytemuck::cast_slice(&planes[index].to_f32())))
            }
            (Some(_), current) => {
                let newest = current.as_ref().map_or("none".to_owned(), |version| version.step.to_string());
                Err(Refusal::mismatch(RefusalCause::StepGone, format!("plane of {}", self.id), newest, step))
            }
            (None, _) => Err(self.being_updated()),
        }
    }

    /// Bytes that a pull of its weights, or of a plane, takes: f32, whatever they are kept in.
    ///
    /// # Errors
    /// `UNKNOWN_BLOCK` for a plane this block does not have, `NOT_READY` while an update has it.
    pub fn pulled_bytes(&self, plane: Option<&str>) -> Result<usize, Refusal> {
        let values = match plane {
            None => self.elements,
            Some(name) => {
                let index = self.plane_index(name)?;
                // Not of as many values as the block has elements, where a rule needs whole tensors.
                self.lock().planes.as_ref().ok_or_else(|| self.being_updated())?[index].len()
            }
        };
        Ok(size_of::<f32>() * values)
    }

    fn plane_index(&self, name: &str) -> Result<usize, Refusal> {
        let specs = match self.change {
            Change::Optimized(_) => self.rules.optimizer.planes(),
            Change::Averaged | Change::Never => &[],
        };
        specs.iter().position(|spec| spec.name == name).ok_or_else(|| {
            let known = specs.iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ");
            let what = format!("plane of {}", self.id);
            Refusal::mismatch(RefusalCause::UnknownBlock, what, format!("one of [{known}]"), name)
        })
    }

    fn being_updated(&self) -> Refusal {
        Refusal::new(RefusalCause::NotReady, format!("{} is being updated", self.id))
    }

    /// Takes a contribution, already known to be of this job's generation.
    ///
    /// # Errors
    /// A [`Refusal`] with what was expected and what came; the block is unchanged.
    pub fn contribute(&self, contribution: Contribution) -> Result<Contributed, Refusal> {
        if let Payload::Dense(data) = &contribution.payload {
            self.check_encoding(data, &contribution)?;
        }
        if is_initial(&contribution) {
            return self.initialize(&contribution);
        }
        if !self.changes() {
            let what = format!("contribution to {}", self.id);
            return Err(Refusal::mismatch(
                RefusalCause::Malformed,
                what,
                "a tensor that is not frozen",
                "a frozen one",
            ));
        }
        self.check_node(&contribution)?;
        let magnitude_max = match &contribution.payload {
            Payload::Dense(data) => data.magnitude_max(),
            Payload::Absent | Payload::Nonfinite => 0.0,
        };
        let weighted =
            self.rules.combine == Combine::WeightedMean && !self.contribution_dtype(&contribution).is_lossy();
        if !magnitude_max.is_finite() && (contribution.slots.count() > 1 || weighted) {
            // Each slot was finite, or it would have come as nonfinite: it is their sum that overflowed
            // on its way here, which must end as it would have ended here. (What a lossy wire cannot
            // carry, weighted or not, comes as nonfinite too.)
            let (step, slots) = (step_of(&contribution), contribution.slots);
            let message = format!("the gradient sum of {step}, {slots} overflows f32 in {}", self.id);
            return Ok(Contributed::Halt(Refusal::new(RefusalCause::NonfiniteData, message)));
        }
        if !magnitude_max.is_finite() {
            let what = format!("dense contribution to {}", self.id);
            let expected = "finite values (a slot with NaN or infinity is sent as nonfinite)";
            return Err(Refusal::mismatch(RefusalCause::NonfiniteData, what, expected, magnitude_max));
        }
        match contribution.push {
            Some(push) => self.take_push(contribution, push, magnitude_max),
            None => self.gather(contribution, magnitude_max),
        }
    }

    fn gather(&self, contribution: Contribution, magnitude_max: f32) -> Result<Contributed, Refusal> {
        let Contribution { step, slots, weight, payload, .. } = contribution;
        let mut state = self.lock();
        let Some(current) = &state.current else {
            return Err(Refusal::new(RefusalCause::NotInitialized, format!("{} has no weights yet", self.id)));
        };
        if step <= current.step {
            return Ok(Contributed::Noted(Outcome::AlreadyApplied));
        }
        let next = current.step.next();
        if step > next || next > self.rules.steps {
            let expected = format!("at most {}", next.min(self.rules.steps));
            return Err(Refusal::mismatch(
                RefusalCause::StepAhead,
                format!("contribution to {}", self.id),
                expected,
                step,
            ));
        }
        let closes = self.rules.has_quorum();
        if state.planes.is_none() {
            // The step is whole, or its slots are fixed, and it is being computed.
            return Ok(Contributed::Noted(if closes { Outcome::AlreadyApplied } else { Outcome::Duplicate }));
        }
        let outcome = state.gathering.add(Held { slots, weight, payload, magnitude_max });
        let held = state.gathering.held().len();
        let is_whole = match closes {
            true => planted(Bug::QuorumPerBlock) && self.rules.consistency.quorum == Some(held as u32),
            false => state.gathering.is_complete(),
        };
        if outcome == Outcome::Duplicate || !is_whole {
            return Ok(Contributed::Noted(outcome));
        }
        if let Some(refusal) = self.reason_to_halt(step, &state) {
            return Ok(Contributed::Halt(refusal));
        }
        Ok(Contributed::Ready(outcome, self.start_update(&mut state, step)))
    }

    /// With a quorum: makes `step` up of exactly these slots; `None` when it is done already.
    ///
    /// # Errors
    /// `NOT_READY` when a slot is missing, which whoever closes the step had been told is here.
    pub fn close(&self, step: Step, slots: &[u32]) -> Result<Option<Contributed>, Refusal> {
        let mut state = self.lock();
        let under_way = state.current.as_ref().is_some_and(|current| current.step.next() == step);
        if !under_way || state.planes.is_none() {
            return Ok(None);
        }
        let found = state.gathering.keep(slots);
        if found < slots.len() {
            let (what, expected) = (format!("slots of {step} in {}", self.id), format!("all of {slots:?}"));
            return Err(Refusal::mismatch(RefusalCause::NotReady, what, expected, format!("{found} of them")));
        }
        if let Some(refusal) = self.reason_to_halt(step, &state) {
            return Ok(Some(Contributed::Halt(refusal)));
        }
        Ok(Some(Contributed::Ready(Outcome::Added, self.start_update(&mut state, step))))
    }

    // ---- the asynchronous modes ----

    /// Takes a push: it is applied at once, or behind those that came before it.
    fn take_push(&self, contribution: Contribution, push: Push, magnitude_max: f32) -> Result<Contributed, Refusal> {
        let (ticket, read) = (push.ticket, contribution.step);
        let mut state = self.lock();
        let Some(current) = &state.current else {
            return Err(Refusal::new(RefusalCause::NotInitialized, format!("{} has no weights yet", self.id)));
        };
        let ahead = |what: String, expected: String, found: String| {
            Err(Refusal::mismatch(RefusalCause::StepAhead, what, expected, found))
        };
        if ticket.step() > self.rules.steps {
            let expected = format!("at most ticket {}", self.rules.steps.0);
            return ahead(format!("push to {}", self.id), expected, ticket.to_string());
        }
        if read > current.step {
            let what = format!("version of {} that a gradient was computed at", self.id);
            return ahead(what, format!("at most {}", current.step.0), read.0.to_string());
        }
        let nonfinite = matches!(contribution.payload, Payload::Nonfinite);
        if nonfinite && self.rules.nonfinite == NonfinitePolicy::Stop {
            let message = format!("the gradient of {ticket} held NaN or infinity (job.nonfinite = \"stop\")");
            return Ok(Contributed::Halt(Refusal::new(RefusalCause::NonfiniteData, message)));
        }
        if !state.pushes.close(ticket) && !planted(Bug::PushCountedTwice) {
            let pending = state.pushes.is_pending(ticket);
            return Ok(Contributed::Noted(if pending { Outcome::Duplicate } else { Outcome::AlreadyApplied }));
        }
        let Contribution { slots, weight, payload, .. } = contribution;
        let pushed = Pushed { ticket, read, held: Held { slots, weight, payload, magnitude_max } };
        if state.pushes.applying.is_some() {
            state.pushes.waiting.push_back(pushed);
            return Ok(Contributed::Noted(Outcome::Added));
        }
        Ok(Contributed::Ready(Outcome::Added, self.start_push(&mut state, pushed)))
    }

    fn start_push(&self, state: &mut State, pushed: Pushed) -> Update {
        let Pushed { ticket, read, held } = pushed;
        state.gathering.add(held);
        let update = self.start_update(state, ticket.step());
        let staleness = update.before.step.0 - read.0;
        state.pushes.applying = Some(Settled { ticket, staleness });
        update
    }

    /// The push whose update is [installed](Block::install) and published, and the next update, if one waits.
    /// Called once for each; only then may the next begin, so that versions are published in order.
    pub fn settle(&self) -> (Option<Settled>, Option<Update>) {
        let mut state = self.lock();
        let settled = state.pushes.applying.take();
        let next = state.pushes.waiting.pop_front();
        (settled, next.map(|pushed| self.start_push(&mut state, pushed)))
    }

    /// Takes no push with this ticket any more; whether one had been taken, which then counts.
    pub fn void(&self, ticket: Ticket) -> bool {
        !self.lock().pushes.void(ticket)
    }

    /// Why a complete step must not be applied, if so.
    fn reason_to_halt(&self, step: Step, state: &State) -> Option<Refusal> {
        let held = state.gathering.held();
        let nonfinite = |held: &&Held| matches!(held.payload, Payload::Nonfinite);
        if let Some(node) = held.iter().find(nonfinite) {
            return match self.rules.nonfinite {
                NonfinitePolicy::Skip => None,
                NonfinitePolicy::Stop => {
                    let message = format!(
                        "the gradient of {step}, {} held NaN or infinity (job.nonfinite = \"stop\")",
                        node.slots
                    );
                    Some(Refusal::new(RefusalCause::NonfiniteData, message))
                }
            };
        }
        // No partial sum exceeds the sum of the magnitudes; only beyond that is a closer look needed.
        let bound: f64 = held.iter().map(|held| f64::from(held.magnitude_max)).sum();
        (bound > f64::from(f32::MAX) && update::sum_overflows(self.rules.slots.root(), held, self.elements)).then(
            || {
                Refusal::new(
                    RefusalCause::NonfiniteData,
                    format!("the gradient sum of {step} overflows f32 in {}", self.id),
                )
            },
        )
    }

    /// `step` is the one whose lr and decay it is applied with. The version it makes is the next one, which
    /// is the same but in the asynchronous modes.
    fn start_update(&self, state: &mut State, step: Step) -> Update {
        let before = state.current.clone().expect("a block that gathers has weights");
        let planes = state.planes.take().expect("a block that gathers has its planes");
        let planes = PlanesInUse::new(planes, || state.aside.spare_planes());
        let previous = state.previous.take();
        Update {
            rules: self.rules.clone(),
            change: self.change.clone(),
            step,
            version: before.step.next(),
            updates: state.updates,
            held: state.gathering.take(),
            before,
            recycled: state.aside.buffer_after(previous),
            planes,
        }
    }

    /// The step that it is at, or on its way to: no job ends before that. `None` before the initialization.
    #[must_use]
    pub fn reaches(&self) -> Option<Step> {
        let state = self.lock();
        let newest = state.current.as_ref()?.step;
        Some(if state.planes.is_none() { newest.next() } else { newest })
    }

    /// Takes the result of an update: the new weights are now the current ones.
    pub fn install(&self, applied: Applied) -> Version {
        let mut state = self.lock();
        state.previous = state.current.replace(applied.weights.clone());
        let (planes, left) = applied.planes.into_parts();
        state.planes = Some(planes);
        if let Some(left) = left {
            state.aside.keep_planes(left);
        }
        state.updates = applied.updates;
        state.gathering.recycle(applied.held);
        applied.weights
    }

    fn initialize(&self, contribution: &Contribution) -> Result<Contributed, Refusal> {
        let slots = SlotRange { begin: 0, end: 1 };
        if contribution.slots != slots {
            return Err(Refusal::mismatch(
                RefusalCause::MisalignedSlots,
                "slot range of step 0",
                slots,
                contribution.slots,
            ));
        }
        let Payload::Dense(data) = &contribution.payload else {
            let what = format!("initialization of {}", self.id);
            return Err(Refusal::mismatch(RefusalCause::Malformed, what, "dense data", "none"));
        };
        let magnitude = data.magnitude_max();
        if !magnitude.is_finite() {
            let what = format!("initialization of {}", self.id);
            return Err(Refusal::mismatch(RefusalCause::NonfiniteData, what, "finite values", magnitude));
        }
        let digest = blake3::hash(&data.bytes);
        let mut state = self.lock();
        match state.initial_digest {
            // A restored block has been initialized in an earlier generation.
            None if state.current.is_some() => Ok(Contributed::Noted(Outcome::AlreadyApplied)),
            Some(known) if known == digest => Ok(Contributed::Noted(Outcome::AlreadyApplied)),
            Some(known) => {
                let what = format!("initialization of {}", self.id);
                let shown = |hash: blake3::Hash| format!("weights of digest {}", &hash.to_hex()[..16]);
                Err(Refusal::mismatch(RefusalCause::InitializationDiffers, what, shown(known), shown(digest)))
            }
            None => {
                let mut buffer = WeightsBuffer::new(self.elements, self.rules.wire.weights);
                buffer.write(0..self.elements, |values| data.load(0, values));
                state.initial_digest = Some(digest);
                state.current = Some(Version::new(Step::ZERO, 0.0, 0.0, buffer));
                Ok(Contributed::Initialized)
            }
        }
    }

    /// Slots that `step` lacks here, as runs; none once it is whole.
    #[must_use]
    pub fn missing(&self, step: Step) -> Vec<SlotRange> {
        let state = self.lock();
        let is_next = state.current.as_ref().is_some_and(|current| current.step.next() == step);
        match is_next && self.changes() && state.planes.is_some() {
            true => state.gathering.missing().collect(),
            false => Vec::new(),
        }
    }

    /// Bytes of gradient data waiting for the rest of their step.
    #[must_use]
    pub fn gathered_bytes(&self) -> usize {
        let state = self.lock();
        state.gathering.bytes() + state.pushes.bytes()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a few assignments that cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The step whose slots it is of.
fn step_of(contribution: &Contribution) -> Step {
    contribution.push.map_or(contribution.step, |push| push.ticket.step())
}

/// Planes as they are before the first update. A rule that needs whole tensors keeps the planes of a
/// tensor (whose lengths are not the tensor's) in its first block.
pub(crate) fn initial_planes(optimizer: &Optimizer, id: BlockId, elements: usize, shape: &[usize]) -> Planes {
    let length = |spec: &PlaneSpec| match (optimizer.needs_whole_tensors(), id.index) {
        (false, _) => elements,
        (true, 0) => spec.length(shape),
        (true, _) => 0,
    };
    Arc::new(optimizer.planes().iter().map(|spec| Plane::new(spec, length(spec))).collect())
}

#[cfg(test)]
mod mode_tests;
#[cfg(test)]
mod tests;
