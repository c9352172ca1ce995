//! How an element of a plane is kept between steps.

use crate::bf16;

/// A value of a plane: read into f32, and rounded once when it is written.
pub(crate) trait Stored: Copy {
    fn load(self) -> f32;
    fn store(value: f32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(value: f32) -> Self {
        value
    }
}

/// The bits of a bf16.
impl Stored for u16 {
    #[inline(always)]
    fn load(self) -> f32 {
        bf16::widen(self)
    }

    #[inline(always)]
    fn store(value: f32) -> Self {
        bf16::round(value)
    }
}
