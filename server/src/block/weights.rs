//! Weights of one block at one step: immutable once made, and already the bytes to send. On a lossy
//! wire those are a second array beside the f32 masters.

use std::sync::Arc;

use bytes::Bytes;
use halflife_proto::ids::Step;
use halflife_proto::tensor_codec::{Dtype, encode};

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

/// The values as the wire carries them. A type of its own so that [`Bytes`] can share it.
#[derive(Debug, Clone)]
struct Coded(Arc<Vec<u8>>);

impl AsRef<[u8]> for Coded {
    fn as_ref(&self) -> &[u8] {
        &self.0
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
    /// `None` where the values themselves are sent.
    coded: Option<(Dtype, Coded)>,
}

impl Version {
    /// A version that owns its values and sends them as they are.
    #[must_use]
    pub fn new(step: Step, lr: f64, decay: f64, values: Vec<f32>) -> Version {
        Version { step, lr, decay, values: Values(Arc::new(values)), coded: None }
    }

    /// The same, sent as `coded`, the encoding of its values in `dtype`; empty for f32.
    #[must_use]
    pub fn sent_as(mut self, dtype: Dtype, coded: Vec<u8>) -> Version {
        self.coded = dtype.is_lossy().then(|| (dtype, Coded(Arc::new(coded))));
        self
    }

    /// The same, encoded here; `buffer` may be one that is free.
    #[must_use]
    pub fn encoded_in(self, dtype: Dtype, mut buffer: Vec<u8>) -> Version {
        if dtype.is_lossy() {
            buffer.resize(dtype.encoded_bytes(self.values().len()), 0);
            encode(dtype, self.values(), &mut buffer);
        }
        self.sent_as(dtype, buffer)
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

    /// The bytes of the values, shared, not copied.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.values.clone())
    }

    /// What goes to the workers, shared, not copied.
    #[must_use]
    pub fn to_send(&self) -> (Dtype, Bytes) {
        match &self.coded {
            Some((dtype, coded)) => (*dtype, Bytes::from_owner(coded.clone())),
            None => (Dtype::F32, self.bytes()),
        }
    }

    /// Takes the buffers back for the next version, values and encoding, each if nobody reads it any
    /// more.
    #[must_use]
    pub fn reclaim(self) -> (Option<Vec<f32>>, Option<Vec<u8>>) {
        let coded = self.coded.and_then(|(_, coded)| Arc::into_inner(coded.0));
        (Arc::into_inner(self.values.0), coded)
    }
}
