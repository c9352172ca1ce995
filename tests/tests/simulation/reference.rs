//! What a job with a quorum must come to: a step from exactly the slots that the lead has fixed, computed beside the
//! run, by the optimizers themselves and none of the server's code.
//!
//! Which slots make a step is decided in the run, so that no undisturbed run could be compared with: the reference
//! follows the lead, one step at a time.

use std::collections::{BTreeMap, HashMap};

use halflife_client::{BufferPool, NodeGradient, NodeSum};
use halflife_optim::{Optimizer, Parameters};
use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::ids::{Step, TensorIndex};
use halflife_proto::job::Combine;
use halflife_proto::manifest::Role;
use halflife_proto::slots::{SlotRange, SlotTree};
use halflife_proto::tensor_codec::round;

use crate::gradient::{initial_weights, slot_gradient};
use crate::promises::History;
use crate::scenario::{BLOCK_ELEMENTS, Job};

/// The job, computed without servers.
pub struct Reference<'a> {
    job: &'a Job,
    optimizer: Optimizer,
    /// The tensors that the optimizer moves.
    parameters: Parameters,
    /// All weights, in full.
    masters: Vec<f32>,
    step: Step,
    /// Everything so far.
    pub history: History,
}

impl<'a> Reference<'a> {
    /// At its initial weights.
    pub fn new(job: &'a Job) -> Reference<'a> {
        let optimizer = Optimizer::new(&job.spec.optimizer, job.spec.job.steps).expect("a job spec's optimizer");
        let masters = initial_weights(job.seed, job.layout.elements());
        let mut parameters = Parameters::default();
        for index in job.trainable() {
            let tensor = &job.manifest.tensors()[index as usize];
            let shape: Vec<usize> = tensor.shape.iter().map(|dim| *dim as usize).collect();
            let weights = masters[job.layout.range(TensorIndex(index))].to_vec();
            parameters.add(&optimizer, &tensor.name, &shape, weights).expect("a tensor holds its elements");
        }
        let (step, history) = (Step::ZERO, History::default());
        let mut reference = Reference { job, optimizer, parameters, masters, step, history };
        reference.note();
        reference
    }

    /// The next step, of exactly these slots.
    pub fn advance(&mut self, slots: &[u32]) {
        self.step = self.step.next();
        let visible = self.visible();
        let gradients: BTreeMap<u32, NodeGradient> =
            slots.iter().map(|slot| (*slot, self.slot(*slot, &visible))).collect();
        if gradients.values().all(|gradient| !gradient.nonfinite) {
            self.apply(&gradients);
        }
        self.note();
    }

    /// What the workers compute at.
    fn visible(&self) -> Vec<f32> {
        let mut visible = self.masters.clone();
        round(self.job.spec.wire.weights, &mut visible);
        visible
    }

    /// A slot's gradient as it arrives.
    fn slot(&self, slot: u32, visible: &[f32]) -> NodeGradient {
        let (job, spec) = (self.job, &self.job.spec);
        let node = SlotRange { begin: slot, end: slot + 1 };
        let buffers = BufferPool::new(job.layout.elements());
        let mut sum = NodeSum::new(&job.layout, spec.job.combine, spec.wire.gradients, node, buffers);
        sum.add(slot_gradient(job, self.step, slot, visible)).expect("the simulator's gradients fit its jobs");
        let mut gradient = sum.finish().expect("the only slot was added");
        for index in job.trainable().filter(|_| !gradient.nonfinite) {
            round(
                spec.wire.contributions(&Role::Trainable),
                &mut gradient.values[job.layout.range(TensorIndex(index))],
            );
        }
        gradient
    }

    fn apply(&mut self, slots: &BTreeMap<u32, NodeGradient>) {
        let (job, combine) = (self.job, self.job.spec.job.combine);
        let root = SlotTree::new(job.spec.job.slots).expect("at least one slot").root();
        let mean = (1.0 / weight(root, slots)) as f32;
        let combined = |index: u32, scale: f32| {
            let mut gradient = sum(job, TensorIndex(index), root, slots)?;
            gradient.iter_mut().for_each(|value| *value *= scale);
            Some(gradient)
        };
        let scale = if combine == Combine::Sum { 1.0 } else { mean };
        let gradients: Vec<Option<Vec<f32>>> = job.trainable().map(|index| combined(index, scale)).collect();
        let gradients: Vec<Option<&[f32]>> = gradients.iter().map(Option::as_deref).collect();
        self.optimizer.step(&mut self.parameters, &gradients, self.step.0).expect("gradients fit their tensors");
        for (index, parameter) in job.trainable().zip(self.parameters.tensors()) {
            self.masters[job.layout.range(TensorIndex(index))].copy_from_slice(parameter.weights());
        }
        // A buffer is the mean, whatever gradients are combined by.
        if let Some(values) = combined(job.buffer(), mean) {
            self.masters[job.layout.range(TensorIndex(job.buffer()))].copy_from_slice(&values);
        }
    }

    fn note(&mut self) {
        let job = self.job;
        for (block, range) in all_blocks(&job.manifest, BLOCK_ELEMENTS as u64) {
            let begin = job.layout.range(block.tensor).start;
            let values = &self.masters[begin + range.start as usize..begin + range.end as usize];
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            blocks_of(&mut self.history, block).push(bytes);
        }
        let visible = self.visible();
        self.history.versions.push(visible);
    }
}

fn blocks_of(history: &mut History, block: BlockId) -> &mut Vec<Vec<u8>> {
    let blocks: &mut HashMap<BlockId, Vec<Vec<u8>>> = &mut history.blocks;
    blocks.entry(block).or_default()
}

/// The sum of a tensor's gradients along the tree (rule 2): who is not there adds nothing.
fn sum(job: &Job, tensor: TensorIndex, node: SlotRange, slots: &BTreeMap<u32, NodeGradient>) -> Option<Vec<f32>> {
    let Some((left, right)) = node.children() else {
        let gradient = slots.get(&node.begin).filter(|gradient| !gradient.absent.contains(tensor))?;
        return Some(gradient.values[job.layout.range(tensor)].to_vec());
    };
    match (sum(job, tensor, left, slots), sum(job, tensor, right, slots)) {
        (Some(mut left), Some(right)) => {
            left.iter_mut().zip(right).for_each(|(sum, value)| *sum += value);
            Some(left)
        }
        (left, right) => left.or(right),
    }
}

fn weight(node: SlotRange, slots: &BTreeMap<u32, NodeGradient>) -> f64 {
    match node.children() {
        Some((left, right)) => weight(left, slots) + weight(right, slots),
        None => slots.get(&node.begin).map_or(0.0, |gradient| gradient.weight),
    }
}
