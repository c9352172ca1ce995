//! Gradient blocks in the wire's dtype, made as a stream is ready to send them.
//!
//! One per stream, so nothing is shared: a stream alone sends its server's blocks, and in one order.
//! f32 is sent from where it lies. Other dtypes are written into buffers that go round; as many are
//! out as the connection holds at once. Of i8 the encoder keeps what rounding took off each block
//! and adds it to the next slot sent for it (error feedback). So what is sent depends on what was sent
//! before: that residual belongs to this worker and this membership, whichever slots it computes,
//! and is lost with it. A slot that is not encoded (absent, nonfinite) leaves it as it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use halflife_proto::blocks::BlockId;
use halflife_proto::tensor_codec::{Dtype, Encoded, encode, encode_with_feedback};

use crate::block_plan::PlannedBlock;

/// Buffers kept for reuse at most: more than a connection holds at once wait for nothing.
const BUFFERS_MAX: usize = 4;

/// Encodes the blocks of one stream.
#[derive(Debug, Default)]
pub(crate) struct BlockEncoder {
    buffers: Buffers,
    residuals: HashMap<BlockId, Vec<f32>>,
}

impl BlockEncoder {
    /// The part of an arena's bytes that is `block`'s, as its contribution carries it.
    pub(crate) fn encode(&mut self, block: &PlannedBlock, arena: &Bytes) -> Encoded {
        let bytes = block.arena_bytes();
        let dtype = block.gradients;
        if dtype == Dtype::F32 {
            return Encoded::f32(arena.slice(bytes));
        }
        let values: &[f32] = bytemuck::cast_slice(&arena[bytes]);
        let mut buffer = self.buffers.take(dtype.encoded_bytes(values.len()));
        match dtype {
            Dtype::F32 | Dtype::Bf16 => encode(dtype, values, &mut buffer.bytes),
            Dtype::I8Scaled => {
                let residual = self.residuals.entry(block.id).or_insert_with(|| vec![0.0; values.len()]);
                encode_with_feedback(values, residual, &mut buffer.bytes);
            }
        }
        Encoded { dtype, bytes: Bytes::from_owner(buffer) }
    }
}

/// Buffers that are free. Clones share them.
#[derive(Clone, Debug, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// A buffer of `len` bytes of arbitrary content.
    fn take(&self, len: usize) -> Buffer {
        // A panic while the lock is held leaves a valid list behind.
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        bytes.resize(len, 0);
        Buffer { bytes, home: self.clone() }
    }
}

/// Encoded bytes on their way; the buffer is free again with the last slice of it.
struct Buffer {
    bytes: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < BUFFERS_MAX {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::ids::{ServerIndex, TensorIndex};

    fn block(index: u32, gradients: Dtype) -> PlannedBlock {
        let id = BlockId { tensor: TensorIndex(0), index };
        let begin = 2 * index as usize;
        PlannedBlock { id, arena: begin..begin + 2, server: ServerIndex(0), frozen: false, gradients }
    }

    fn arena(values: &[f32]) -> Bytes {
        #[derive(Debug)]
        struct Owner(Vec<f32>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Bytes::from_owner(Owner(values.to_vec()))
    }

    fn decoded(encoded: &Encoded) -> [f32; 2] {
        let mut values = [f32::NAN; 2];
        encoded.load(0, &mut values);
        values
    }

    #[test]
    fn f32_is_not_copied_and_bf16_is_rounded_alone() {
        let mut encoder = BlockEncoder::default();
        let arena = arena(&[1.0, 2.0, 1.0 + 1.0 / 256.0, -3.0]);
        let whole = encoder.encode(&block(1, Dtype::F32), &arena);
        assert_eq!(whole.bytes.as_ptr(), arena[8..].as_ptr());
        for _ in 0..2 {
            assert_eq!(decoded(&encoder.encode(&block(1, Dtype::Bf16), &arena)), [1.0, -3.0]);
        }
        assert!(encoder.residuals.is_empty());
    }

    #[test]
    fn buffers_go_round() {
        let mut encoder = BlockEncoder::default();
        let arena = arena(&[1.0, 2.0, 3.0, 4.0]);
        let mut addresses = std::collections::HashSet::new();
        for _ in 0..10 {
            let both = [0, 1].map(|index| encoder.encode(&block(index, Dtype::Bf16), &arena));
            addresses.extend(both.iter().map(|encoded| encoded.bytes.as_ptr()));
        }
        assert_eq!(addresses.len(), 2);
    }

    #[test]
    fn what_i8_takes_off_a_block_is_added_to_its_next_slot() {
        let mut encoder = BlockEncoder::default();
        let arena = arena(&[127.0, 0.4, 0.0, 0.0]);
        let sent: Vec<f32> = (0..5).map(|_| decoded(&encoder.encode(&block(0, Dtype::I8Scaled), &arena))[1]).collect();
        assert_eq!(sent, [0.0, 1.0, 0.0, 1.0, 0.0], "0.4, 0.8, 0.2, 0.6, 0 + 0.4 to be sent");
        assert_eq!(decoded(&encoder.encode(&block(1, Dtype::I8Scaled), &arena)), [0.0, 0.0], "another block's own");
    }
}
