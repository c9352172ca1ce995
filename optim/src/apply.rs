//! Taking the update and the decay off a weight, in the configured order, and choosing the widest
//! vector instructions at run time.
//!
//! Every kernel is one plain loop, compiled for AVX-512, AVX2 and the baseline. Additions,
//! multiplications, divisions and square roots are correctly rounded on each and nothing is
//! reassociated or fused, so all three give the same bits.

/// How the decay is taken off, resolved for one step. `None` also stands for a factor of zero:
/// no decay must be the same bits as zero decay, for infinite weights too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    None,
    Before,
    Fused,
    After,
}

/// The decay of one step: w loses `factor` times w.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DecayStep {
    pub(crate) order: Order,
    pub(crate) factor: f32,
}

/// Combines weight `w`, update `u` and decay factor `d` into the next weight.
pub(crate) trait Apply: Copy {
    fn apply(self, w: f32, u: f32, d: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(crate) struct NoDecay;
#[derive(Clone, Copy)]
pub(crate) struct Before;
#[derive(Clone, Copy)]
pub(crate) struct Fused;
#[derive(Clone, Copy)]
pub(crate) struct After;

// w - d w rather than (1 - d) w: rounding 1 - d to f32 would lose a small d.
impl Apply for NoDecay {
    #[inline(always)]
    fn apply(self, w: f32, u: f32, _: f32) -> f32 {
        w - u
    }
}

impl Apply for Before {
    #[inline(always)]
    fn apply(self, w: f32, u: f32, d: f32) -> f32 {
        (w - d * w) - u
    }
}

impl Apply for Fused {
    #[inline(always)]
    fn apply(self, w: f32, u: f32, d: f32) -> f32 {
        w - (u + d * w)
    }
}

impl Apply for After {
    #[inline(always)]
    fn apply(self, w: f32, u: f32, d: f32) -> f32 {
        let moved = w - u;
        moved - d * moved
    }
}

/// Runs `$call` with `$apply` bound to the type of `$order`, so that the loop inside holds no
/// branch.
macro_rules! with_order {
    ($order:expr, $apply:ident => $call:expr) => {
        match $order {
            $crate::apply::Order::None => {
                let $apply = $crate::apply::NoDecay;
                $call
            }
            $crate::apply::Order::Before => {
                let $apply = $crate::apply::Before;
                $call
            }
            $crate::apply::Order::Fused => {
                let $apply = $crate::apply::Fused;
                $call
            }
            $crate::apply::Order::After => {
                let $apply = $crate::apply::After;
                $call
            }
        }
    };
}

/// Compiles `$portable` three times and defines `$name`, which picks at run time. Features are
/// listed: names such as `x86-64-v4` would also demand features the loops do not use.
macro_rules! dispatched {
    ($name:ident => $portable:ident($($arg:ident: $ty:ty),* $(,)?)) => {
        #[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
        #[allow(clippy::too_many_arguments)] // one slice per array, so that none can alias
        pub(crate) fn $name($($arg: $ty),*) {
            $portable($($arg),*);
        }
    };
}

pub(crate) use {dispatched, with_order};
