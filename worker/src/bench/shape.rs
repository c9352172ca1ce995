//! The synthetic models: names and shapes only.
//!
//! ResNet-50 and GPT-2 small are made from their architectures, so that the many small tensors between
//! the large ones are where they are in life. Promises: the published parameter counts (tested).

use halflife_proto::manifest::{Manifest, ManifestError, Tensor};
use serde::{Deserialize, Serialize};

/// Elements of the one tensor of the latency case.
pub const SMALL_ELEMENTS: u64 = 1024;
/// Tensors that `--params` is divided into.
const PARTS: u64 = 4;

/// A model to measure with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelShape {
    /// One tensor of [`SMALL_ELEMENTS`]: what a step costs when there is nothing to carry.
    Small,
    /// So many elements in four tensors that differ by at most one (in fewer, below four elements).
    Parameters(u64),
    /// ResNet-50 of K. He et al. (arXiv 1512.03385) as torchvision builds it: 161 tensors.
    Resnet50,
    /// GPT-2 small of A. Radford et al. (2019), the output tied to the embedding: 148 tensors.
    Gpt2,
}

impl ModelShape {
    /// Its tensors.
    ///
    /// # Errors
    /// [`ManifestError`] when a tensor of `Parameters` would be empty or too large.
    pub fn manifest(self) -> Result<Manifest, ManifestError> {
        let tensors = match self {
            ModelShape::Small => vec![tensor("weight", &[SMALL_ELEMENTS])],
            ModelShape::Parameters(elements) => quarters(elements),
            ModelShape::Resnet50 => resnet50(),
            ModelShape::Gpt2 => gpt2(),
        };
        Manifest::new(tensors)
    }

    /// What it is called, where it has a name.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            ModelShape::Small => Some("small"),
            ModelShape::Parameters(_) => None,
            ModelShape::Resnet50 => Some("resnet50"),
            ModelShape::Gpt2 => Some("gpt2"),
        }
    }
}

fn tensor(name: impl Into<String>, shape: &[u64]) -> Tensor {
    let shape: Vec<usize> = shape.iter().map(|dim| *dim as usize).collect();
    Tensor::trainable(name, &shape)
}

fn quarters(elements: u64) -> Vec<Tensor> {
    let parts = elements.clamp(1, PARTS);
    let boundary = |part: u64| elements / parts * part + (elements % parts).min(part);
    (0..parts).map(|part| tensor(format!("part.{part}"), &[boundary(part + 1) - boundary(part)])).collect()
}

/// Bottleneck blocks of each stage, and the width inside them; they leave four times as many channels.
const RESNET50_STAGES: [(u64, u64); 4] = [(3, 64), (4, 128), (6, 256), (3, 512)];
const RESNET_EXPANSION: u64 = 4;

fn resnet50() -> Vec<Tensor> {
    let mut tensors = vec![tensor("conv1.weight", &[64, 3, 7, 7])];
    normalization(&mut tensors, "bn1", 64);
    let mut channels = 64;
    for ((blocks, width), stage) in RESNET50_STAGES.into_iter().zip(1..) {
        for block in 0..blocks {
            let prefix = format!("layer{stage}.{block}");
            let kernels = [(channels, width, 1), (width, width, 3), (width, width * RESNET_EXPANSION, 1)];
            for ((from, to, side), index) in kernels.into_iter().zip(1..) {
                tensors.push(tensor(format!("{prefix}.conv{index}.weight"), &[to, from, side, side]));
                normalization(&mut tensors, &format!("{prefix}.bn{index}"), to);
            }
            let out = width * RESNET_EXPANSION;
            if block == 0 {
                tensors.push(tensor(format!("{prefix}.downsample.0.weight"), &[out, channels, 1, 1]));
                normalization(&mut tensors, &format!("{prefix}.downsample.1"), out);
            }
            channels = out;
        }
    }
    tensors.push(tensor("fc.weight", &[1000, channels]));
    tensors.push(tensor("fc.bias", &[1000]));
    tensors
}

fn normalization(tensors: &mut Vec<Tensor>, prefix: &str, channels: u64) {
    tensors.push(tensor(format!("{prefix}.weight"), &[channels]));
    tensors.push(tensor(format!("{prefix}.bias"), &[channels]));
}

const GPT2_LAYERS: u64 = 12;
const GPT2_WIDTH: u64 = 768;
const GPT2_VOCABULARY: u64 = 50_257;
const GPT2_CONTEXT: u64 = 1024;

fn gpt2() -> Vec<Tensor> {
    let width = GPT2_WIDTH;
    let mut tensors =
        vec![tensor("wte.weight", &[GPT2_VOCABULARY, width]), tensor("wpe.weight", &[GPT2_CONTEXT, width])];
    for layer in 0..GPT2_LAYERS {
        let prefix = format!("h.{layer}");
        let mut linear = |name: &str, from: u64, to: u64| {
            tensors.push(tensor(format!("{prefix}.{name}.weight"), &[from, to]));
            tensors.push(tensor(format!("{prefix}.{name}.bias"), &[to]));
        };
        linear("attn.c_attn", width, 3 * width);
        linear("attn.c_proj", width, width);
        linear("mlp.c_fc", width, 4 * width);
        linear("mlp.c_proj", 4 * width, width);
        normalization(&mut tensors, &format!("{prefix}.ln_1"), width);
        normalization(&mut tensors, &format!("{prefix}.ln_2"), width);
    }
    normalization(&mut tensors, "ln_f", width);
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_have_their_published_sizes() {
        for (shape, tensors, elements) in [
            (ModelShape::Small, 1, 1_024),
            (ModelShape::Resnet50, 161, 25_557_032),
            (ModelShape::Gpt2, 148, 124_439_808),
            (ModelShape::Parameters(4_194_306), 4, 4_194_306),
            (ModelShape::Parameters(3), 3, 3),
        ] {
            let manifest = shape.manifest().unwrap();
            assert_eq!((manifest.tensors().len(), manifest.elements()), (tensors, elements), "{shape:?}");
        }
    }

    #[test]
    fn a_number_of_parameters_is_cut_evenly() {
        let manifest = ModelShape::Parameters(4_194_306).manifest().unwrap();
        let sizes: Vec<u64> = manifest.tensors().iter().map(Tensor::elements).collect();
        assert_eq!(sizes, [1_048_577, 1_048_577, 1_048_576, 1_048_576]);
    }

    #[test]
    fn no_parameters_are_no_model() {
        assert!(ModelShape::Parameters(0).manifest().is_err());
    }
}
