//! Loops over slices, compiled for AVX-512, AVX2 and the baseline and chosen at run time.
//!
//! Each is one plain loop. Additions, multiplications, divisions and square roots are correctly
//! rounded in every build and nothing is reassociated or fused into multiply-adds, so all builds
//! give the same bits; denormals are honoured. A rule writes one element's formula
//! ([`elementwise`]); this module makes the loop of it, for every order of decay.

pub(crate) mod order;

pub(crate) use order::{Apply, DecayStep, Order, with_order};

/// Which build of the loops runs. They give the same bits; this is for tests and measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KernelPath {
    /// The widest instructions that the machine has.
    #[default]
    Best,
    /// At most AVX2.
    Avx2,
    /// The compiler's baseline for the target.
    Portable,
}

impl KernelPath {
    /// The instruction set that this path uses on this machine: `avx512f`, `avx2` or `portable`.
    #[must_use]
    pub fn instructions(self) -> &'static str {
        match self {
            Self::Best => best(),
            Self::Avx2 => at_most_avx2(),
            Self::Portable => "portable",
        }
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn best() -> &'static str {
    multiversion::target::match_target! {
        "x86_64+avx512f" => "avx512f",
        "x86_64+avx2" => "avx2",
        _ => "portable",
    }
}

#[multiversion::multiversion(targets("x86_64+avx2"))]
fn at_most_avx2() -> &'static str {
    multiversion::target::match_target! {
        "x86_64+avx2" => "avx2",
        _ => "portable",
    }
}

/// Defines `$name`, which runs `$portable` in the build that a [`KernelPath`] names. Features are
/// listed one by one: names such as `x86-64-v4` would demand features that the loops do not use.
macro_rules! dispatched {
    ($(#[$doc:meta])* $vis:vis fn $name:ident => $portable:ident($($arg:ident: $ty:ty),* $(,)?)
        $(-> $out:ty)?) => {
        $(#[$doc])*
        #[inline]
        #[allow(clippy::too_many_arguments)] // one slice per array, so that none can alias
        $vis fn $name(path: $crate::kernel::KernelPath, $($arg: $ty),*) $(-> $out)? {
            #[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
            fn best($($arg: $ty),*) $(-> $out)? {
                $portable($($arg),*)
            }
            #[multiversion::multiversion(targets("x86_64+avx2"))]
            fn avx2($($arg: $ty),*) $(-> $out)? {
                $portable($($arg),*)
            }
            match path {
                $crate::kernel::KernelPath::Best => best($($arg),*),
                $crate::kernel::KernelPath::Avx2 => avx2($($arg),*),
                $crate::kernel::KernelPath::Portable => $portable($($arg),*),
            }
        }
    };
}

/// Defines a module `$module` whose `update` runs one rule over slices.
///
/// `$body` is the formula of one element: it reads the step's numbers `$step`, the weight `$w`
/// and the gradient `$g`, changes the planes (`&mut f32` each) and yields the update u.
macro_rules! elementwise {
    ($(#[$doc:meta])* $module:ident($step:ident: $Step:ty, $w:ident, $g:ident
        $(, $plane:ident)*) $body:block) => {
        $(#[$doc])*
        mod $module {
            use super::*;
            use $crate::kernel::{Apply, DecayStep, KernelPath, dispatched, with_order};
            use $crate::rule::{Slices, exactly};

            #[inline(always)]
            #[allow(clippy::too_many_arguments)] // one slice per array, so that none can alias
            #[allow(unused_variables)] // not every formula reads the weight
            fn all<A: Apply>(
                apply: A,
                $step: &$Step,
                d: f32,
                weights: &[f32],
                next: &mut [f32],
                gradient: &[f32],
                $($plane: &mut [f32],)*
            ) {
                let n = next.len();
                let (weights, gradient) = (&weights[..n], &gradient[..n]);
                $(let $plane = &mut $plane[..n];)*
                for i in 0..n {
                    let ($w, $g) = (weights[i], gradient[i]);
                    let u = {
                        $(let $plane = &mut $plane[i];)*
                        $body
                    };
                    next[i] = apply.apply(weights[i], u, d);
                }
            }

            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable(
                $step: &$Step,
                decay: DecayStep,
                weights: &[f32],
                next: &mut [f32],
                gradient: &[f32],
                $($plane: &mut [f32],)*
            ) {
                with_order!(decay.order, apply => {
                    all(apply, $step, decay.factor, weights, next, gradient, $($plane),*)
                });
            }

            dispatched!(fn run => portable(
                $step: &$Step,
                decay: DecayStep,
                weights: &[f32],
                next: &mut [f32],
                gradient: &[f32],
                $($plane: &mut [f32],)*
            ));

            pub(super) fn update(
                path: KernelPath,
                step: &$Step,
                decay: DecayStep,
                slices: Slices<'_>,
                planes: &mut [&mut [f32]],
            ) {
                let [$($plane),*] = exactly(planes);
                $(let $plane = slices.of($plane);)*
                let Slices { weights, next, gradient, .. } = slices;
                run(path, step, decay, weights, next, gradient, $($plane),*);
            }
        }
    };
}

pub(crate) use {dispatched, elementwise};
