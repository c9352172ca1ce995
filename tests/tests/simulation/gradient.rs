//! What the simulated workers compute: cheap, a function of (job seed, step, slot, element) and of the weights, so
//! that a stale or torn version, a slot missing or counted twice all change the bits.

use halflife_client::{SlotGradient, TensorSet};
use halflife_proto::ids::{Step, TensorIndex};

use crate::random::mix;
use crate::scenario::{Job, Mode, Nan};

/// Once in so many slots a tensor is absent from one.
const ABSENT_ONCE_IN: u64 = 9;
/// Once in so many slots a gradient is not finite, in jobs that let such steps pass.
const NAN_ONCE_IN: u64 = 150;

/// A number in [-1, 1) with 24 random bits.
fn unit(hash: u64) -> f32 {
    ((hash >> 40) as f32) / ((1u64 << 23) as f32) - 1.0
}

/// The weights that the job begins with.
pub fn initial_weights(seed: u64, elements: usize) -> Vec<f32> {
    (0..elements as u64).map(|element| unit(mix(&[seed, 1, element]))).collect()
}

/// The gradient of one slot of `step`, at the weights of the step before.
pub fn slot_gradient(job: &Job, step: Step, slot: u32, weights: &[f32]) -> SlotGradient {
    let key = mix(&[job.seed, 2, step.0, u64::from(slot)]);
    let elements = weights.len();
    let mut values: Vec<f32> = (0..elements)
        .map(|element| {
            // A far element's weight takes part: a version torn between two servers shows in both.
            let far = weights[(element * 7 + 3) % elements];
            unit(key.wrapping_mul(2 * element as u64 + 1)) + 0.25 * weights[element] - 0.125 * far
        })
        .collect();
    let mut absent = TensorSet::new();
    for tensor in job.trainable() {
        if mix(&[key, 3, u64::from(tensor)]).is_multiple_of(ABSENT_ONCE_IN) {
            absent.insert(TensorIndex(tensor));
        }
    }
    let is_nan = match job.nan {
        Nan::Never => false,
        Nan::Skipped => mix(&[key, 4]).is_multiple_of(NAN_ONCE_IN),
        Nan::StopsAt(fatal) if job.mode == Mode::Sync => step == fatal && slot == 0,
        // Whichever slots count, whichever tickets are void.
        Nan::StopsAt(fatal) => step >= fatal,
    };
    if is_nan {
        // Of the tensor that is never absent: the buffer.
        values[job.layout.range(TensorIndex(job.buffer())).start] = f32::NAN;
    }
    SlotGradient { values, absent, weight: (1 + key % 3) as f64 }
}
