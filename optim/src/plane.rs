//! The state a rule keeps beside the weights.

/// One array of state: as long as the weights, f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaneSpec {
    /// Name, as in checkpoints: `m`, `v`, ...
    pub name: &'static str,
    /// Value of every element before the first update.
    pub initial: f32,
}

impl PlaneSpec {
    /// Bytes per parameter.
    pub const BYTES: usize = size_of::<f32>();

    pub(crate) const fn zeroed(name: &'static str) -> Self {
        Self { name, initial: 0.0 }
    }
}
