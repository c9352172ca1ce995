//! Fully connected layers; gradients from candle's automatic differentiation on the CPU.
//!
//! Layer i maps x to x W' + b with `layers.i.weight` (outputs x inputs) and `layers.i.bias`
//! (outputs); the activation stands between layers, none after the last. Loss: mean cross-entropy
//! of the softmax of the last layer's outputs.
//!
//! Promises: the bits of a gradient depend on weights, batch, CPU features and system library, not
//! on earlier calls, on other threads or on how many threads candle uses (each output element of its
//! matrix product is summed by one thread). Does not: choose candle's threads; that is the
//! process's (see [`crate::threads`]).

use candle_core::{D, DType, Device, Tensor as Array, Var};
use halflife_proto::manifest::{Manifest, Tensor};
use halflife_proto::workload::{Activation, MlpSettings};

use super::{Arena, Gradient, Model, ModelError, initialization};
use crate::data::Batch;

/// A multilayer perceptron.
#[derive(Debug)]
pub struct Mlp {
    manifest: Manifest,
    arena: Arena,
    /// Units of the input, each hidden layer and the output.
    units: Vec<usize>,
    activation: Activation,
}

impl Mlp {
    /// For samples of `features` features and `classes` classes.
    ///
    /// # Errors
    /// [`ModelError::Manifest`] when a tensor would be larger than a manifest allows.
    pub fn new(settings: &MlpSettings, features: usize, classes: usize) -> Result<Mlp, ModelError> {
        let units: Vec<usize> = [&[features], settings.hidden.as_slice(), &[classes]].concat();
        let layers = units.windows(2).enumerate().flat_map(|(layer, units)| {
            let (inputs, outputs) = (units[0], units[1]);
            [
                Tensor::trainable(format!("layers.{layer}.weight"), &[outputs, inputs]),
                Tensor::trainable(format!("layers.{layer}.bias"), &[outputs]),
            ]
        });
        let manifest = Manifest::new(layers.collect())?;
        Ok(Mlp { arena: Arena::of(&manifest), manifest, units, activation: settings.activation })
    }

    fn layers(&self) -> usize {
        self.units.len() - 1
    }

    /// The tensors of an arena, by tensor index.
    fn tensors(&self, weights: &[f32]) -> candle_core::Result<Vec<Array>> {
        assert_eq!(weights.len(), self.arena.elements(), "weights of another model");
        let ranges = self.arena.ranges().iter();
        ranges
            .zip(self.manifest.tensors())
            .map(|(range, tensor)| array(&weights[range.clone()], &tensor.shape))
            .collect()
    }

    /// Scores (samples x classes) of `samples` (samples x features).
    fn forward(&self, tensors: &[Array], samples: Array) -> candle_core::Result<Array> {
        let mut outputs = samples;
        for (layer, tensor) in tensors.chunks_exact(2).enumerate() {
            outputs = outputs.matmul(&tensor[0].t()?)?.broadcast_add(&tensor[1])?;
            if layer + 1 < self.layers() {
                outputs = activate(self.activation, &outputs)?;
            }
        }
        Ok(outputs)
    }

    fn samples(&self, batch: Batch<'_>) -> candle_core::Result<Array> {
        Array::from_slice(batch.features, (batch.samples(), self.units[0]), &Device::Cpu)
    }
}

impl Model for Mlp {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn initialize(&self, seed: u64) -> Vec<f32> {
        let mut weights = Vec::with_capacity(self.arena.elements());
        for (layer, units) in self.units.windows(2).enumerate() {
            let (inputs, outputs) = (units[0], units[1]);
            let rectified = layer + 1 < self.layers() && self.activation != Activation::Tanh;
            let gain = if rectified { 2.0 } else { 1.0 };
            weights.extend(initialization::uniform(seed, 2 * layer, outputs * inputs, inputs, gain));
            weights.extend(std::iter::repeat_n(0.0, outputs));
        }
        weights
    }

    fn gradient(&mut self, weights: &[f32], batch: Batch<'_>) -> Result<Gradient, ModelError> {
        let variables = self.tensors(weights)?.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let tensors: Vec<Array> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
        let scores = self.forward(&tensors, self.samples(batch)?)?;
        let loss = cross_entropy(&scores, batch.labels)?;
        let gradients = loss.backward()?;
        let mut values = Vec::with_capacity(weights.len());
        for tensor in &tensors {
            // Every tensor takes part in the loss, so every one has a gradient.
            let gradient = gradients.get(tensor).expect("a gradient for each tensor");
            values.extend(gradient.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(Gradient { values, loss: loss.to_scalar()? })
    }

    fn scores(&self, weights: &[f32], batch: Batch<'_>) -> Result<Vec<f32>, ModelError> {
        let scores = self.forward(&self.tensors(weights)?, self.samples(batch)?)?;
        Ok(scores.flatten_all()?.to_vec1()?)
    }
}

fn array(values: &[f32], shape: &[u64]) -> candle_core::Result<Array> {
    let shape: Vec<usize> = shape.iter().map(|dim| *dim as usize).collect();
    Array::from_slice(values, shape, &Device::Cpu)
}

fn activate(activation: Activation, inputs: &Array) -> candle_core::Result<Array> {
    match activation {
        Activation::Relu => inputs.relu(),
        Activation::Tanh => inputs.tanh(),
        Activation::Gelu => inputs.gelu(),
    }
}

/// Mean over rows of -ln softmax(scores)\[label\], shifted by each row's highest score so that
/// nothing overflows; the shift cancels out of the gradient, so it is detached.
fn cross_entropy(scores: &Array, labels: &[u32]) -> candle_core::Result<Array> {
    let shifted = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?;
    let log_normalizers = shifted.exp()?.sum(D::Minus1)?.log()?;
    let labels = Array::from_slice(labels, (labels.len(), 1), scores.device())?;
    debug_assert_eq!(labels.dtype(), DType::U32);
    let own = shifted.gather(&labels, D::Minus1)?.squeeze(D::Minus1)?;
    (log_normalizers - own)?.mean_all()
}
