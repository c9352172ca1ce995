//! Adam (Kingma & Ba, arXiv 1412.6980), and with decoupled decay AdamW (arXiv 1711.05101).
//!
//! State: m and v, 8 bytes per parameter; with AMSGrad (Reddi et al., ICLR 2018) also vmax, 12.
//! m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2. Both placements of eps are one formula here:
//! u = a m / (r sqrt(v + root) + eps), with a = lr / bc1 and r = 1 / sqrt(bc2) when eps is added
//! to the corrected root, a = lr sqrt(bc2) / bc1 and r = 1 when to the uncorrected one.
//! AMSGrad keeps the largest uncorrected v and puts it in v's place, as PyTorch and Keras do.

use super::moments::{Average, Moments, to_f32};
use super::{Slices, exactly};
use crate::apply::{Apply, DecayStep, dispatched, with_order};
use crate::config::{EpsPlacement, OptimizerConfig};
use crate::error::{ConfigError, non_negative, positive};
use crate::plane::PlaneSpec;

/// Adam's choices.
#[derive(Debug, Clone)]
pub(crate) struct Adam {
    moments: Moments,
    eps: f64,
    eps_root: f64,
    placement: EpsPlacement,
    amsgrad: bool,
}

/// Adam's numbers for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdamStep {
    m: Average,
    v: Average,
    /// a: multiplies m.
    size: f32,
    /// r: multiplies the root.
    root_scale: f32,
    root_eps: f32,
    eps: f32,
    amsgrad: bool,
}

impl Adam {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let eps = config.eps.unwrap_or(1e-8);
        positive("eps", f64::from(to_f32(eps)))?;
        let eps_root = config.eps_root.unwrap_or(0.0);
        non_negative("eps_root", eps_root)?;
        Ok(Self {
            moments: Moments::new(config, [0.9, 0.999])?,
            eps,
            eps_root,
            placement: config.eps_placement.unwrap_or_default(),
            amsgrad: config.amsgrad.unwrap_or(false),
        })
    }

    pub(crate) fn planes(&self) -> Vec<PlaneSpec> {
        let names: &[_] = if self.amsgrad { &["m", "v", "vmax"] } else { &["m", "v"] };
        names.iter().map(|name| PlaneSpec::zeroed(name)).collect()
    }

    /// The step at `lr`, and the correction sqrt(bc2) / bc1.
    pub(crate) fn step(&self, lr: f64, step: u64, updates: u64) -> (AdamStep, f64) {
        let [bc1, bc2] = self.moments.bias(self.moments.count(step, updates));
        let correction = bc2.sqrt() / bc1;
        let (size, root_scale, root_eps) = match self.placement {
            // sqrt(v / bc2 + e) = sqrt(v + e bc2) / sqrt(bc2).
            EpsPlacement::Corrected => (lr / bc1, 1.0 / bc2.sqrt(), self.eps_root * bc2),
            EpsPlacement::Uncorrected => (lr * correction, 1.0, self.eps_root),
        };
        let step = AdamStep {
            m: self.moments.average(0),
            v: self.moments.average(1),
            size: to_f32(size),
            root_scale: to_f32(root_scale),
            root_eps: to_f32(root_eps),
            eps: to_f32(self.eps),
            amsgrad: self.amsgrad,
        };
        (step, correction)
    }
}

impl AdamStep {
    pub(crate) fn update(&self, decay: DecayStep, slices: Slices<'_>, planes: &mut [&mut [f32]]) {
        if self.amsgrad {
            let [m, v, vmax] = exactly(planes);
            let (m, v, vmax) = (slices.of(m), slices.of(v), slices.of(vmax));
            let Slices { weights, next, gradient, .. } = slices;
            return largest::run(self, decay, weights, next, m, v, vmax, gradient);
        }
        let [m, v] = exactly(planes);
        let (m, v) = (slices.of(m), slices.of(v));
        let Slices { weights, next, gradient, .. } = slices;
        latest::run(self, decay, weights, next, m, v, gradient);
    }

    /// The next moments.
    #[inline(always)]
    fn moments(&self, m: f32, v: f32, g: f32) -> (f32, f32) {
        let m = self.m.keep * m + self.m.gain * g;
        // (gain g) g rather than gain (g g): overflows later, as PyTorch's addcmul does.
        let v = self.v.keep * v + (self.v.gain * g) * g;
        (m, v)
    }

    /// The update u.
    #[inline(always)]
    fn direction(&self, m: f32, v: f32) -> f32 {
        let root = (v + self.root_eps).sqrt() * self.root_scale;
        (self.size * m) / (root + self.eps)
    }
}

/// The second moment of this step.
mod latest {
    use super::*;

    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // one slice per array, so that none can alias
    fn body<A: Apply>(
        apply: A,
        step: &AdamStep,
        d: f32,
        weights: &[f32],
        next: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        gradient: &[f32],
    ) {
        let n = next.len();
        let (weights, gradient) = (&weights[..n], &gradient[..n]);
        let (m, v) = (&mut m[..n], &mut v[..n]);
        for i in 0..n {
            (m[i], v[i]) = step.moments(m[i], v[i], gradient[i]);
            next[i] = apply.apply(weights[i], step.direction(m[i], v[i]), d);
        }
    }

    #[inline(always)]
    pub(super) fn portable(
        step: &AdamStep,
        decay: DecayStep,
        weights: &[f32],
        next: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        gradient: &[f32],
    ) {
        with_order!(decay.order, apply =>
            body(apply, step, decay.factor, weights, next, m, v, gradient));
    }

    dispatched!(run => portable(
        step: &AdamStep,
        decay: DecayStep,
        weights: &[f32],
        next: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        gradient: &[f32],
    ));
}

/// The largest second moment so far.
mod largest {
    use super::*;

    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // one slice per array, so that none can alias
    fn body<A: Apply>(
        apply: A,
        step: &AdamStep,
        d: f32,
        weights: &[f32],
        next: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        vmax: &mut [f32],
        gradient: &[f32],
    ) {
        let n = next.len();
        let (weights, gradient) = (&weights[..n], &gradient[..n]);
        let (m, v, vmax) = (&mut m[..n], &mut v[..n], &mut vmax[..n]);
        for i in 0..n {
            (m[i], v[i]) = step.moments(m[i], v[i], gradient[i]);
            vmax[i] = if v[i] > vmax[i] { v[i] } else { vmax[i] };
            next[i] = apply.apply(weights[i], step.direction(m[i], vmax[i]), d);
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn portable(
        step: &AdamStep,
        decay: DecayStep,
        weights: &[f32],
        next: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        vmax: &mut [f32],
        gradient: &[f32],
    ) {
        with_order!(decay.order, apply =>
            body(apply, step, decay.factor, weights, next, m, v, vmax, gradient));
    }

    dispatched!(run => portable(
        step: &AdamStep,
        decay: DecayStep,
        weights: &[f32],
        next: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        vmax: &mut [f32],
        gradient: &[f32],
    ));
}
