//! Weights of one block at one step: immutable once made, and already the bytes to send. On a lossy
//! wire those are a second array beside the f32 masters.
//!
//! A buffer goes round: an update writes into it, it is shared with every session that sends it, and
//! once nobody reads it any more a later update writes into it again. No step allocates.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use halflife_proto::ids::Step;
use halflife_proto::tensor_codec::{Dtype, encode};

#[cfg(target_endian = "big")]
compile_error!("weights are sent as they lie in memory, which must be little-endian");

/// Alignment of the values: a cache line, so that no vector access of an update straddles two.
const ALIGNMENT: usize = 64;

/// Values of a block in the making.
pub struct WeightsBuffer {
    values: BytesMut,
    /// What a lossy wire carries; `None` where the values themselves are sent.
    coded: Option<(Dtype, BytesMut)>,
}

impl WeightsBuffer {
    /// Zeros that will be sent in `dtype`, one whose elements have a fixed size each.
    #[must_use]
    pub fn new(elements: usize, dtype: Dtype) -> WeightsBuffer {
        let values = aligned(size_of::<f32>() * elements);
        let coded = dtype.is_lossy().then(|| (dtype, aligned(dtype.encoded_bytes(elements))));
        WeightsBuffer { values, coded }
    }

    /// The values.
    pub fn values_mut(&mut self) -> &mut [f32] {
        // Aligned since `new`: a buffer never moves and never loses its front.
        bytemuck::cast_slice_mut(&mut self.values)
    }

    /// Writes some elements, then makes what the wire carries of them while they are in cache.
    pub fn write<T>(&mut self, elements: Range<usize>, write: impl FnOnce(&mut [f32]) -> T) -> T {
        let written = write(&mut self.values_mut()[elements.clone()]);
        if let Some((dtype, coded)) = &mut self.coded {
            let values: &[f32] = bytemuck::cast_slice(&self.values);
            let bytes = dtype.encoded_bytes(elements.start)..dtype.encoded_bytes(elements.end);
            encode(*dtype, &values[elements], &mut coded[bytes]);
        }
        written
    }
}

/// Zeroed bytes whose first is aligned.
fn aligned(bytes: usize) -> BytesMut {
    let mut whole = BytesMut::zeroed(bytes + 2 * ALIGNMENT);
    // Splitting, not only cutting, makes the buffer's owner a shared one from the beginning: going round
    // between writable and shared then allocates nothing.
    let begin = ALIGNMENT + whole[ALIGNMENT..].as_ptr().align_offset(ALIGNMENT);
    let mut aligned = whole.split_off(begin);
    aligned.truncate(bytes);
    aligned
}

impl fmt::Debug for WeightsBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeightsBuffer({} bytes)", self.values.len())
    }
}

/// One version of a block's weights.
#[derive(Clone)]
pub struct Version {
    /// Updates they have seen.
    pub step: Step,
    /// Learning rate the last update used.
    pub lr: f64,
    /// Decay factor the last update used.
    pub decay: f64,
    /// Aligned for f32.
    values: Bytes,
    coded: Option<(Dtype, Bytes)>,
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { step, lr, decay, .. } = self;
        write!(f, "Version({step}, lr {lr}, decay {decay}, {:?})", self.values())
    }
}

impl Version {
    /// A version of what was [written](WeightsBuffer::write) into `buffer`.
    #[must_use]
    pub fn new(step: Step, lr: f64, decay: f64, buffer: WeightsBuffer) -> Version {
        let coded = buffer.coded.map(|(dtype, coded)| (dtype, coded.freeze()));
        Version { step, lr, decay, values: buffer.values.freeze(), coded }
    }

    /// The same values as another step's: a step that left the block alone.
    #[must_use]
    pub fn carried_to(&self, step: Step) -> Version {
        Version { step, ..self.clone() }
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        // As in `WeightsBuffer::values_mut`.
        bytemuck::cast_slice(&self.values)
    }

    /// The bytes of the values, shared, not copied.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.values.clone()
    }

    /// What goes to the workers, shared, not copied.
    #[must_use]
    pub fn to_send(&self) -> (Dtype, Bytes) {
        match &self.coded {
            Some((dtype, coded)) => (*dtype, coded.clone()),
            None => (Dtype::F32, self.bytes()),
        }
    }

    /// Takes the buffer back for a later version if nobody else reads it any more.
    ///
    /// # Errors
    /// The version, as it was, where somebody does.
    pub fn reclaim(self) -> Result<WeightsBuffer, Version> {
        if !self.values.is_unique() || self.coded.as_ref().is_some_and(|(_, coded)| !coded.is_unique()) {
            return Err(self);
        }
        let mutable = |bytes: Bytes| bytes.try_into_mut().expect("nobody else has it to make another from");
        let coded = self.coded.map(|(dtype, coded)| (dtype, mutable(coded)));
        Ok(WeightsBuffer { values: mutable(self.values), coded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(elements: usize, dtype: Dtype) -> Version {
        let mut buffer = WeightsBuffer::new(elements, dtype);
        buffer.write(0..elements, |values| values.fill(1.5));
        Version::new(Step(1), 0.0, 0.0, buffer)
    }

    #[test]
    fn a_buffer_comes_back_once_nobody_reads_it_and_stays_where_it_is() {
        for (elements, dtype) in [(1, Dtype::F32), (3, Dtype::F32), (3, Dtype::Bf16), (4096, Dtype::Bf16)] {
            let version = version(elements, dtype);
            assert_eq!(version.values(), vec![1.5; elements]);
            let (address, (sent_as, sent)) = (version.values().as_ptr(), version.to_send());
            assert_eq!((sent_as, sent.len()), (dtype, dtype.encoded_bytes(elements)));
            assert_eq!(address.align_offset(ALIGNMENT), 0);
            assert!(version.clone().reclaim().is_err(), "a clone and a session read it");
            drop(sent);
            let mut buffer = version.reclaim().expect("nobody reads it");
            assert_eq!(buffer.values_mut().as_ptr(), address);
            assert_eq!(buffer.values_mut().len(), elements);
        }
    }

    #[test]
    fn what_is_sent_in_bf16_are_the_upper_halves() {
        let mut buffer = WeightsBuffer::new(3, Dtype::Bf16);
        buffer.write(0..2, |values| values.copy_from_slice(&[1.0, -2.5]));
        buffer.write(2..3, |values| values[0] = 1.0 + 1.0 / 1024.0);
        let version = Version::new(Step(1), 0.0, 0.0, buffer);
        assert_eq!(version.to_send().1[..], [0x80, 0x3f, 0x20, 0xc0, 0x80, 0x3f]);
        assert_eq!(version.values()[2], 1.0 + 1.0 / 1024.0, "masters are kept");
    }
}
