//! What a worker decides, without its connections: for the simulator in `tests`, which re-does those in
//! virtual time. The parts are the ones that [`Member`](crate::Member) puts together; only the look at the
//! session is written again here, because a member looks while it waits.

use std::sync::Arc;

use halflife_proto::blocks::BlockId;
use halflife_proto::contribution::{BlockWeights, Contribution, Push};
use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::job::{Combine, Consistency, Wire};
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::Assignment;
use halflife_proto::placement::Placement;
use halflife_proto::refusal::Refusal;
use halflife_proto::slots::{SlotRange, SlotTree};
use halflife_proto::tensor_codec::{Dtype, round};

use crate::assembly::{self, Assembly, check_fit};
use crate::block_plan::BlockPlan;
use crate::buffer_pool::BufferPool;
use crate::encoder::BlockEncoder;
use crate::error::WeightsViolation;
use crate::gradient::{NodeGradient, SlotGradient};
use crate::layout::Layout;
use crate::node_sum::NodeSum;
use crate::shipment::Shipment;
use crate::weights::WeightsVersion;
use crate::work::{Decision, WorkState, takes_single_slots};

/// The part of a job that a worker decides by.
#[derive(Clone, Debug)]
pub struct JobTerms {
    /// Incarnation of the job's state.
    pub generation: Generation,
    /// The tree over the slots.
    pub tree: SlotTree,
    /// Steps in the run.
    pub steps: u64,
    /// How slots combine.
    pub combine: Combine,
    /// How tensor data travels.
    pub wire: Wire,
    /// When steps are applied.
    pub consistency: Consistency,
    /// Whether the job keeps checkpoints.
    pub keeps_checkpoints: bool,
}

/// What a member sees at one look at its session.
#[derive(Clone, Debug)]
pub enum Sight {
    /// Make the initial weights.
    Initialize,
    /// Compute these nodes of the step.
    Compute(Step, Vec<SlotRange>, Arc<WeightsVersion>),
    /// Work would be there, had a version not been skipped.
    Torn(Step),
    /// The weights at hand are the last.
    Finished,
    /// Nothing, until something arrives.
    Nothing,
}

/// The newest weights of every block, as they were when a mark was back from every server.
#[derive(Clone, Debug)]
pub struct Snapshot(assembly::Snapshot);

impl Snapshot {
    /// The mark.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.0.mark
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &Arc<WeightsVersion> {
        &self.0.weights
    }
}

/// A worker without connections.
#[derive(Debug)]
pub struct WorkerDecisions {
    terms: JobTerms,
    layout: Layout,
    plan: Arc<BlockPlan>,
    buffers: BufferPool,
    work: WorkState,
    assembly: Assembly,
    weights: Option<Arc<WeightsVersion>>,
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Assembly")
    }
}

impl WorkerDecisions {
    /// One that has just joined.
    ///
    /// # Errors
    /// An assignment that does not fit the job.
    pub fn new(
        terms: JobTerms,
        manifest: &Manifest,
        placement: &Placement,
        assignment: Assignment,
    ) -> Result<WorkerDecisions, Refusal> {
        let layout = Layout::new(manifest);
        let plan = Arc::new(BlockPlan::new(manifest, &layout, placement, terms.wire));
        let single_slots = takes_single_slots(terms.consistency, terms.tree.slots(), terms.wire);
        let mut work = WorkState::new(terms.tree, terms.steps, single_slots);
        if terms.keeps_checkpoints {
            work.await_finish();
        }
        work.assign(assignment)?;
        let assembly = Assembly::new(Arc::clone(&plan), layout.elements(), terms.generation, Step(terms.steps));
        let assembly = if terms.consistency.mode.has_tickets() { assembly.with_snapshots() } else { assembly };
        let buffers = BufferPool::new(layout.elements());
        Ok(WorkerDecisions { terms, layout, plan, buffers, work, assembly, weights: None })
    }

    /// The lead assigns.
    ///
    /// # Errors
    /// As [`WorkerDecisions::new`].
    pub fn assign(&mut self, assignment: Assignment) -> Result<(), Refusal> {
        self.work.assign(assignment)
    }

    /// A server has no weights.
    pub fn note_uninitialized(&mut self) {
        self.work.note_uninitialized();
    }

    /// The initial weights were sent.
    pub fn note_initialized(&mut self) {
        self.work.note_initialized();
    }

    /// A node was sent.
    pub fn note_sent(&mut self, step: Step, node: SlotRange) {
        self.work.note_sent(step, node);
    }

    /// What was sent may not have arrived.
    pub fn forget_sent(&mut self) {
        self.work.forget_sent();
    }

    /// The job ends with the weights of this step.
    pub fn finish(&mut self, step: Step) {
        self.work.finish(step);
    }

    /// No step beyond this one is started.
    pub fn hold(&mut self, after: Option<Step>) {
        self.work.hold(after);
    }

    /// The lead has given a ticket, whose step is computed next.
    pub fn note_ticket(&mut self, step: Step) {
        self.work.note_ticket(step);
    }

    /// A mark is back from a server; the snapshot that this makes whole.
    pub fn mark(&mut self, server: ServerIndex, number: u64) -> Option<Snapshot> {
        self.assembly.mark(server, number).map(Snapshot)
    }

