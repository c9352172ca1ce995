//! Tensor data in the pieces in which it came.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::tensor_codec::{Dtype, Encoded, load_bf16_pieces};

/// Bytes of tensor data, not necessarily in one piece.
#[derive(Clone, Debug, Default)]
pub struct TensorData {
    /// Mostly one or two: a message comes in few HTTP/2 frames.
    pieces: SmallVec<[Bytes; 3]>,
    len: usize,
}

impl TensorData {
    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies all of it.
    ///
    /// # Panics
    /// If `target` is of another length.
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.len, "target of tensor data");
        let mut rest = target;
        for piece in &self.pieces {
            let (part, after) = rest.split_at_mut(piece.len());
            part.copy_from_slice(piece);
            rest = after;
        }
    }

    /// Decodes all of it.
    ///
    /// # Panics
    /// If it is not the encoding of as many elements as `target` has.
    pub fn decode_to(&self, dtype: Dtype, target: &mut [f32]) {
        assert_eq!(dtype.encoded_bytes(target.len()), self.len, "bytes of {} {dtype} elements", target.len());
        match dtype {
            Dtype::F32 => self.copy_to(bytemuck::cast_slice_mut(target)),
            Dtype::Bf16 => load_bf16_pieces(&self.pieces, target),
            // Nobody sends weights so; the scales stand apart from the values.
            Dtype::I8Scaled => Encoded { dtype, bytes: self.clone().into_contiguous() }.load(0, target),
        }
    }

    /// All of it in one piece; copied only where it came in several.
    #[must_use]
    pub fn into_contiguous(mut self) -> Bytes {
        match self.pieces.len() {
            0 => Bytes::new(),
            1 => self.pieces.swap_remove(0),
            _ => {
                let mut whole = BytesMut::with_capacity(self.len);
                self.pieces.iter().for_each(|piece| whole.put_slice(piece));
                whole.freeze()
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = TensorData::default();
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.pieces.push(piece);
    }
}

impl From<Bytes> for TensorData {
    fn from(bytes: Bytes) -> TensorData {
        let mut data = TensorData::default();
        if !bytes.is_empty() {
            data.push(bytes);
        }
        data
    }
}

/// The same bytes, however they are cut.
impl PartialEq for TensorData {
    fn eq(&self, other: &TensorData) -> bool {
        let bytes = |data: &TensorData| data.clone().into_contiguous();
        self.len == other.len && bytes(self) == bytes(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_is_decoded_from_its_pieces() {
        let values: Vec<f32> = (0..600).map(|i| (i as f32 - 300.0) / 8.0).collect();
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::I8Scaled] {
            let mut bytes = vec![0; dtype.encoded_bytes(values.len())];
            crate::tensor_codec::encode(dtype, &values, &mut bytes);
            let mut expected = values.clone();
            crate::tensor_codec::round(dtype, &mut expected);
            let mut data = TensorData::default();
            bytes.chunks(33).for_each(|piece| data.push(Bytes::copy_from_slice(piece)));
            let mut found = vec![f32::NAN; values.len()];
            data.decode_to(dtype, &mut found);
            assert_eq!(found, expected, "{dtype}");
        }
    }

    #[test]
    fn pieces_are_one_array() {
        let mut data = TensorData::default();
        assert!(data.is_empty() && data.clone().into_contiguous().is_empty());
        data.push(Bytes::from_static(&[1, 2, 3]));
        data.push(Bytes::from_static(&[4]));
        let mut copy = [0; 4];
        data.copy_to(&mut copy);
        assert_eq!((copy, data.len()), ([1, 2, 3, 4], 4));
        assert_eq!(data, TensorData::from(Bytes::from_static(&[1, 2, 3, 4])));
        assert_ne!(data, TensorData::from(Bytes::from_static(&[1, 2, 3, 5])));
    }
}
