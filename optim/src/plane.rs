//! The state a rule keeps beside the weights.

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

/// One array of state, f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaneSpec {
    /// Name, as in checkpoints: `m`, `v`, ...
    pub name: &'static str,
    /// Value of every element before the first update.
    pub initial: f32,
    /// How long it is; [`Extent::Element`] for every rule but Adafactor.
    pub extent: Extent,
}

impl PlaneSpec {
    /// Bytes per value.
    pub const BYTES: usize = size_of::<f32>();

    pub(crate) const fn zeroed(name: &'static str) -> Self {
        Self { name, initial: 0.0, extent: Extent::Element }
    }

    pub(crate) const fn with_extent(name: &'static str, extent: Extent) -> Self {
        Self { name, initial: 0.0, extent }
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
