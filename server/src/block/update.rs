//! The arithmetic of one step of one block: sum, mean, optimizer, in one pass over memory.
//!
//! An [`Update`] owns all it reads and writes, so it runs on any thread without a lock.

use std::sync::Arc;

use halflife_optim::{Plane, StepFactors, Sums};
use halflife_proto::contribution::Payload;
use halflife_proto::ids::Step;
use halflife_proto::job::Combine;
use halflife_proto::slots::SlotRange;
use smallvec::SmallVec;

use super::aside::PlanesInUse;
use super::gathering::Held;
use super::sum::Summer;
use super::weights::WeightsBuffer;
use super::{Change, Rules, Version};

/// Planes of a tile that are listed without allocating: no rule has more.
const PLANES_INLINE: usize = 4;

/// A step of a block, whole and ready to compute.
#[derive(Debug)]
pub struct Update {
    pub(super) rules: Arc<Rules>,
    pub(super) change: Change,
    /// The step whose lr and decay it is applied with.
    pub(super) step: Step,
    /// The version it makes: the same, but in the asynchronous modes.
    pub(super) version: Step,
    /// Updates the tensor has had before.
    pub(super) updates: u64,
    pub(super) held: Vec<Held>,
    pub(super) before: Version,
    /// A buffer nobody reads any more, for the weights to come.
    pub(super) recycled: Option<WeightsBuffer>,
    pub(super) planes: PlanesInUse,
}

/// The result of an update.
#[derive(Debug)]
pub struct Applied {
    /// The weights after the step.
    pub weights: Version,
    /// The optimizer's state after the step.
    pub(super) planes: PlanesInUse,
    /// Updates the tensor has had.
    pub updates: u64,
    /// Emptied; the block gathers in it again.
    pub(super) held: Vec<Held>,
}

impl Update {
    /// The step whose lr and decay it is applied with: in the asynchronous modes, its ticket's.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// Whether it must wait for a norm over more than this block (DESIGN.md rule 6: *reduced*).
    #[must_use]
    pub fn needs_norms(&self) -> bool {
        matches!(self.change, Change::Optimized(_)) && self.rules.reduces()
    }

    /// Sums the whole gradient, which then waits for the norms.
    ///
    /// # Panics
    /// Unless [`Update::needs_norms`].
    #[must_use]
    pub fn reduce(mut self, summer: &mut Summer) -> Waiting {
        let Change::Optimized(rule) = self.change.clone() else { panic!("only an optimized block waits for norms") };
        let root = self.rules.slots.root();
        let elements = self.before.values().len();
        let gradient = self.plan(summer).then(|| {
            let mut gradient = Vec::with_capacity(elements);
            let scale = scale(self.rules.combine, root, &self.held);
            summer.each_tile(&self.held, elements, scale, |_, tile| gradient.extend_from_slice(tile));
            gradient
        });
        self.held.clear();
        let factors = self.rules.optimizer.factors(&rule, self.step.0, self.updates + 1);
        let Update { rules, step, updates, before, recycled, planes, held, .. } = self;
        Waiting { rules, step, updates, before, recycled, planes, gradient, factors, held }
    }

    /// Plans how to sum it; false when no slot had a gradient or the step is skipped.
    fn plan(&self, summer: &mut Summer) -> bool {
        let skipped = self.held.iter().any(|held| matches!(held.payload, Payload::Nonfinite));
        !skipped && summer.plan(self.rules.slots.root(), &self.held)
    }

    /// Element additions and updates to come: what decides whether it runs inline.
    #[must_use]
    pub fn work(&self) -> usize {
        self.before.values().len() * self.held.len().max(1)
    }

    /// Computes it.
    #[must_use]
    pub fn run(mut self, summer: &mut Summer) -> Applied {
        let (weights, updates) = match self.plan(summer) {
            true => (self.apply(summer), self.updates + 1),
            // Nobody had a gradient for this tensor (or the step is skipped): no update, no decay.
            false => (self.before.carried_to(self.version), self.updates),
        };
        self.held.clear();
        Applied { weights, planes: self.planes, updates, held: self.held }
    }

    fn apply(&mut self, summer: &mut Summer) -> Version {
        let elements = self.before.values().len();
        let mut buffer = self.recycled.take().unwrap_or_else(|| self.rules.weights_buffer(elements));
        let updates = self.updates + 1;
        let (lr, decay) = match self.change.clone() {
            Change::Optimized(rule) => {
                let factors = self.rules.optimizer.factors(&rule, self.step.0, updates);
                let Update { rules, held, before, planes, .. } = self;
                let (before, (read, planes)) = (before.values(), planes.writable_after());
                let scale = scale(rules.combine, rules.slots.root(), held);
                summer.each_tile(held, elements, scale, |begin, gradient| {
                    let tile = begin..begin + gradient.len();
                    let mut planes: SmallVec<[_; PLANES_INLINE]> =
                        planes.iter_mut().map(|plane| plane.slice_mut(tile.clone())).collect();
                    for (plane, read) in planes.iter_mut().zip(read.iter().flat_map(|read| read.iter())) {
                        plane.copy_from(read.slice(tile.clone()));
                    }
                    let before = &before[tile.clone()];
                    buffer.write(tile, |after| {
                        rules.optimizer.update(&factors, before, after, &mut planes, gradient);
                    });
                });
                (factors.lr(), factors.decay())
            }
            Change::Averaged | Change::Never => {
                // A buffer is the mean over slots, whatever gradients are combined by.
                let combine = match self.rules.combine {
                    Combine::Sum => Combine::Mean,
                    other => other,
                };
                let scale = scale(combine, self.rules.slots.root(), &self.held);
                summer.each_tile(&self.held, elements, scale, |begin, mean| {
                    buffer.write(begin..begin + mean.len(), |after| after.copy_from_slice(mean));
                });
                (0.0, 0.0)
            }
        };
        Version::new(self.version, lr, decay, buffer)
    }
}

