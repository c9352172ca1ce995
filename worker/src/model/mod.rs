//! Models: what maps weights and samples to a loss and its gradient.
//!
//! - `mlp`: fully connected layers, gradients by automatic differentiation.
//! - `softmax`: softmax regression, gradients by hand.
//! - `initialization`: the first weights, from a seed.
//! - `evaluation`: loss and accuracy from class scores.
//!
//! Weights travel as an *arena*: all tensors of the manifest one after another in manifest order,
//! row-major f32; a tied tensor has no range of its own but shares that of its target. That is how
//! [`halflife_client::Layout`] places them.

mod evaluation;
mod initialization;
mod mlp;
mod softmax;

use halflife_proto::manifest::Manifest;
use halflife_proto::workload::ModelSettings;
use thiserror::Error;

use crate::data::{Batch, Dataset};

pub use evaluation::Evaluation;
pub use mlp::Mlp;
pub use softmax::SoftmaxRegression;

/// Samples that are evaluated at a time: bounds memory, changes no bit.
const EVALUATION_SAMPLES: usize = 512;

/// A gradient and the loss it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// An arena: derivative of `loss` by each weight.
    pub values: Vec<f32>,
    /// Mean cross-entropy over the batch's samples, in nats.
    pub loss: f32,
}

/// Why a model could not compute.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The tensor library refuses.
    #[error("the model's computation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// The settings and the data give no manifest.
    #[error("the model has no valid manifest: {0}")]
    Manifest(#[from] halflife_proto::manifest::ManifestError),
}

/// A classifier.
pub trait Model: Send {
    /// Its tensors.
    fn manifest(&self) -> &Manifest;

    /// Its weights before the first step, an arena; a function of the seed alone, with the same
    /// bits on every machine.
    fn initialize(&self, seed: u64) -> Vec<f32>;

    /// The mean loss over `batch` at `weights` (an arena) and its gradient. The bits do not depend
    /// on earlier calls.
    ///
    /// # Errors
    /// [`ModelError`] when the computation cannot be done; nonfinite results are no error here.
    fn gradient(&mut self, weights: &[f32], batch: Batch<'_>) -> Result<Gradient, ModelError>;

    /// Scores of each class for each sample at `weights`: row-major, samples x classes.
    ///
    /// # Errors
    /// [`ModelError`] when the computation cannot be done.
    fn scores(&self, weights: &[f32], batch: Batch<'_>) -> Result<Vec<f32>, ModelError>;

    /// Mean loss and accuracy over a data set.
    ///
    /// # Errors
    /// [`ModelError`] when the computation cannot be done.
    fn evaluate(&self, weights: &[f32], dataset: &Dataset) -> Result<Evaluation, ModelError> {
        let mut tally = evaluation::Tally::new(dataset.classes());
        for batch in dataset.batches(EVALUATION_SAMPLES) {
            tally.add(&self.scores(weights, batch)?, batch.labels);
        }
        Ok(tally.evaluation())
    }
}

/// The model of the settings for data of `features` features and `classes` classes.
///
/// # Errors
/// [`ModelError::Manifest`] when a tensor would be larger than a manifest allows.
pub fn build(settings: &ModelSettings, features: usize, classes: usize) -> Result<Box<dyn Model>, ModelError> {
    Ok(match settings {
        ModelSettings::Mlp(settings) => Box::new(Mlp::new(settings, features, classes)?),
        ModelSettings::Softmax(_) => Box::new(SoftmaxRegression::new(features, classes)?),
    })
}

#[cfg(test)]
mod finite_differences;
