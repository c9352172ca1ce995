//! How a gradient enters a rule's loop: the pipelines that need no pass of their own.
//!
//! A stage of factor 1 or of an infinite limit changes no bit, so a scale, a limit or both are one
//! loop. Coupled decay is another: adding 0 w would turn an infinite weight into NaN.

/// A pipeline that runs inside the rule's loop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Intake {
    /// No stages.
    AsIs,
    /// A factor, then a limit.
    Limited(Limited),
    /// The same, then L2 decay.
    Coupled(Coupled),
}

/// What the rule sees of gradient `g` at weight `w`.
pub(crate) trait Takes: Copy {
    fn take(self, g: f32, w: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(crate) struct AsIs;

/// g times `by`, limited to [-at, at].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limited {
    pub(crate) by: f32,
    pub(crate) at: f32,
}

/// What is limited, plus `wd` w.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Coupled {
    pub(crate) limited: Limited,
    pub(crate) wd: f32,
}

impl Takes for AsIs {
    #[inline(always)]
    fn take(self, g: f32, _: f32) -> f32 {
        g
    }
}

impl Takes for Limited {
    #[inline(always)]
    fn take(self, g: f32, _: f32) -> f32 {
        limit(g * self.by, self.at)
    }
}

impl Takes for Coupled {
    #[inline(always)]
    fn take(self, g: f32, w: f32) -> f32 {
        self.limited.take(g, w) + self.wd * w
    }
}

/// g limited to [-at, at]; NaN stays NaN.
#[inline(always)]
pub(crate) fn limit(g: f32, at: f32) -> f32 {
    let g = if g < -at { -at } else { g };
    if g > at { at } else { g }
}
