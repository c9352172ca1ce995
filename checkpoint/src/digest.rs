//! Digests of what a block holds, taken from the memory it was in.
//!
//! BLAKE3 throughout. What is hashed begins with a text that says what it is of, and everything of
//! variable length has its length before it: no two different things are hashed alike. Arrays are
//! hashed alone and blocks over their arrays' digests, so that the weights have a digest of their own
//! without being read twice, and can be checked without the planes.

use halflife_proto::blocks::BlockId;

use crate::contents::ArrayDtype;

/// A hasher with the encoding of numbers and texts.
struct Encoder(blake3::Hasher);

impl Encoder {
    fn new(domain: &str) -> Encoder {
        Encoder(blake3::Hasher::new()).text(domain)
    }

    fn number(mut self, number: u64) -> Encoder {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Encoder {
        self.data(text.as_bytes())
    }

    fn data(self, data: &[u8]) -> Encoder {
        let mut encoder = self.number(data.len() as u64);
        encoder.0.update(data);
        encoder
    }

    fn digests(self, digests: impl ExactSizeIterator<Item = [u8; 32]>) -> [u8; 32] {
        let mut encoder = self.number(digests.len() as u64);
        for digest in digests {
            encoder.0.update(&digest);
        }
        encoder.finish()
    }

    fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Digest of one array of a block.
pub fn array(name: &str, dtype: ArrayDtype, data: &[u8]) -> [u8; 32] {
    Encoder::new("halflife array v1").text(name).text(dtype.safetensors_name()).data(data).finish()
}

/// Digest of a block: where it belongs, its updates, and its arrays in order.
pub fn block(block: BlockId, updates: u64, arrays: impl ExactSizeIterator<Item = [u8; 32]>) -> [u8; 32] {
    Encoder::new("halflife block v1")
        .number(u64::from(block.tensor.0))
        .number(u64::from(block.index))
        .number(updates)
        .digests(arrays)
}

/// Digest of the weights of all blocks: of their weights arrays' digests, in block order.
pub fn weights(arrays: impl ExactSizeIterator<Item = [u8; 32]>) -> [u8; 32] {
    Encoder::new("halflife weights v1").digests(arrays)
}

/// Digest of the whole state: of all blocks' digests, in block order.
pub fn state(blocks: impl ExactSizeIterator<Item = [u8; 32]>) -> [u8; 32] {
    Encoder::new("halflife state v1").digests(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::ids::TensorIndex;

    #[test]
    fn an_array_is_hashed_in_the_documented_encoding() {
        let mut bytes = Vec::new();
        for text in ["halflife array v1", "m", "BF16"] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(4u64.to_le_bytes());
        bytes.extend([1, 2, 3, 4]);
        assert_eq!(array("m", ArrayDtype::Bf16, &[1, 2, 3, 4]), *blake3::hash(&bytes).as_bytes());
    }

    #[test]
    fn every_part_of_a_block_changes_its_digest() {
        let id = |tensor, index| BlockId { tensor: TensorIndex(tensor), index };
        let of = |id, updates, arrays: &[[u8; 32]]| block(id, updates, arrays.iter().copied());
        let digests = [
            of(id(0, 1), 5, &[[1; 32], [2; 32]]),
            of(id(1, 0), 5, &[[1; 32], [2; 32]]),
            of(id(0, 1), 6, &[[1; 32], [2; 32]]),
            of(id(0, 1), 5, &[[2; 32], [1; 32]]),
            of(id(0, 1), 5, &[[1; 32]]),
            array("m", ArrayDtype::F32, &[0; 4]),
            array("v", ArrayDtype::F32, &[0; 4]),
            array("m", ArrayDtype::Bf16, &[0; 4]),
            array("m", ArrayDtype::F32, &[]),
        ];
        let different: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(different.len(), digests.len());
    }
}
