//! Contents of a block: what a server hands over to be stored, and gets back.

use std::collections::HashSet;

use bytes::Bytes;
use halflife_proto::blocks::BlockId;
use serde::{Deserialize, Serialize};

/// Name of the array that every block has: its weights, f32.
pub const WEIGHTS: &str = "weights";

/// How the elements of an array are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayDtype {
    /// IEEE 754 binary32, little-endian.
    F32,
    /// The upper half of an f32, little-endian.
    Bf16,
}

impl ArrayDtype {
    /// Bytes of one element.
    #[must_use]
    pub fn element_bytes(self) -> u64 {
        match self {
            ArrayDtype::F32 => 4,
            ArrayDtype::Bf16 => 2,
        }
    }

    /// What safetensors calls it.
    #[must_use]
    pub fn safetensors_name(self) -> &'static str {
        match self {
            ArrayDtype::F32 => "F32",
            ArrayDtype::Bf16 => "BF16",
        }
    }
}

/// One array of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// [`WEIGHTS`], or the name of a plane.
    pub name: String,
    /// Encoding of the elements.
    pub dtype: ArrayDtype,
    /// The elements as they lie in memory; whole elements, possibly none.
    pub data: Bytes,
}

/// Everything stored of one block. Its arrays may differ in length: a plane may speak of the whole
/// tensor, or be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockContents {
    /// The block.
    pub block: BlockId,
    /// Name of its tensor.
    pub tensor: String,
    /// Updates the block has seen.
    pub updates: u64,
    /// [`WEIGHTS`] and the planes, in any order, which is kept; names are unique.
    pub arrays: Vec<Array>,
}

impl BlockContents {
    /// Bytes of all arrays.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.arrays.iter().map(|array| array.data.len() as u64).sum()
    }

    /// The array of a name.
    #[must_use]
    pub fn array(&self, name: &str) -> Option<&Array> {
        self.arrays.iter().find(|array| array.name == name)
    }
}

/// What is wrong with the arrays of a block, each a name, a dtype and a length in bytes: names differ, and elements are whole.
pub(crate) fn array_problem<'a>(arrays: impl Iterator<Item = (&'a str, ArrayDtype, u64)>) -> Option<String> {
    let mut names = HashSet::new();
    for (name, dtype, bytes) in arrays {
        if name.is_empty() || !names.insert(name) {
            return Some(format!("expected its arrays to have different names, found {name:?} twice or without one"));
        }
        let each = dtype.element_bytes();
        if !bytes.is_multiple_of(each) {
            return Some(format!("array {name:?}: expected elements of {each} bytes, found {bytes} bytes in all"));
        }
    }
    None
}
