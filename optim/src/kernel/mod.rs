//! Loops over slices, compiled for AVX-512, AVX2 and the baseline and chosen at run time.
//!
//! Each is one plain loop. Additions, multiplications, divisions and square roots are correctly
//! rounded in every build and nothing is reassociated or fused into multiply-adds, so all builds
//! give the same bits; denormals are honoured. A rule writes one element's formula
//! ([`elementwise`]); this module makes the loop of it, for every order of decay, for the common
//! ways a gradient comes in, and for every dtype of the state.

mod intake;
pub(crate) mod order;
mod prefetch;
mod stored;

pub(crate) use intake::{AsIs, Coupled, Intake, Limited, Takes, limit};
pub(crate) use order::{Apply, DecayStep, NoDecay, Order, with_order};
pub(crate) use prefetch::{TILE, prefetch};
pub(crate) use stored::Stored;

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
    ($(#[$doc:meta])* $vis:vis fn $name:ident => $portable:ident $(::<$element:ty>)? ($($arg:ident: $ty:ty),* $(,)?)
        $(-> $out:ty)?) => {
        $(#[$doc])*
        #[inline]
        #[allow(clippy::too_many_arguments)] // one slice per array, so that none can alias
        $vis fn $name(path: $crate::kernel::KernelPath, $($arg: $ty),*) $(-> $out)? {
            #[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
            fn best($($arg: $ty),*) $(-> $out)? {
                $portable$(::<$element>)?($($arg),*)
            }
            #[multiversion::multiversion(targets("x86_64+avx2"))]
            fn avx2($($arg: $ty),*) $(-> $out)? {
                $portable$(::<$element>)?($($arg),*)
            }
            match path {
                $crate::kernel::KernelPath::Best => best($($arg),*),
                $crate::kernel::KernelPath::Avx2 => avx2($($arg),*),
                $crate::kernel::KernelPath::Portable => $portable$(::<$element>)?($($arg),*),
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
            use $crate::kernel::{
                Apply, AsIs, DecayStep, Intake, KernelPath, NoDecay, Stored, TILE, Takes, dispatched, prefetch,
                with_order,
            };
            use $crate::plane::PlaneMut;
            use $crate::rule::{Slices, exactly};

            #[inline(always)]
            #[allow(clippy::too_many_arguments)] // one slice per array, so that none can alias
            #[allow(clippy::unused_unit)] // of a rule without planes
            fn all<A: Apply, I: Takes, S: Stored>(
                apply: A,
                intake: I,
                $step: &$Step,
                d: f32,
                weights: &[f32],
                next: &mut [f32],
                gradient: &[f32],
                $($plane: &mut [S],)*
            ) {
                let n = next.len();
                let (weights, gradient) = (&weights[..n], &gradient[..n]);
                $(let $plane = &mut $plane[..n];)*
                for start in (0..n).step_by(TILE) {
                    let tile = start..n.min(start + TILE);
                    prefetch(weights, start);
                    prefetch(next, start);
                    prefetch(gradient, start);
                    $(prefetch($plane, start);)*
                    let (weights, gradient) = (&weights[tile.clone()], &gradient[tile.clone()]);
                    $(let $plane = &mut $plane[tile.clone()];)*
                    let next = &mut next[tile];
                    for i in 0..next.len() {
                        let $w = weights[i];
                        let $g = intake.take(gradient[i], $w);
                        let u;
                        ($($plane[i],)*) = {
                            $(let mut $plane = $plane[i].load();)*
                            u = {
                                $(let $plane = &mut $plane;)*
                                $body
                            };
                            ($(S::store($plane),)*)
                        };
                        next[i] = apply.apply($w, u, d);
                    }
                }
            }

            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable<S: Stored>(
                $step: &$Step,
                decay: DecayStep,
                intake: Intake,
                weights: &[f32],
                next: &mut [f32],
                gradient: &[f32],
                $($plane: &mut [S],)*
            ) {
                match intake {
                    Intake::AsIs => with_order!(decay.order, apply => {
                        all::<_, _, S>(apply, AsIs, $step, decay.factor, weights, next, gradient, $($plane),*)
                    }),
                    Intake::Limited(limited) => with_order!(decay.order, apply => {
                        all::<_, _, S>(apply, limited, $step, decay.factor, weights, next, gradient, $($plane),*)
                    }),
                    // Coupled decay leaves none for the weights.
                    Intake::Coupled(coupled) => {
                        all::<_, _, S>(NoDecay, coupled, $step, 0.0, weights, next, gradient, $($plane),*)
                    }
                }
            }

            dispatched!(fn run_f32 => portable::<f32>(
                $step: &$Step,
                decay: DecayStep,
                intake: Intake,
                weights: &[f32],
                next: &mut [f32],
                gradient: &[f32],
                $($plane: &mut [f32],)*
            ));

            dispatched!(fn run_bf16 => portable::<u16>(
                $step: &$Step,
                decay: DecayStep,
                intake: Intake,
                weights: &[f32],
                next: &mut [f32],
                gradient: &[f32],
                $($plane: &mut [u16],)*
            ));

            pub(super) fn update(
                path: KernelPath,
                step: &$Step,
                decay: DecayStep,
                slices: Slices<'_>,
                planes: &mut [PlaneMut<'_>],
            ) {
                let is_bf16 = matches!(planes.first(), Some(PlaneMut::Bf16(_)));
                let [$($plane),*] = exactly(planes);
                if is_bf16 {
                    $(let $plane = slices.of($plane.bf16());)*
                    let Slices { weights, next, gradient, intake, .. } = slices;
                    run_bf16(path, step, decay, intake, weights, next, gradient, $($plane),*);
                } else {
                    $(let $plane = slices.of($plane.f32());)*
                    let Slices { weights, next, gradient, intake, .. } = slices;
                    run_f32(path, step, decay, intake, weights, next, gradient, $($plane),*);
                }
            }
        }
    };
}

pub(crate) use {dispatched, elementwise};
