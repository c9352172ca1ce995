//! LAMB (You et al., arXiv 1904.00962), as optax computes it.
//!
//! State: m and v, 8 bytes per parameter. r = (m/bc1) / (sqrt(v/bc2) + eps) + wd w;
//! u = lr ratio r with ratio = |w| / |r| over the tensor, 1 when either norm is 0. Decay sits
//! inside the ratio unless the configuration takes it out.

use super::Slices;
use super::moments::{Average, Moments, to_f32};
use super::second_moment::{Scale, SecondMoment};
use crate::config::OptimizerConfig;
use crate::error::ConfigError;
use crate::kernel::{DecayStep, KernelPath, Stored, dispatched, elementwise};
use crate::plane::{PlaneMut, PlaneRef, PlaneSpec};
use crate::reduce::Sums;

/// LAMB's choices.
#[derive(Debug, Clone)]
pub(crate) struct Lamb {
    moments: Moments,
    second: SecondMoment,
}

/// LAMB's numbers for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LambStep {
    m: Average,
    v: Average,
    size: f32,
    scale: Scale,
    decay: f32,
    lr: f64,
    /// lr times the trust ratio, once the norms are known.
    out: Option<f32>,
}

impl Lamb {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        Ok(Self { moments: Moments::new(config)?, second: SecondMoment::new(config)? })
    }

    pub(crate) fn planes() -> Vec<PlaneSpec> {
        vec![PlaneSpec::zeroed("m"), PlaneSpec::zeroed("v")]
    }

    /// `decay` is the coefficient wd inside the trust ratio.
    pub(crate) fn step(&self, lr: f64, decay: f64, step: u64, updates: u64) -> (LambStep, f64) {
        let [bc1, bc2] = self.moments.bias(self.moments.count(step, updates));
        let step = LambStep {
            m: self.moments.average(0),
            v: self.moments.average(1),
            size: to_f32(self.second.numerator(bc2) / bc1),
            scale: self.second.scale(bc2),
            decay: to_f32(decay),
            lr,
            out: None,
        };
        (step, bc2.sqrt() / bc1)
    }
}

impl LambStep {
    pub(crate) fn is_pending(&self) -> bool {
        self.out.is_none()
    }

    /// Takes the squared norms of the weights and of r.
    pub(crate) fn supply(&mut self, sums: Sums) {
        let [weights, update] = sums.0.map(f64::sqrt);
        let ratio = if weights == 0.0 || update == 0.0 { 1.0 } else { weights / update };
        self.out = Some(to_f32(self.lr * ratio));
    }

    pub(crate) fn update(&self, path: KernelPath, decay: DecayStep, slices: Slices<'_>, planes: &mut [PlaneMut<'_>]) {
        let out = self.out.expect("the trust ratio is supplied before the update");
        trusted::update(path, &(*self, out), decay, slices, planes);
    }

    /// r from the moments of this step.
    #[inline(always)]
    fn direction(&self, w: f32, m: f32, v: f32) -> f32 {
        (self.size * m) / self.scale.of(v) + self.decay * w
    }
}

#[inline(always)]
fn directions_portable<S: Stored>(
    step: &LambStep,
    weights: &[f32],
    gradient: &[f32],
    m: &[S],
    v: &[S],
    out: &mut [f32],
) {
    let n = out.len();
    let (weights, gradient, m, v) = (&weights[..n], &gradient[..n], &m[..n], &v[..n]);
    for i in 0..n {
        let m = step.m.of(m[i].load(), gradient[i]);
        let v = step.v.of_square(v[i].load(), gradient[i]);
        out[i] = step.direction(weights[i], m, v);
    }
}

dispatched!(fn directions_f32 => directions_portable::<f32>(
    step: &LambStep,
    weights: &[f32],
    gradient: &[f32],
    m: &[f32],
    v: &[f32],
    out: &mut [f32],
));

dispatched!(fn directions_bf16 => directions_portable::<u16>(
    step: &LambStep,
    weights: &[f32],
    gradient: &[f32],
    m: &[u16],
    v: &[u16],
    out: &mut [f32],
));

/// Writes r without touching the moments m and v: its norm comes before the update.
pub(crate) fn directions(
    path: KernelPath,
    step: &LambStep,
    weights: &[f32],
    gradient: &[f32],
    moments: [PlaneRef<'_>; 2],
    out: &mut [f32],
) {
    match moments {
        [PlaneRef::F32(m), PlaneRef::F32(v)] => directions_f32(path, step, weights, gradient, m, v, out),
        [PlaneRef::Bf16(m), PlaneRef::Bf16(v)] => directions_bf16(path, step, weights, gradient, m, v, out),
        _ => panic!("expected m and v of one dtype"),
    }
}

elementwise!(
    /// r, scaled by lr and the trust ratio.
    trusted(step: (LambStep, f32), w, g, m, v) {
        let (step, out) = step;
        *m = step.m.of(*m, g);
        *v = step.v.of_square(*v, g);
        out * step.direction(w, *m, *v)
    }
);