    /// Every block of a snapshot: its version, and its values.
    pub fn blocks_of_snapshot<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (BlockId, Step, &'a [f32])> + 'a {
        let blocks = self.plan.blocks().iter().zip(snapshot.0.versions.iter());
        blocks.map(|(block, version)| (block.id, *version, &snapshot.0.weights.values[block.arena.clone()]))
    }

    /// Nothing changes any more: these are the weights of the last step.
    pub fn finish_with(&mut self, step: Step, snapshot: &Snapshot) {
        self.work.finish(step);
        self.publish(Arc::new(WeightsVersion { step, ..(**snapshot.weights()).clone() }));
    }

    /// The step being computed.
    #[must_use]
    pub fn current_step(&self) -> Step {
        self.work.current_step()
    }

    /// The newest complete version.
    #[must_use]
    pub fn weights(&self) -> Option<&Arc<WeightsVersion>> {
        self.weights.as_ref()
    }

    /// Whether every block's weights have come.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.weights.is_some() || self.assembly.torn_at().is_some()
    }

    /// Whether a server owes nothing more.
    #[must_use]
    pub fn has_all_of(&self, server: ServerIndex) -> bool {
        self.assembly.has_all_of(server, self.work.last_step())
    }

    /// What there is to do.
    #[must_use]
    pub fn look(&self) -> Sight {
        match (self.work.decide(), &self.weights) {
            (Decision::Finished, Some(_)) => Sight::Finished,
            (Decision::Initialize, _) => Sight::Initialize,
            (Decision::Compute { step, nodes }, Some(weights)) => Sight::Compute(step, nodes, Arc::clone(weights)),
            _ => match self.assembly.torn_at() {
                Some(step) if self.work.needs_weights(step) => Sight::Torn(step),
                _ => Sight::Nothing,
            },
        }
    }

    /// Takes in a block; the version that it completes.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub fn receive(
        &mut self,
        server: ServerIndex,
        weights: &BlockWeights,
    ) -> Result<Option<Arc<WeightsVersion>>, WeightsViolation> {
        let version = self.assembly.receive(server, weights)?;
        if let Some(version) = &version {
            self.publish(Arc::clone(version));
        }
        Ok(version)
    }

    fn publish(&mut self, version: Arc<WeightsVersion>) {
        if self.weights.as_ref().is_none_or(|newest| newest.step < version.step) {
            self.work.receive_weights(version.step);
            self.weights = Some(version);
        }
    }

    /// Takes in a version that was pulled, all blocks of one step, with their servers.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub fn receive_pulled(
        &mut self,
        step: Step,
        blocks: &[(ServerIndex, BlockWeights)],
    ) -> Result<Arc<WeightsVersion>, WeightsViolation> {
        let mut values = vec![0.0; self.layout.elements()];
        for (server, weights) in blocks {
            let (_, block) = check_fit(&self.plan, self.terms.generation, *server, Dtype::F32, weights)?;
            weights.data.decode_to(Dtype::F32, &mut values[block.arena.clone()]);
        }
        round(self.terms.wire.weights, &mut values);
        let version = Arc::new(WeightsVersion { step, values, lr: 0.0, decay: 0.0 });
        self.publish(Arc::clone(&version));
        Ok(version)
    }

    /// The blocks of a server.
    #[must_use]
    pub fn blocks_of(&self, server: ServerIndex) -> Vec<BlockId> {
        self.plan.numbers_of_server(server).iter().map(|number| self.plan.blocks()[*number].id).collect()
    }

    /// Sums a node of slots, as a worker does before it sends it.
    ///
    /// # Panics
    /// When `slot` makes gradients that do not fit the job.
    pub fn sum(&self, node: SlotRange, mut slot: impl FnMut(u32) -> SlotGradient) -> NodeGradient {
        let (combine, gradients) = (self.terms.combine, self.terms.wire.gradients);
        let mut sum = NodeSum::new(&self.layout, combine, gradients, node, self.buffers.clone());
        while let Some(number) = sum.next_slot() {
            sum.add(slot(number)).expect("the simulator's gradients fit its jobs");
        }
        sum.finish().expect("every slot was added")
    }

    /// A gradient, cut into the contributions of one server's stream.
    #[must_use]
    pub fn contributions(
        &self,
        server: ServerIndex,
        step: Step,
        node: SlotRange,
        gradient: &NodeGradient,
    ) -> Vec<Contribution> {
        self.cut(server, &Shipment::gradient(step, node, gradient.clone(), &self.buffers))
    }

    /// The gradient of a ticket's slots, cut into the pushes of one server's stream; computed at `snapshot`.
    #[must_use]
    pub fn pushes(
        &self,
        server: ServerIndex,
        push: Push,
        snapshot: &Snapshot,
        gradient: &NodeGradient,
    ) -> Vec<Contribution> {
        let shipment = Shipment::gradient(push.ticket.step(), self.terms.tree.root(), gradient.clone(), &self.buffers);
        self.cut(server, &shipment.into_push(push, Arc::clone(&snapshot.0.versions)))
    }

    /// The initial weights, cut into the contributions of one server's stream.
    #[must_use]
    pub fn initial_contributions(&self, server: ServerIndex, weights: &[f32]) -> Vec<Contribution> {
        self.cut(server, &Shipment::initial(weights.to_vec(), &self.buffers))
    }

    fn cut(&self, server: ServerIndex, shipment: &Shipment) -> Vec<Contribution> {
        let mut encoder = BlockEncoder::default();
        let generation = self.terms.generation;
        let numbers = self.plan.numbers_of_server(server).iter().copied();
        let part = |number: usize| shipment.contribution(number, &self.plan.blocks()[number], generation, &mut encoder);
        numbers.filter_map(part).collect()
    }
}
