//! The arithmetic of one step of one block: sum, mean, optimizer, in one pass over memory.
//!
//! An [`Update`] owns all it reads and writes, so it runs on any thread without a lock.

use std::sync::Arc;

use halflife_proto::contribution::Payload;
use halflife_proto::ids::Step;
use halflife_proto::job::Combine;
use halflife_proto::slots::SlotRange;

use super::gathering::Held;
use super::sum::{SumPlan, TILE_ELEMENTS};
use super::{Change, Planes, Rules, Version};

/// A step of a block, whole and ready to compute.
#[derive(Debug)]
pub struct Update {
    rules: Arc<Rules>,
    change: Change,
    step: Step,
    updates: u64,
    held: Vec<Held>,
    before: Version,
    recycled: Option<Vec<f32>>,
    planes: Planes,
}

/// The result of an update.
#[derive(Debug)]
pub struct Applied {
    /// The weights after the step.
    pub weights: Version,
    /// The optimizer's state after the step.
    pub planes: Planes,
    /// Updates the tensor has had.
    pub updates: u64,
}

impl Update {
    #[expect(clippy::too_many_arguments, reason = "the parts of a block's state, each moved in once")]
    pub(super) fn new(
        rules: Arc<Rules>,
        change: Change,
        step: Step,
        updates: u64,
        held: Vec<Held>,
        before: Version,
        recycled: Option<Vec<f32>>,
        planes: Planes,
    ) -> Update {
        Update { rules, change, step, updates, held, before, recycled, planes }
    }

    /// Element additions and updates to come: what decides whether it runs inline.
    #[must_use]
    pub fn work(&self) -> usize {
        self.before.values().len() * self.held.len().max(1)
    }

    /// Computes it.
    #[must_use]
    pub fn run(self) -> Applied {
        let skipped = self.held.iter().any(|held| matches!(held.payload, Payload::Nonfinite));
        let plan = if skipped { None } else { SumPlan::new(self.rules.slots.root(), &self.held) };
        match plan {
            // Nobody had a gradient for this tensor (or the step is skipped): no update, no decay.
            None => Applied { weights: self.before.carried_to(self.step), planes: self.planes, updates: self.updates },
            Some(plan) => self.apply(&plan),
        }
    }

    fn apply(mut self, plan: &SumPlan) -> Applied {
        let elements = self.before.values().len();
        let mut after = self.recycled.take().unwrap_or_default();
        after.resize(elements, 0.0);
        let updates = self.updates + 1;
        let (lr, decay) = match self.change.clone() {
            Change::Optimized(rule) => {
                let factors = self.rules.optimizer.factors(&rule, self.step.0, updates);
                let Update { rules, held, before, planes, .. } = &mut self;
                let before = before.values();
                each_tile(plan, held, elements, scale(rules.combine, rules.slots.root(), held), |begin, gradient| {
                    let tile = begin..begin + gradient.len();
                    let mut planes: Vec<&mut [f32]> = planes.iter_mut().map(|plane| &mut plane[tile.clone()]).collect();
                    rules.optimizer.update(&factors, &before[tile.clone()], &mut after[tile], &mut planes, gradient);
                });
                (factors.lr(), factors.decay())
            }
            Change::Averaged | Change::Never => {
                // A buffer is the mean over slots, whatever gradients are combined by.
                let combine = match self.rules.combine {
                    Combine::Sum => Combine::Mean,
                    other => other,
                };
                each_tile(
                    plan,
                    &self.held,
                    elements,
                    scale(combine, self.rules.slots.root(), &self.held),
                    |begin, mean| {
                        after[begin..begin + mean.len()].copy_from_slice(mean);
                    },
                );
                (0.0, 0.0)
            }
        };
        Applied { weights: Version::new(self.step, lr, decay, after), planes: self.planes, updates }
    }
}

/// Runs the plan over the block and shows each tile's scaled sum with where it begins.
fn each_tile(plan: &SumPlan, held: &[Held], elements: usize, scale: f32, mut visit: impl FnMut(usize, &[f32])) {
    let mut registers = plan.registers();
    for begin in (0..elements).step_by(TILE_ELEMENTS) {
        let len = TILE_ELEMENTS.min(elements - begin);
        visit(begin, plan.run(held, begin, len, scale, &mut registers));
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
    let Some(plan) = SumPlan::new(root, held) else { return false };
    let mut overflows = false;
    each_tile(&plan, held, elements, 1.0, |_, sum| overflows |= sum.iter().any(|value| !value.is_finite()));
    overflows
}
