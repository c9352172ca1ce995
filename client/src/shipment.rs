//! One node's gradient on its way: one arena, shared by all streams, cut into a block's
//! contribution and encoded only when a stream is ready to send it.

use std::sync::Arc;

use bytes::Bytes;
use halflife_proto::contribution::{Contribution, Payload, Push};
use halflife_proto::ids::{Generation, Step};
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::Encoded;

use crate::block_plan::PlannedBlock;
use crate::buffer_pool::BufferPool;
use crate::encoder::BlockEncoder;
use crate::gradient::NodeGradient;
use crate::tensor_set::TensorSet;

/// Everything a node contributes to a step. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shipment {
    step: Step,
    slots: SlotRange,
    weight: f64,
    content: Content,
    push: Option<PushOf>,
}

/// What a push says besides its gradient.
#[derive(Clone, Debug)]
struct PushOf {
    push: Push,
    /// By block number: the version that the gradient was computed at.
    versions: Arc<[Step]>,
}

#[derive(Clone, Debug)]
enum Content {
    /// No contribution: a mark that the server sends back.
    Mark(u64),
    /// Weights of step 0, of every block.
    Initial(Bytes),
    Dense {
        data: Bytes,
        absent: Arc<TensorSet>,
    },
    Nonfinite,
}

impl Shipment {
    /// The initial weights: a contribution to step 0.
    pub(crate) fn initial(weights: Vec<f32>, buffers: &BufferPool) -> Shipment {
        let content = Content::Initial(arena_bytes(weights, buffers));
        Shipment { step: Step::ZERO, slots: SlotRange { begin: 0, end: 1 }, weight: 1.0, content, push: None }
    }

    /// A mark: it comes back behind the weights that wait at the server when it arrives.
    pub(crate) fn mark(number: u64) -> Shipment {
        let slots = SlotRange { begin: 0, end: 1 };
        Shipment { step: Step::ZERO, slots, weight: 0.0, content: Content::Mark(number), push: None }
    }

    /// The step it is of; of a push, its ticket's.
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// The number of a mark, `None` for anything else.
    pub(crate) fn mark_number(&self) -> Option<u64> {
        match self.content {
            Content::Mark(number) => Some(number),
            Content::Initial(_) | Content::Dense { .. } | Content::Nonfinite => None,
        }
    }

    /// The same gradient as a push, computed at these versions of the blocks.
    pub(crate) fn into_push(self, push: Push, versions: Arc<[Step]>) -> Shipment {
        Shipment { push: Some(PushOf { push, versions }), ..self }
    }

    /// The gradient of node `slots` of `step`. Its arena goes to `buffers` once it is sent.
    pub(crate) fn gradient(step: Step, slots: SlotRange, sum: NodeGradient, buffers: &BufferPool) -> Shipment {
        let NodeGradient { values, absent, nonfinite, weight } = sum;
        let content = match nonfinite {
            true => Content::Nonfinite,
            false => Content::Dense { data: arena_bytes(values, buffers), absent: Arc::new(absent) },
        };
        Shipment { step, slots, weight, content, push: None }
    }

    /// What block `number` receives, `None` if it takes no contribution. To be asked once per block and
    /// shipment: `encoder` counts what it encodes as sent.
    pub(crate) fn contribution(
        &self,
        number: usize,
        block: &PlannedBlock,
        generation: Generation,
        encoder: &mut BlockEncoder,
    ) -> Option<Contribution> {
        let payload = match &self.content {
            Content::Initial(data) => Payload::Dense(Encoded::f32(data.slice(block.arena_bytes()))),
            Content::Mark(_) => return None,
            _ if block.frozen => return None,
            Content::Nonfinite => Payload::Nonfinite,
            Content::Dense { absent, .. } if absent.contains(block.id.tensor) => Payload::Absent,
            Content::Dense { data, .. } => Payload::Dense(encoder.encode(block, data)),
        };
        let Shipment { step, slots, weight, .. } = *self;
        let (step, push) = match &self.push {
            Some(PushOf { push, versions }) => (versions[number], Some(*push)),
            None => (step, None),
        };
        Some(Contribution { block: block.id, generation, step, slots, weight, payload, push })
    }
}

/// An arena seen as its little-endian bytes; it returns to its pool with the last slice of it.
struct Arena {
    values: Vec<f32>,
    buffers: BufferPool,
}

impl AsRef<[u8]> for Arena {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.values)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.values));
    }
}

