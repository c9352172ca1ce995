//! Softmax regression on ndarray, without any framework.
//!
//! With samples X (n x features), weight W (classes x features) and bias b:
//! scores Z = X W' + b, probabilities P = softmax of Z's rows, loss = mean of -ln P\[label\], and,
//! with Y the labels one-hot, dloss/dZ = (P - Y) / n, so dloss/dW = (dZ)' X and dloss/db = column sums of dZ
//! (C. Bishop, "Pattern recognition and machine learning", 2006, equation 4.109). exp and ln come
//! from libm.

use halflife_proto::manifest::{Manifest, Tensor};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, aview1};

use super::{Gradient, Model, ModelError, initialization};
use crate::data::Batch;

/// A linear classifier: `layers.0.weight` (classes x features) and `layers.0.bias` (classes), as an
/// [`Mlp`](super::Mlp) without hidden layers.
#[derive(Debug)]
pub struct SoftmaxRegression {
    manifest: Manifest,
    features: usize,
    classes: usize,
}

impl SoftmaxRegression {
    /// # Errors
    /// [`ModelError::Manifest`] when the weight would be larger than a manifest allows.
    pub fn new(features: usize, classes: usize) -> Result<SoftmaxRegression, ModelError> {
        let manifest = Manifest::new(vec![
            Tensor::trainable("layers.0.weight", &[classes, features]),
            Tensor::trainable("layers.0.bias", &[classes]),
        ])?;
        Ok(SoftmaxRegression { manifest, features, classes })
    }

    fn affine(&self, weights: &[f32], samples: ArrayView2<'_, f32>) -> Array2<f32> {
        let (weight, bias) = weights.split_at(self.classes * self.features);
        let weight = matrix(weight, self.features);
        samples.dot(&weight.t()) + aview1(bias)
    }
}

impl Model for SoftmaxRegression {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn initialize(&self, seed: u64) -> Vec<f32> {
        let weight = initialization::uniform(seed, 0, self.classes * self.features, self.features, 1.0);
        weight.chain(std::iter::repeat_n(0.0, self.classes)).collect()
    }

    fn gradient(&mut self, weights: &[f32], batch: Batch<'_>) -> Result<Gradient, ModelError> {
        let samples = matrix(batch.features, self.features);
        let mut scores = self.affine(weights, samples);
        let count = batch.samples() as f32;
        let mut loss = 0.0;
        for (mut row, label) in scores.rows_mut().into_iter().zip(batch.labels) {
            let label = *label as usize;
            let log_normalizer = log_sum_exp(row.view());
            loss += log_normalizer - row[label];
            row.mapv_inplace(|score| libm::expf(score - log_normalizer));
            row[label] -= 1.0;
            row /= count;
        }
        let mut values = scores.t().dot(&samples).into_iter().collect::<Vec<_>>();
        values.extend(scores.sum_axis(Axis(0)));
        Ok(Gradient { values, loss: loss / count })
    }

    fn scores(&self, weights: &[f32], batch: Batch<'_>) -> Result<Vec<f32>, ModelError> {
        Ok(self.affine(weights, matrix(batch.features, self.features)).into_iter().collect())
    }
}

/// Row-major `values` as a matrix of `columns` columns.
fn matrix(values: &[f32], columns: usize) -> ArrayView2<'_, f32> {
    aview1(values).into_shape_with_order((values.len() / columns, columns)).expect("whole rows")
}

/// ln of the sum of exp, shifted by the highest score so that nothing overflows.
fn log_sum_exp(scores: ArrayView1<'_, f32>) -> f32 {
    let highest = scores.fold(f32::NEG_INFINITY, |highest, score| highest.max(*score));
    highest + libm::logf(scores.fold(0.0, |sum, score| sum + libm::expf(score - highest)))
}
