//! The state a rule keeps beside the weights: what it is, and arrays of it.
//!
//! All per-element planes of an optimizer have one dtype, the configuration's `state_dtype`.
//! Kernels read it, compute in f32 and round once when they write.

mod view;

pub use view::{PlaneMut, PlaneRef};

use crate::bf16;
use crate::config::StateDtype;
use std::borrow::Cow;
use std::ops::Range;

/// How long a plane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// One value per element of the tensor.
    Element,
    /// One value per row of each trailing matrix of a tensor of rank 2 and more, nothing below.
    Row,
    /// One value per column of each trailing matrix of a tensor of rank 2 and more, nothing below.
    Column,
    /// One value per element of a tensor of rank 0 or 1, nothing above.
    VectorElement,
}

/// One array of state: its name, first value, length and dtype.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaneSpec {
    /// Name, as in checkpoints: `m`, `v`, ...
    pub name: &'static str,
    /// Value of every element before the first update.
    pub initial: f32,
    /// How long it is; [`Extent::Element`] for every rule but Adafactor.
    pub extent: Extent,
    /// How a value is stored; f32 unless `state_dtype` says otherwise.
    pub dtype: StateDtype,
}

impl PlaneSpec {
    pub(crate) const fn zeroed(name: &'static str) -> Self {
        Self::with_extent(name, Extent::Element)
    }

    pub(crate) const fn with_extent(name: &'static str, extent: Extent) -> Self {
        Self { name, initial: 0.0, extent, dtype: StateDtype::F32 }
    }

    pub(crate) const fn stored_as(self, dtype: StateDtype) -> Self {
        Self { dtype, ..self }
    }

    /// Number of values for a tensor of `shape`. An empty shape is one number.
    #[must_use]
    pub fn length(&self, shape: &[usize]) -> usize {
        let elements = shape.iter().product::<usize>();
        match (self.extent, shape) {
            (Extent::Element, _) | (Extent::VectorElement, [] | [_]) => elements,
            (Extent::Row, [batch @ .., rows, _]) => batch.iter().product::<usize>() * rows,
            (Extent::Column, [batch @ .., _, columns]) => batch.iter().product::<usize>() * columns,
            (Extent::VectorElement | Extent::Row | Extent::Column, _) => 0,
        }
    }
}

/// The values of a plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Plane {
    /// Of `state_dtype = "f32"`.
    F32(Vec<f32>),
    /// Of `state_dtype = "bf16"`: the bits, see [`bf16`].
    Bf16(Vec<u16>),
}

impl Plane {
    /// `len` values as they are before the first update.
    #[must_use]
    pub fn new(spec: &PlaneSpec, len: usize) -> Self {
        match spec.dtype {
            StateDtype::F32 => Self::F32(vec![spec.initial; len]),
            StateDtype::Bf16 => Self::Bf16(vec![bf16::round(spec.initial); len]),
        }
    }

    /// As many values of the same dtype, all zero.
    #[must_use]
    pub fn zeros_like(&self) -> Self {
        match self {
            Self::F32(values) => Self::F32(vec![0.0; values.len()]),
            Self::Bf16(values) => Self::Bf16(vec![0; values.len()]),
        }
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether it has no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How a value is stored.
    #[must_use]
    pub fn dtype(&self) -> StateDtype {
        match self {
            Self::F32(_) => StateDtype::F32,
            Self::Bf16(_) => StateDtype::Bf16,
        }
    }

    /// The values `range`, to read.
    ///
    /// # Panics
    /// If the range leaves the plane.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> PlaneRef<'_> {
        self.view().slice(range)
    }

    /// The values `range`, to update.
    ///
    /// # Panics
    /// If the range leaves the plane.
    #[must_use]
    pub fn slice_mut(&mut self, range: Range<usize>) -> PlaneMut<'_> {
        match self {
            Self::F32(values) => PlaneMut::F32(&mut values[range]),
            Self::Bf16(values) => PlaneMut::Bf16(&mut values[range]),
        }
    }

    /// All values, to read.
    #[must_use]
    pub fn view(&self) -> PlaneRef<'_> {
        match self {
            Self::F32(values) => PlaneRef::F32(values),
            Self::Bf16(values) => PlaneRef::Bf16(values),
        }
    }

    /// All values, to update.
    #[must_use]
    pub fn view_mut(&mut self) -> PlaneMut<'_> {
        self.slice_mut(0..self.len())
    }

    /// The values in f32; exact, and borrowed where they are stored so.
    #[must_use]
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match self {
            Self::F32(values) => Cow::Borrowed(values),
            Self::Bf16(values) => values.iter().map(|bits| bf16::widen(*bits)).collect(),
        }
    }

    /// The values as stored, little-endian: 4 or 2 bytes each.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Bf16(values) => values.iter().flat_map(|bits| bits.to_le_bytes()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plane_shows_what_it_stores() {
        let spec = PlaneSpec { initial: 1.0, ..PlaneSpec::zeroed("m") };
        let mut plane = Plane::new(&spec.stored_as(StateDtype::Bf16), 3);
        plane.slice_mut(1..2).bf16()[0] = bf16::round(-2.0);
        assert_eq!(plane.to_f32(), [1.0, -2.0, 1.0].as_slice());
        assert_eq!(plane.bytes(), [0x80, 0x3f, 0x00, 0xc0, 0x80, 0x3f]);
        assert_eq!((plane.len(), plane.dtype(), plane.slice(0..2).len()), (3, StateDtype::Bf16, 2));
        let mut zeros = plane.zeros_like();
        assert_eq!((zeros.to_f32(), zeros.dtype()), ([0.0; 3].as_slice().into(), StateDtype::Bf16));
        zeros.slice_mut(1..3).copy_from(plane.slice(1..3));
        assert_eq!(zeros.to_f32(), [0.0, -2.0, 1.0].as_slice());
        let plane = Plane::new(&spec, 1);
        assert_eq!((plane.to_f32(), plane.bytes()), ([1.0].as_slice().into(), 1.0_f32.to_le_bytes().to_vec()));
        assert!(Plane::new(&spec, 0).is_empty() && !plane.is_empty());
    }
}