fn arena_bytes(values: Vec<f32>, buffers: &BufferPool) -> Bytes {
    Bytes::from_owner(Arena { values, buffers: buffers.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_plan::example;
    use halflife_proto::ids::{TensorIndex, Ticket};
    use halflife_proto::job::Wire;
    use halflife_proto::tensor_codec::Dtype;

    fn payloads(shipment: &Shipment) -> Vec<Option<Payload>> {
        let (_, plan) = example::plan();
        let mut encoder = BlockEncoder::default();
        let payload =
            |(number, block)| Some(shipment.contribution(number, block, Generation(1), &mut encoder)?.payload);
        plan.blocks().iter().enumerate().map(payload).collect()
    }

    fn dense(values: &[f32]) -> Option<Payload> {
        Some(Payload::Dense(Encoded::f32(bytemuck::cast_slice::<f32, u8>(values).to_vec())))
    }

    fn values() -> Vec<f32> {
        (0..8).map(|value| value as f32).collect()
    }

    #[test]
    fn a_gradient_goes_to_every_block_but_the_frozen_ones() {
        let pool = BufferPool::new(8);
        let node = SlotRange { begin: 0, end: 2 };
        let sum = NodeGradient { values: values(), absent: TensorSet::new(), nonfinite: false, weight: 2.0 };
        let absent: TensorSet = [TensorIndex(1)].into_iter().collect();
        let sent = |sum| payloads(&Shipment::gradient(Step(1), node, sum, &pool));
        assert_eq!(sent(sum.clone()), [None, dense(&[2., 3.]), dense(&[4., 5.]), dense(&[6.]), dense(&[7.])]);
        let w = Some(Payload::Absent);
        assert_eq!(sent(NodeGradient { absent, ..sum.clone() }), [None, w.clone(), w.clone(), w, dense(&[7.])]);
        let bad = Some(Payload::Nonfinite);
        let nonfinite = NodeGradient { nonfinite: true, values: Vec::new(), ..sum };
        assert_eq!(sent(nonfinite), [None, bad.clone(), bad.clone(), bad.clone(), bad]);
    }

    #[test]
    fn gradients_travel_in_the_wires_dtype_and_buffers_in_f32() {
        let (_, plan) = example::plan_with(Wire { gradients: Dtype::Bf16, weights: Dtype::F32 });
        let (pool, mut encoder) = (BufferPool::new(8), BlockEncoder::default());
        let node = SlotRange { begin: 0, end: 1 };
        let sum = NodeGradient { values: values(), absent: TensorSet::new(), nonfinite: false, weight: 1.0 };
        let shipment = Shipment::gradient(Step(1), node, sum, &pool);
        let sent = plan.blocks().iter().enumerate().filter_map(|(number, block)| {
            match shipment.contribution(number, block, Generation(1), &mut encoder)?.payload {
                Payload::Dense(data) => Some((data.dtype, data.bytes.len())),
                Payload::Absent | Payload::Nonfinite => None,
            }
        });
        let (bf16, f32) = (Dtype::Bf16, Dtype::F32);
        assert_eq!(sent.collect::<Vec<_>>(), [(bf16, 4), (bf16, 4), (bf16, 2), (f32, 4)]);
    }

    #[test]
    fn a_push_names_its_ticket_and_the_version_of_each_block() {
        let (_, plan) = example::plan();
        let (pool, mut encoder) = (BufferPool::new(8), BlockEncoder::default());
        let node = SlotRange { begin: 0, end: 4 };
        let sum = NodeGradient { values: values(), absent: TensorSet::new(), nonfinite: false, weight: 4.0 };
        let push = Push { ticket: Ticket(7), sequence: 2 };
        let versions: Arc<[Step]> = (10..15).map(Step).collect();
        let shipment = Shipment::gradient(Step(7), node, sum, &pool).into_push(push, versions);
        let sent = plan.blocks().iter().enumerate().filter_map(|(number, block)| {
            let contribution = shipment.contribution(number, block, Generation(1), &mut encoder)?;
            Some((contribution.step.0, contribution.push))
        });
        assert_eq!(sent.collect::<Vec<_>>(), [11, 12, 13, 14].map(|version| (version, Some(push))));
        assert_eq!((shipment.mark_number(), Shipment::mark(3).mark_number()), (None, Some(3)));
        assert_eq!(payloads(&Shipment::mark(3)), [const { None }; 5]);
    }

    #[test]
    fn initial_weights_go_to_every_block_and_the_arena_comes_back() {
        let pool = BufferPool::new(8);
        let values = values();
        let address = values.as_ptr();
        let shipment = Shipment::initial(values, &pool);
        assert_eq!(payloads(&shipment)[0], dense(&[0., 1.]));
        drop(shipment);
        let recycled = pool.take();
        assert_eq!(recycled.as_ptr(), address);
    }
}