/// A step of a block whose gradient is summed and whose update waits for norms.
#[derive(Debug)]
pub struct Waiting {
    rules: Arc<Rules>,
    step: Step,
    updates: u64,
    before: Version,
    recycled: Option<WeightsBuffer>,
    planes: PlanesInUse,
    held: Vec<Held>,
    /// `None` when no slot had one: the block is left alone and adds zero to every norm.
    gradient: Option<Vec<f32>>,
    factors: StepFactors,
}

impl Waiting {
    /// The step it belongs to.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// Whether its update waits for another norm.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.gradient.is_some() && self.factors.pending().is_some()
    }

    /// What this block adds to the norm that comes next; zero when none does.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let Some(gradient) = self.gradient.as_ref().filter(|_| self.is_pending()) else { return Sums::default() };
        let planes: Vec<_> = self.planes.values().iter().map(Plane::view).collect();
        self.rules.optimizer.sums(&self.factors, self.before.values(), &planes, gradient)
    }

    /// The norm that came.
    pub fn supply(&mut self, sums: Sums) {
        if self.gradient.is_some() {
            self.factors.supply(sums);
        }
    }

    /// Element updates to come.
    #[must_use]
    pub fn work(&self) -> usize {
        self.before.values().len()
    }

    /// Updates the block, all norms known.
    #[must_use]
    pub fn apply(mut self) -> Applied {
        let Some(gradient) = self.gradient.take() else { return self.left_alone() };
        let mut after = self.recycled.take().unwrap_or_else(|| self.rules.weights_buffer(gradient.len()));
        let mut planes: Vec<_> = self.planes.writable().iter_mut().map(Plane::view_mut).collect();
        let optimizer = &self.rules.optimizer;
        after.write(0..gradient.len(), |after| {
            optimizer.update(&self.factors, self.before.values(), after, &mut planes, &gradient);
        });
        self.applied(after)
    }

    /// Updates all blocks of one tensor (in order) by a rule that needs the whole tensor; the first
    /// block holds its planes.
    #[must_use]
    pub fn apply_tensor(mut blocks: Vec<Waiting>, shape: &[usize]) -> Vec<Applied> {
        if blocks.iter().any(|block| block.gradient.is_none()) {
            return blocks.into_iter().map(Waiting::left_alone).collect();
        }
        let whole = |part: fn(&Waiting) -> &[f32]| blocks.iter().flat_map(part).copied().collect::<Vec<f32>>();
        let weights = whole(|block| block.before.values());
        let gradient = whole(|block| block.gradient.as_deref().unwrap_or_default());
        let mut after = vec![0.0; weights.len()];
        if let Some(first) = blocks.first_mut() {
            let mut planes: Vec<_> = first.planes.writable().iter_mut().map(Plane::view_mut).collect();
            let optimizer = &first.rules.optimizer;
            optimizer.update_tensor(&first.factors, shape, &weights, &mut after, &mut planes, &gradient);
        }
        let mut begin = 0;
        let mut part = |mut block: Waiting| {
            let end = begin + block.before.values().len();
            let mut part = block.recycled.take().unwrap_or_else(|| block.rules.weights_buffer(end - begin));
            part.write(0..end - begin, |values| values.copy_from_slice(&after[begin..end]));
            let applied = block.applied(part);
            begin = end;
            applied
        };
        blocks.into_iter().map(&mut part).collect()
    }

    fn left_alone(self) -> Applied {
        let weights = self.before.carried_to(self.step);
        Applied { weights, planes: self.planes, updates: self.updates, held: self.held }
    }

    fn applied(self, after: WeightsBuffer) -> Applied {
        let weights = Version::new(self.step, self.factors.lr(), self.factors.decay(), after);
        Applied { weights, planes: self.planes, updates: self.updates + 1, held: self.held }
    }
}

/// What the sum is multiplied by.
fn scale(combine: Combine, root: SlotRange, held: &[Held]) -> f32 {
    match combine {
        Combine::Sum => 1.0,
        Combine::Mean | Combine::WeightedMean => (1.0 / total_weight(root, held)) as f32,
    }
}

/// The sample weights of all slots, added along the same tree as the gradients, so that it does
/// not matter who added which.
fn total_weight(node: SlotRange, held: &[Held]) -> f64 {
    if let Some(held) = held.iter().find(|held| held.slots == node) {
        return held.weight;
    }
    node.children().map_or(0.0, |(left, right)| total_weight(left, held) + total_weight(right, held))
}

/// Whether the canonical sum of `held` leaves f32's range somewhere.
pub(super) fn sum_overflows(root: SlotRange, held: &[Held], elements: usize) -> bool {
    let mut summer = Summer::default();
    let mut overflows = false;
    if summer.plan(root, held) {
        summer.each_tile(held, elements, 1.0, |_, sum| overflows |= sum.iter().any(|value| !value.is_finite()));
    }
    overflows
}
