//! The part of a worker that computes: node gradients and scores. Plain blocking code; the caller
//! keeps it off the runtime's threads.

use halflife_client::{BufferPool, Layout, NodeGradient, NodeSum, NodeSumError, SlotGradient, TensorSet};
use halflife_proto::ids::Step;
use halflife_proto::job::{Combine, JobDescription};
use halflife_proto::manifest::Manifest;
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::Dtype;
use halflife_proto::workload::{TrainingSettings, Workload};
use thiserror::Error;

use crate::data::{self, DataError, Parts};
use crate::model::{self, Model, ModelError};
use crate::report::Scores;
use crate::sampling::Sampler;

/// Why something could not be computed.
#[derive(Debug, Error)]
pub enum ComputationError {
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot be built or computed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The slots' gradients cannot be summed.
    #[error(transparent)]
    Sum(#[from] NodeSumError),
}

/// Everything a worker computes with: data, model, and the rule that says which samples a slot has.
pub struct Computation {
    parts: Parts,
    model: Box<dyn Model>,
    sampler: Sampler,
    samples_per_slot: u32,
    combine: Combine,
    gradients: Dtype,
    layout: Layout,
    buffers: BufferPool,
}

/// A node's gradient and what it cost.
pub struct NodeResult {
    /// To be contributed.
    pub gradient: NodeGradient,
    /// Mean loss over the node's samples, in nats.
    pub loss: f32,
}

impl Computation {
    /// Reads the data and builds the model.
    ///
    /// # Errors
    /// [`ComputationError::Data`] and [`ComputationError::Model`].
    pub fn prepare(workload: &Workload, job: &JobDescription) -> Result<Computation, ComputationError> {
        let parts = data::load(&workload.data, job.seed)?;
        let model = model::build(&workload.model, parts.train.features_per_sample(), parts.train.classes())?;
        let TrainingSettings { samples_per_slot, eval_every: _ } = workload.training;
        let layout = Layout::new(model.manifest());
        Ok(Computation {
            sampler: Sampler::new(job.seed, parts.train.samples(), job.slots, samples_per_slot),
            samples_per_slot,
            combine: job.combine,
            gradients: job.wire.gradients,
            buffers: BufferPool::new(layout.elements()),
            layout,
            model,
            parts,
        })
    }

    /// The model's tensors.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.model.manifest()
    }

    /// The data.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Sends the arenas of summed slots to `buffers`, where sent gradients come back to.
    pub fn use_buffers(&mut self, buffers: BufferPool) {
        self.buffers = buffers;
    }

    /// The first weights.
    #[must_use]
    pub fn initialize(&self, seed: u64) -> Vec<f32> {
        self.model.initialize(seed)
    }

    /// The gradient of `node` of `step` at `weights`, those of the step before.
    ///
    /// # Errors
    /// [`ComputationError::Model`], and `Sum` should the model break its own manifest.
    pub fn node(&mut self, step: Step, node: SlotRange, weights: &[f32]) -> Result<NodeResult, ComputationError> {
        let mut sum = NodeSum::new(&self.layout, self.combine, self.gradients, node, self.buffers.clone());
        let mut loss = 0.0;
        while let Some(slot) = sum.next_slot() {
            let samples = self.parts.train.select(&self.sampler.slot(step, slot));
            let gradient = self.model.gradient(weights, samples.batch())?;
            loss += f64::from(gradient.loss);
            let weight = f64::from(self.samples_per_slot);
            sum.add(SlotGradient { values: gradient.values, absent: TensorSet::new(), weight })?;
        }
        Ok(NodeResult { gradient: sum.finish()?, loss: (loss / f64::from(node.count())) as f32 })
    }

    /// Loss and accuracy of `weights`, those after `step` updates.
    ///
    /// # Errors
    /// [`ComputationError::Model`].
    pub fn scores(&self, weights: &[f32], step: Step) -> Result<Scores, ComputationError> {
        Ok(Scores::of(&*self.model, weights, &self.parts, step.0)?)
    }
}

#[cfg(test)]
mod tests {
    use halflife_proto::ids::{Generation, JobId};
    use halflife_proto::job::{Consistency, Wire};

    use super::*;

    fn computation(combine: Combine) -> Computation {
        let text = "[model]\nkind = \"softmax\"\n[data]\nkind = \"digits\"\n[training]\nsamples_per_slot = 3";
        let job = JobDescription {
            id: JobId("j".to_owned()),
            generation: Generation(1),
            seed: 1,
            slots: 8,
            steps: 10,
            block_elements: 256,
            combine,
            consistency: Consistency::default(),
            workload_toml: text.to_owned(),
            spec_revision: 0,
            optimizer_toml: String::new(),
            wire: Wire::default(),
            keeps_checkpoints: false,
        };
        Computation::prepare(&Workload::from_toml(text).unwrap(), &job).unwrap()
    }

    fn range(begin: u32, end: u32) -> SlotRange {
        SlotRange::new(begin, end).unwrap()
    }

    #[test]
    fn the_sum_of_two_nodes_is_their_parent_bit_for_bit() {
        let mut computation = computation(Combine::Mean);
        let weights = computation.initialize(1);
        let mut node = |begin, end| computation.node(Step(4), range(begin, end), &weights).unwrap().gradient;
        let (left, right, parent) = (node(0, 4), node(4, 8), node(0, 8));
        let summed = left.values.iter().zip(&right.values).map(|(left, right)| left + right);
        assert!(summed.map(f32::to_bits).eq(parent.values.iter().map(|value| value.to_bits())));
        assert_eq!(parent.weight, 8.0);
    }

    #[test]
    fn a_weighted_slot_weighs_its_samples() {
        let mut computation = computation(Combine::WeightedMean);
        let weights = computation.initialize(1);
        assert_eq!(computation.node(Step(1), range(2, 4), &weights).unwrap().gradient.weight, 6.0);
    }

    #[test]
    fn weights_that_are_not_numbers_give_a_nonfinite_node() {
        let mut computation = computation(Combine::Mean);
        let weights = vec![f32::NAN; computation.initialize(1).len()];
        assert!(computation.node(Step(1), range(0, 2), &weights).unwrap().gradient.nonfinite);
    }
}
