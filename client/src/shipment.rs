//! One node's gradient on its way: one arena, shared by all streams, cut into a block's
//! contribution and encoded only when a stream is ready to send it.

use std::sync::Arc;

use bytes::Bytes;
use halflife_proto::contribution::{Contribution, Payload};
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
}

#[derive(Clone, Debug)]
enum Content {
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
        Shipment { step: Step::ZERO, slots: SlotRange { begin: 0, end: 1 }, weight: 1.0, content }
    }

    /// The gradient of node `slots` of `step`. Its arena goes to `buffers` once it is sent.
    pub(crate) fn gradient(step: Step, slots: SlotRange, sum: NodeGradient, buffers: &BufferPool) -> Shipment {
        let NodeGradient { values, absent, nonfinite, weight } = sum;
        let content = match nonfinite {
            true => Content::Nonfinite,
            false => Content::Dense { data: arena_bytes(values, buffers), absent: Arc::new(absent) },
        };
        Shipment { step, slots, weight, content }
    }

    /// What `block` receives, `None` if it takes no contribution. To be asked once per block and
    /// shipment: `encoder` counts what it encodes as sent.
    pub(crate) fn contribution(
        &self,
        block: &PlannedBlock,
        generation: Generation,
        encoder: &mut BlockEncoder,
    ) -> Option<Contribution> {
        let payload = match &self.content {
            Content::Initial(data) => Payload::Dense(Encoded::f32(data.slice(block.arena_bytes()))),
            _ if block.frozen => return None,
            Content::Nonfinite => Payload::Nonfinite,
            Content::Dense { absent, .. } if absent.contains(block.id.tensor) => Payload::Absent,
            Content::Dense { data, .. } => Payload::Dense(encoder.encode(block, data)),
        };
        let Shipment { step, slots, weight, .. } = *self;
        Some(Contribution { block: block.id, generation, step, slots, weight, payload })
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
    use halflife_proto::ids::TensorIndex;
    use halflife_proto::job::Wire;
    use halflife_proto::tensor_codec::Dtype;

    fn payloads(shipment: &Shipment) -> Vec<Option<Payload>> {
        let (_, plan) = example::plan();
        let mut encoder = BlockEncoder::default();
        let payload = |block| Some(shipment.contribution(block, Generation(1), &mut encoder)?.payload);
        plan.blocks().iter().map(payload).collect()
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
        let sent = plan.blocks().iter().filter_map(|block| {
            match shipment.contribution(block, Generation(1), &mut encoder)?.payload {
                Payload::Dense(data) => Some((data.dtype, data.bytes.len())),
                Payload::Absent | Payload::Nonfinite => None,
            }
        });
        let (bf16, f32) = (Dtype::Bf16, Dtype::F32);
        assert_eq!(sent.collect::<Vec<_>>(), [(bf16, 4), (bf16, 4), (bf16, 2), (f32, 4)]);
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
