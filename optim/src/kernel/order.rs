//! Taking the update and the decay off a weight, in the configured order.

/// How the decay is taken off, resolved for one step. `None` also stands for a factor of zero:
/// no decay must be the same bits as zero decay, for infinite weights too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    None,
    Before,
    Fused,
    After,
    CautiousBefore,
    CautiousFused,
}

/// The decay of one step: w loses `factor` times w.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DecayStep {
    pub(crate) order: Order,
    pub(crate) factor: f32,
}

/// Combines weight `w`, update `u` and decay factor `d` into the next weight.
///
/// Everywhere w - d w rather than (1 - d) w: rounding 1 - d to f32 would lose a small d.
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
/// `A`, but only where the update does not already pull the weight away from zero.
#[derive(Clone, Copy)]
pub(crate) struct Cautious<A>(pub(crate) A);

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

impl<A: Apply> Apply for Cautious<A> {
    #[inline(always)]
    fn apply(self, w: f32, u: f32, d: f32) -> f32 {
        // u w >= 0 without the product, which underflows. `&` so that the loop has no branch.
        let opposed = ((u > 0.0) & (w < 0.0)) | ((u < 0.0) & (w > 0.0));
        self.0.apply(w, u, if opposed { 0.0 } else { d })
    }
}

/// Runs `$call` with `$apply` bound to the type of `$order`, so that the loop inside holds no
/// branch.
macro_rules! with_order {
    ($order:expr, $apply:ident => $call:expr) => {{
        use $crate::kernel::order::{After, Before, Cautious, Fused, NoDecay, Order};
        match $order {
            Order::None => {
                let $apply = NoDecay;
                $call
            }
            Order::Before => {
                let $apply = Before;
                $call
            }
            Order::Fused => {
                let $apply = Fused;
                $call
            }
            Order::After => {
                let $apply = After;
                $call
            }
            Order::CautiousBefore => {
                let $apply = Cautious(Before);
                $call
            }
            Order::CautiousFused => {
                let $apply = Cautious(Fused);
                $call
            }
        }
    }};
}

pub(crate) use with_order;
