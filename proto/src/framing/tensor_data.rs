//! Tensor data in the pieces in which it came.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

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
