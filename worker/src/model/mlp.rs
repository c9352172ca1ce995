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
use halflife_client::Layout;
use halflife_proto::ids::TensorIndex;
use halflife_proto::manifest::{Manifest, Tensor};
use halflife_proto::workload::{Activation, MlpSettings};

use super::{Gradient, Model, ModelError, initialization};
use crate::data::Batch;

/// A multilayer perceptron.
#[derive(Debug)]
pub struct Mlp {
    manifest: Manifest,
    layout: Layout,
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
        Ok(Mlp { layout: Layout::new(&manifest), manifest, units, activation: settings.activation })
    }

    fn layers(&self) -> usize {
        self.units.len() - 1
    }

    /// The tensors of an arena, by tensor index, each made by `make` of its elements and shape.
    fn tensors<T>(
        &self,
        weights: &[f32],
        make: impl Fn(&[f32], Vec<usize>, &Device) -> candle_core::Result<T>,
    ) -> candle_core::Result<Vec<T>> {
        assert_eq!(weights.len(), self.layout.elements(), "weights of another model");
        let tensors = self.manifest.tensors().iter().zip(0..);
        let made = tensors.map(|(tensor, index)| {
            let shape = tensor.shape.iter().map(|dim| *dim as usize).collect();
            make(&weights[self.layout.range(TensorIndex(index))], shape, &Device::Cpu)
        });
        made.collect()
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
        let mut weights = Vec::with_capacity(self.layout.elements());
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
        let variables = self.tensors(weights, Var::from_slice)?;
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
        let scores = self.forward(&self.tensors(weights, Array::from_slice)?, self.samples(batch)?)?;
        Ok(scores.flatten_all()?.to_vec1()?)
    }
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
