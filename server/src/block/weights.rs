//! Weights of one block at one step: immutable once made, and already the bytes to send.
//!
//! A buffer goes round: an update writes into it, it is shared with every session that sends it, and
//! once nobody reads it any more a later update writes into it again. No step allocates.

use std::fmt;

use bytes::{Bytes, BytesMut};
use halflife_proto::ids::Step;

#[cfg(target_endian = "big")]
compile_error!("weights are sent as they lie in memory, which must be little-endian");

/// Alignment of the values: a cache line, so that no vector access of an update straddles two.
const ALIGNMENT: usize = 64;

/// Values of a block in the making.
pub struct WeightsBuffer(BytesMut);

impl WeightsBuffer {
    /// Zeros.
    #[must_use]
    pub fn new(elements: usize) -> WeightsBuffer {
        let bytes = size_of::<f32>() * elements;
        let mut whole = BytesMut::zeroed(bytes + 2 * ALIGNMENT);
        // Splitting, not only cutting, makes the buffer's owner a shared one from the beginning: going
        // round between writable and shared then allocates nothing.
        let begin = ALIGNMENT + whole[ALIGNMENT..].as_ptr().align_offset(ALIGNMENT);
        let mut aligned = whole.split_off(begin);
        aligned.truncate(bytes);
        WeightsBuffer(aligned)
    }

    /// The values.
    pub fn values_mut(&mut self) -> &mut [f32] {
        // Aligned since `new`: a buffer never moves and never loses its front.
        bytemuck::cast_slice_mut(&mut self.0)
    }

    fn freeze(self) -> Values {
        Values(self.0.freeze())
    }
}

impl fmt::Debug for WeightsBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeightsBuffer({} bytes)", self.0.len())
    }
}

/// The f32 values of a block, shared.
#[derive(Clone)]
struct Values(Bytes);

impl Values {
    fn as_slice(&self) -> &[f32] {
        // As in `WeightsBuffer::values_mut`.
        bytemuck::cast_slice(&self.0)
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
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
    /// A version of what was written into `buffer`.
    #[must_use]
    pub fn new(step: Step, lr: f64, decay: f64, buffer: WeightsBuffer) -> Version {
        Version { step, lr, decay, values: buffer.freeze() }
    }

    /// The same values as another step's: a step that left the block alone.
    #[must_use]
    pub fn carried_to(&self, step: Step) -> Version {
        Version { step, ..self.clone() }
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        self.values.as_slice()
    }

    /// The values as they go on the wire, shared, not copied.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.values.0.clone()
    }

    /// Takes the buffer back for a later version if nobody reads it any more.
    #[must_use]
    pub fn reclaim(self) -> Option<WeightsBuffer> {
        self.values.0.try_into_mut().ok().map(WeightsBuffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(elements: usize) -> Version {
        let mut buffer = WeightsBuffer::new(elements);
        buffer.values_mut().fill(1.5);
        Version::new(Step(1), 0.0, 0.0, buffer)
    }

    #[test]
    fn a_buffer_comes_back_once_nobody_reads_it_and_stays_where_it_is() {
        for elements in [1, 3, 4096] {
            let version = version(elements);
            assert_eq!(version.values(), vec![1.5; elements]);
            let (address, sent) = (version.values().as_ptr(), version.bytes());
            assert!(address.is_aligned() && address.align_offset(ALIGNMENT) == 0);
            assert!(version.clone().reclaim().is_none(), "a clone and a session read it");
            drop(sent);
            let mut buffer = version.reclaim().expect("nobody reads it");
            assert_eq!(buffer.values_mut().as_ptr(), address);
            assert_eq!(buffer.values_mut().len(), elements);
        }
    }
}
