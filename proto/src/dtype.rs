//! Dtypes: how the elements of a block are encoded.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Elements that share a scale in [`Dtype::I8Scaled`]. The scale is 1.6 % on top of the values;
/// smaller groups fit better and cost more, larger ones let one outlier coarsen more neighbours.
/// A power of two, so that aligned blocks of any size from here on are cut into the same groups.
pub const SCALED_GROUP_ELEMENTS: usize = 256;

/// How elements are encoded. Always little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE 754 binary32. The dtype of every tensor, and of the wire unless the job says otherwise.
    #[default]
    F32,
    /// The upper half of an f32, rounded to nearest, ties to even.
    Bf16,
    /// Signed bytes with an f32 scale per [`SCALED_GROUP_ELEMENTS`] elements.
    #[serde(rename = "i8")]
    I8Scaled,
}

impl Dtype {
    /// Bytes that `elements` elements take.
    #[must_use]
    pub fn encoded_bytes(self, elements: usize) -> usize {
        match self {
            Dtype::F32 => 4 * elements,
            Dtype::Bf16 => 2 * elements,
            Dtype::I8Scaled => 4 * elements.div_ceil(SCALED_GROUP_ELEMENTS) + elements,
        }
    }

    /// Whether encoding rounds. What is lossy is never a sum of slots: each is encoded alone.
    #[must_use]
    pub fn is_lossy(self) -> bool {
        self != Dtype::F32
    }

    /// Largest magnitude that can be encoded; a slot with a larger one is sent as nonfinite.
    ///
    /// Of bf16: the f32 before the first that rounds to infinity. Of i8: half of f32's range, so that
    /// a gradient and the error carried over from those before it always have a sum.
    #[must_use]
    pub fn magnitude_max(self) -> f32 {
        match self {
            Dtype::F32 => f32::MAX,
            Dtype::Bf16 => f32::from_bits(0x7f7f_7fff),
            Dtype::I8Scaled => f32::MAX / 2.0,
        }
    }
}

/// As the job file names it.
impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::I8Scaled => "i8",
        })
    }
}
