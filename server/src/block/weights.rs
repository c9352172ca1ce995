//! Weights of one block at one step: immutable once made, and already the bytes to send.

use std::sync::Arc;

use bytes::Bytes;
use halflife_proto::ids::Step;
use halflife_proto::tensor_codec::Dtype;

#[cfg(target_endian = "big")]
compile_error!("weights are sent as they lie in memory, which must be little-endian");

/// The f32 values of a block. A type of its own so that [`Bytes`] can share it.
#[derive(Debug, Clone)]
struct Values(Arc<Vec<f32>>);

impl AsRef<[u8]> for Values {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// One version of a block's weights.
#[derive(Debug, Clone)]
pub struct Version {
    /// Updates they have seen.
    pub step: Step,
    /// Learning rate the last update used.
    pub lr: f64,
    /// Decay factor the last update used.
    pub decay: f64,
    values: Values,
}

impl Version {
    /// A version that owns its values.
    #[must_use]
    pub fn new(step: Step, lr: f64, decay: f64, values: Vec<f32>) -> Version {
        Version { step, lr, decay, values: Values(Arc::new(values)) }
    }

    /// The same values as another step's: a step that left the block alone.
    #[must_use]
    pub fn carried_to(&self, step: Step) -> Version {
        Version { step, ..self.clone() }
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values.0
    }

    /// The values as they go on the wire, shared, not copied.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.values.clone())
    }

    /// What goes to the workers, shared, not copied.
    #[must_use]
    pub fn to_send(&self) -> (Dtype, Bytes) {
        (Dtype::F32, self.bytes())
    }

    /// Takes the buffer back for the next version if nobody reads it any more.
    #[must_use]
    pub fn reclaim(self) -> Option<Vec<f32>> {
        Arc::into_inner(self.values.0)
    }
}
