//! Adafactor (Shazeer & Stern, arXiv 1804.04235), as `torch.optim.Adafactor` computes it.
//!
//! State: for tensors of rank 2 and more, one f32 per row and one per column of each trailing
//! matrix; below, v, 4 bytes per parameter. keep = 1 - t^beta2_decay; row and col are moving
//! averages of the mean of g^2 over columns and rows; var = row col / max(mean(row), eps1);
//! U = g / sqrt(max(var, eps1^2)); alpha = max(eps2, rms(w)) min(lr, 1/sqrt(t));
//! u = alpha U / max(1, rms(U) / d). rms(w) is that of the weights before decay. Not elementwise:
//! a tensor is updated whole, on one thread, in a fixed order.

use super::moments::to_f32;
use crate::config::{OptimizerConfig, StepCounter, filled};
use crate::error::{ConfigError, positive};
use crate::kernel::{Apply, DecayStep, KernelPath, with_order};
use crate::plane::{Extent, PlaneMut, PlaneSpec};
use crate::reduce::sum_of_squares;

/// Adafactor's choices.
#[derive(Debug, Clone)]
pub(crate) struct Adafactor {
    beta2_decay: f64,
    eps1: f64,
    eps2: f64,
    clip: f64,
    counter: StepCounter,
}

/// Adafactor's numbers for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdafactorStep {
    gain: f32,
    relative_lr: f64,
    eps1: f32,
    eps2: f64,
    clip: f64,
}

impl Adafactor {
    pub(crate) fn new(config: &OptimizerConfig) -> Result<Self, ConfigError> {
        let adafactor = Self {
            beta2_decay: filled(config.beta2_decay),
            eps1: filled(config.eps1),
            eps2: filled(config.eps2),
            clip: filled(config.update_clip),
            counter: filled(config.step_counter),
        };
        positive("eps1", f64::from(to_f32(adafactor.eps1)))?;
        positive("eps2", adafactor.eps2)?;
        positive("update_clip", adafactor.clip)?;
        let decay = adafactor.beta2_decay;
        if !(decay.is_finite() && decay <= 0.0) {
            return Err(ConfigError::range("beta2_decay", "zero or less", decay));
        }
        Ok(adafactor)
    }

    pub(crate) fn planes() -> Vec<PlaneSpec> {
        vec![
            PlaneSpec::with_extent("row", Extent::Row),
            PlaneSpec::with_extent("col", Extent::Column),
            PlaneSpec::with_extent("v", Extent::VectorElement),
        ]
    }

    #[allow(clippy::cast_precision_loss)] // exact below 2^53 updates
    pub(crate) fn step(&self, lr: f64, step: u64, updates: u64) -> AdafactorStep {
        let t = match self.counter {
            StepCounter::PerTensor => updates,
            StepCounter::Global => step,
        } as f64;
        AdafactorStep {
            gain: to_f32(libm::pow(t, self.beta2_decay)),
            relative_lr: lr.min(1.0 / t.sqrt()),
            eps1: to_f32(self.eps1),
            eps2: self.eps2,
            clip: self.clip,
        }
    }
}

/// The arrays of a whole tensor.
pub(crate) struct Tensor<'a> {
    pub(crate) shape: &'a [usize],
    pub(crate) weights: &'a [f32],
    pub(crate) next: &'a mut [f32],
    pub(crate) gradient: &'a [f32],
}

impl AdafactorStep {
    /// `planes` are row, col and v, each of its length for the tensor's shape.
    pub(crate) fn update(&self, path: KernelPath, decay: DecayStep, tensor: Tensor<'_>, planes: &mut [PlaneMut<'_>]) {
        let [row, col, v] = super::exactly(planes).each_mut().map(PlaneMut::f32);
        let Tensor { shape, weights, next, gradient } = tensor;
        if gradient.is_empty() {
            return;
        }
        // The direction U takes shape in the next weights' place.
        match *shape {
            [.., rows, columns] => self.factored(gradient, (rows, columns), row, col, next),
            _ => self.full(gradient, v, next),
        }
        let size = to_f32(self.size(rms(path, weights), rms(path, next)));
        with_order!(decay.order, apply => finish(apply, size, decay.factor, weights, next));
    }

    /// alpha / max(1, rms(U) / d).
    fn size(&self, weight_rms: f64, direction_rms: f64) -> f64 {
        let alpha = self.eps2.max(weight_rms) * self.relative_lr;
        alpha / (direction_rms / self.clip).max(1.0)
    }

    /// A moving average, PyTorch's lerp.
    fn average(&self, old: f32, sample: f32) -> f32 {
        old + self.gain * (sample - old)
    }

    fn full(&self, gradient: &[f32], v: &mut [f32], direction: &mut [f32]) {
        for ((u, g), v) in direction.iter_mut().zip(gradient).zip(v) {
            *v = self.average(*v, g * g);
            *u = g / self.root(*v);
        }
    }

    /// Each matrix on its own.
    fn factored(
        &self,
        gradient: &[f32],
        (rows, columns): (usize, usize),
        row: &mut [f32],
        col: &mut [f32],
        direction: &mut [f32],
    ) {
        let matrices = gradient.chunks_exact(rows * columns);
        let states = row.chunks_exact_mut(rows).zip(col.chunks_exact_mut(columns));
        let directions = direction.chunks_exact_mut(rows * columns);
        for ((g, (row, col)), u) in matrices.zip(states).zip(directions) {
            self.observe(g, row, col);
            let mean = row.iter().map(|r| f64::from(*r)).sum::<f64>() / float(rows);
            let mean = to_f32(mean).max(self.eps1);
            let lines = u.chunks_exact_mut(columns).zip(g.chunks_exact(columns));
            for ((u, g), row) in lines.zip(row) {
                for ((u, g), col) in u.iter_mut().zip(g).zip(&*col) {
                    *u = g / self.root(*row * *col / mean);
                }
            }
        }
    }

    /// Takes the means of g^2 into the rows' and columns' averages; sums run in f64, in order.
    fn observe(&self, matrix: &[f32], row: &mut [f32], col: &mut [f32]) {
        let columns = col.len();
        let mut column_sums = vec![0.0_f64; columns];
        for (line, row) in matrix.chunks_exact(columns).zip(row.iter_mut()) {
            let mut sum = 0.0_f64;
            for (g, column_sum) in line.iter().zip(&mut column_sums) {
                let square = f64::from(*g) * f64::from(*g);
                sum += square;
                *column_sum += square;
            }
            *row = self.average(*row, to_f32(sum / float(columns)));
        }
        for (col, sum) in col.iter_mut().zip(column_sums) {
            *col = self.average(*col, to_f32(sum / float(row.len())));
        }
    }

    fn root(&self, variance: f32) -> f32 {
        variance.max(self.eps1 * self.eps1).sqrt()
    }
}

/// Turns the direction in `next` into the next weights.
fn finish<A: Apply>(apply: A, size: f32, d: f32, weights: &[f32], next: &mut [f32]) {
    for (next, w) in next.iter_mut().zip(weights) {
        *next = apply.apply(*w, size * *next, d);
    }
}

fn rms(path: KernelPath, values: &[f32]) -> f64 {
    (sum_of_squares(path, values) / float(values.len())).sqrt()
}

#[allow(clippy::cast_precision_loss)] // lengths are far below 2^53
fn float(count: usize) -> f64 {
    count as f64
}
