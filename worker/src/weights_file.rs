//! Weights as a plain `model.safetensors`, readable by any tool that knows the format
//! (<https://huggingface.co/docs/safetensors>).
//!
//! Promises: a file is there whole or not at all; reading checks names, shapes and dtypes against
//! the model. Does not: hold optimizer state; that is a checkpoint's. Tied tensors are not written:
//! readers get them from their target.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use halflife_client::Layout;
use halflife_proto::ids::TensorIndex;
use halflife_proto::manifest::{Manifest, Role, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use thiserror::Error;

use crate::digest::{little_endian, own_tensors};

/// Why weights were not written or read.
#[derive(Debug, Error)]
pub enum WeightsFileError {
    /// The system refuses.
    #[error("weights file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not a safetensors file.
    #[error("weights file {}: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the format's library says.
        source: SafeTensorError,
    },
    /// Not the weights of this model.
    #[error("weights file {}: tensor {name:?}: expected {expected}, found {found}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What the model has.
        expected: String,
        /// What the file has.
        found: String,
    },
}

/// Writes the arena `weights`, replacing a file of that name.
///
/// # Errors
/// [`WeightsFileError::Io`] or, for a tensor the format cannot hold, `Malformed`.
///
/// # Panics
/// If `weights` is not an arena of `manifest`.
pub fn write(path: &Path, manifest: &Manifest, weights: &[f32]) -> Result<(), WeightsFileError> {
    let malformed = |source| WeightsFileError::Malformed { path: path.to_owned(), source };
    let own: Vec<(&Tensor, Vec<u8>)> =
        own_tensors(manifest, weights).map(|(tensor, values)| (tensor, little_endian(values))).collect();
    let views = own.iter().map(|(tensor, bytes)| {
        TensorView::new(Dtype::F32, dims(tensor), bytes).map(|view| (tensor.name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(malformed)?;
    replace(path, &bytes).map_err(|source| WeightsFileError::Io { path: path.to_owned(), source })
}

/// Reads the arena of `manifest`.
///
/// # Errors
/// [`WeightsFileError`] names the file and the first tensor that is missing, unknown or different.
pub fn read(path: &Path, manifest: &Manifest) -> Result<Vec<f32>, WeightsFileError> {
    let bytes = fs::read(path).map_err(|source| WeightsFileError::Io { path: path.to_owned(), source })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|source| WeightsFileError::Malformed { path: path.to_owned(), source })?;
    let mismatch = |name: &str, expected: String, found: String| {
        Err(WeightsFileError::Mismatch { path: path.to_owned(), name: name.to_owned(), expected, found })
    };
    let layout = Layout::new(manifest);
    let mut weights = vec![0.0; layout.elements()];
    let mut unknown = file.names();
    for (tensor, index) in manifest.tensors().iter().zip(0..) {
        if matches!(tensor.role, Role::Tied(_)) {
            continue;
        }
        let range = layout.range(TensorIndex(index));
        let expected = format!("F32{:?}", tensor.shape);
        let Ok(view) = file.tensor(&tensor.name) else {
            return mismatch(&tensor.name, expected, "no such tensor".to_owned());
        };
        if view.dtype() != Dtype::F32 || view.shape() != dims(tensor) {
            return mismatch(&tensor.name, expected, format!("{:?}{:?}", view.dtype(), view.shape()));
        }
        for (weight, bytes) in weights[range].iter_mut().zip(view.data().as_chunks::<4>().0) {
            *weight = f32::from_le_bytes(*bytes);
        }
        unknown.retain(|name| **name != tensor.name);
    }
    match unknown.first() {
        Some(name) => mismatch(name, "no such tensor".to_owned(), "one".to_owned()),
        None => Ok(weights),
    }
}

fn dims(tensor: &Tensor) -> Vec<usize> {
    tensor.shape.iter().map(|dim| *dim as usize).collect()
}

/// Writes beside `path`, then renames: whoever looks sees the old file or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_added_extension("partial");
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path).inspect_err(|_| drop(fs::remove_file(&partial)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let tied = Tensor { role: Role::Tied("b".into()), ..Tensor::trainable("t", &[2]) };
        Manifest::new(vec![Tensor::trainable("b", &[2]), tied, Tensor::trainable("a", &[1, 3])]).unwrap()
    }

    const WEIGHTS: [f32; 5] = [1.5, -0.0, f32::MIN_POSITIVE, f32::MAX, 1e-45];

    #[test]
    fn what_is_written_reads_back_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(&path, &manifest(), &[0.0; 5]).unwrap();
        write(&path, &manifest(), &WEIGHTS).unwrap();
        let found = read(&path, &manifest()).unwrap();
        assert!(found.iter().map(|weight| weight.to_bits()).eq(WEIGHTS.map(f32::to_bits)));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_weights_of_another_model_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(&path, &manifest(), &WEIGHTS).unwrap();
        let model = |tensors: &[(&str, &[usize])]| {
            Manifest::new(tensors.iter().map(|(name, shape)| Tensor::trainable(*name, shape)).collect()).unwrap()
        };
        let cases: [(Manifest, &str); 3] = [
            (model(&[("b", &[2]), ("a", &[3, 1])]), "tensor \"a\": expected F32[3, 1], found F32[1, 3]"),
            (model(&[("b", &[2]), ("a", &[1, 3]), ("c", &[1])]), "tensor \"c\": expected F32[1], found no such tensor"),
            (model(&[("b", &[2])]), "tensor \"a\": expected no such tensor, found one"),
        ];
        for (manifest, expected) in cases {
            let error = read(&path, &manifest).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn files_that_are_not_weights_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        assert!(read(&path, &manifest()).unwrap_err().to_string().contains("model.safetensors"));
        fs::write(&path, b"not weights").unwrap();
        assert!(matches!(read(&path, &manifest()), Err(WeightsFileError::Malformed { .. })));
        let nowhere = directory.path().join("no/such/model.safetensors");
        assert!(matches!(write(&nowhere, &manifest(), &WEIGHTS), Err(WeightsFileError::Io { .. })));
    }
}
