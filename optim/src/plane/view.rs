//! Parts of planes: what kernels read and write.

use crate::config::StateDtype;
use std::ops::Range;

/// A part of a plane, to update.
#[derive(Debug, PartialEq)]
pub enum PlaneMut<'a> {
    /// Of `state_dtype = "f32"`.
    F32(&'a mut [f32]),
    /// Of `state_dtype = "bf16"`: the bits.
    Bf16(&'a mut [u16]),
}

impl PlaneMut<'_> {
    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// Whether it has no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values `range` of this part, to update.
    ///
    /// # Panics
    /// If the range leaves the part.
    #[must_use]
    pub fn slice_mut(&mut self, range: Range<usize>) -> PlaneMut<'_> {
        match self {
            Self::F32(values) => PlaneMut::F32(&mut values[range]),
            Self::Bf16(values) => PlaneMut::Bf16(&mut values[range]),
        }
    }

    /// The same values, to read.
    #[must_use]
    pub fn view(&self) -> PlaneRef<'_> {
        match self {
            Self::F32(values) => PlaneRef::F32(values),
            Self::Bf16(values) => PlaneRef::Bf16(values),
        }
    }

    /// Takes the values of another part, as they are stored.
    ///
    /// # Panics
    /// Unless it has the same length and dtype.
    pub fn copy_from(&mut self, other: PlaneRef<'_>) {
        match (self, other) {
            (Self::F32(values), PlaneRef::F32(other)) => values.copy_from_slice(other),
            (Self::Bf16(bits), PlaneRef::Bf16(other)) => bits.copy_from_slice(other),
            (to, from) => panic!("expected a plane of {:?}, got one of {:?}", to.view().dtype(), from.dtype()),
        }
    }

    /// The values of an f32 plane. Dtypes are checked before any loop runs.
    pub(crate) fn f32(&mut self) -> &mut [f32] {
        match self {
            Self::F32(values) => values,
            Self::Bf16(_) => panic!("expected an f32 plane, got bf16"),
        }
    }

    /// The bits of a bf16 plane.
    pub(crate) fn bf16(&mut self) -> &mut [u16] {
        match self {
            Self::Bf16(values) => values,
            Self::F32(_) => panic!("expected a bf16 plane, got f32"),
        }
    }
}

impl<'a> From<&'a mut [f32]> for PlaneMut<'a> {
    fn from(values: &'a mut [f32]) -> Self {
        Self::F32(values)
    }
}

/// A part of a plane, to read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PlaneRef<'a> {
    /// Of `state_dtype = "f32"`.
    F32(&'a [f32]),
    /// Of `state_dtype = "bf16"`: the bits.
    Bf16(&'a [u16]),
}

impl<'a> PlaneRef<'a> {
    /// Number of values.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether it has no values.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// How a value is stored.
    #[must_use]
    pub fn dtype(self) -> StateDtype {
        match self {
            Self::F32(_) => StateDtype::F32,
            Self::Bf16(_) => StateDtype::Bf16,
        }
    }

    /// The values `range` of this part.
    ///
    /// # Panics
    /// If the range leaves the part.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> PlaneRef<'a> {
        match self {
            Self::F32(values) => PlaneRef::F32(&values[range]),
            Self::Bf16(values) => PlaneRef::Bf16(&values[range]),
        }
    }
}
