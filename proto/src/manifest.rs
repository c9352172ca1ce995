//! The manifest: every tensor of the model, in the order that numbers them.

use std::collections::{HashMap, HashSet};
use std::fmt;

use thiserror::Error;

pub use crate::dtype::Dtype;
use crate::ids::TensorIndex;

/// Most tensors a manifest may have.
pub const TENSORS_MAX: usize = 1 << 20;
/// Most elements a tensor may have.
pub const TENSOR_ELEMENTS_MAX: u64 = 1 << 40;
/// Longest name of a tensor, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// Differences between two manifests that are spelled out.
pub const DIFFERENCES_MAX: usize = 10;

/// What happens to a tensor in a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Receives gradients; the optimizer moves it.
    Trainable,
    /// Never changes after step 0; takes no contributions.
    Frozen,
    /// Becomes the mean over slots of what workers send; never decayed (running statistics).
    Buffer,
    /// Another name of the tensor named here; has no blocks of its own.
    Tied(String),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Trainable => f.write_str("trainable"),
            Role::Frozen => f.write_str("frozen"),
            Role::Buffer => f.write_str("buffer"),
            Role::Tied(to) => write!(f, "tied to {to:?}"),
        }
    }
}

/// One named tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    /// Unique in the manifest, not empty.
    pub name: String,
    /// Row-major; empty for a scalar. No dimension is zero.
    pub shape: Vec<u64>,
    /// Encoding of its elements: f32; others are the wire's alone.
    pub dtype: Dtype,
    /// What happens to it in a step.
    pub role: Role,
}

impl Tensor {
    /// A trainable f32 tensor.
    pub fn trainable(name: impl Into<String>, shape: &[usize]) -> Tensor {
        Tensor {
            name: name.into(),
            shape: shape.iter().map(|dim| *dim as u64).collect(),
            dtype: Dtype::F32,
            role: Role::Trainable,
        }
    }

    /// Number of elements: 1 for a scalar.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}{:?} {}", self.name, self.dtype, self.shape, self.role)
    }
}

/// Why a list of tensors is not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// No tensors at all.
    #[error("expected at least one tensor, found none")]
    Empty,
    /// Too many tensors.
    #[error("expected at most {TENSORS_MAX} tensors, found {found}")]
    TooManyTensors {
        /// How many came.
        found: usize,
    },
    /// An empty or overlong name.
    #[error("tensor {index}: expected a name of 1 to {NAME_BYTES_MAX} bytes, found {found} bytes")]
    BadName {
        /// Place in the list.
        index: usize,
        /// Length of the name in bytes.
        found: usize,
    },
    /// Two tensors of one name.
    #[error("tensor {name:?}: expected unique names, found it twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A zero dimension, or too many elements.
    #[error("tensor {name:?}: expected 1 to {TENSOR_ELEMENTS_MAX} elements, found shape {shape:?}")]
    BadShape {
        /// The name.
        name: String,
        /// The shape.
        shape: Vec<u64>,
    },
    /// A tie to a tensor that is missing, tied itself, or of another shape.
    #[error("tensor {name:?}: expected `tied_to` to name an untied tensor of the same shape, found {tied_to:?}")]
    BadTie {
        /// The name.
        name: String,
        /// What it was tied to.
        tied_to: String,
    },
}

/// Every tensor of a model; valid by construction. Tensor i is `tensors()[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    tensors: Vec<Tensor>,
}

impl Manifest {
    /// Checks the tensors and keeps their order.
    ///
    /// # Errors
    /// [`ManifestError`] names the first tensor that is wrong.
    pub fn new(tensors: Vec<Tensor>) -> Result<Manifest, ManifestError> {
        if tensors.is_empty() {
            return Err(ManifestError::Empty);
        }
        if tensors.len() > TENSORS_MAX {
            return Err(ManifestError::TooManyTensors { found: tensors.len() });
        }
        let mut names = HashSet::with_capacity(tensors.len());
        for (index, tensor) in tensors.iter().enumerate() {
            check_tensor(index, tensor)?;
            if !names.insert(tensor.name.as_str()) {
                return Err(ManifestError::DuplicateName { name: tensor.name.clone() });
            }
        }
        check_ties(&tensors)?;
        Ok(Manifest { tensors })
    }

    /// The tensors, in order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of an index, `None` if there is no such tensor.
    #[must_use]
    pub fn get(&self, index: TensorIndex) -> Option<&Tensor> {
        self.tensors.get(index.0 as usize)
    }

    /// Elements of all tensors that have blocks (tied ones count once).
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.tensors.iter().filter(|tensor| !matches!(tensor.role, Role::Tied(_))).map(Tensor::elements).sum()
    }

    /// What differs between this manifest (expected) and another (found), a line each, the first
    /// [`DIFFERENCES_MAX`] of them; empty when they are equal.
    #[must_use]
    pub fn differences(&self, found: &Manifest) -> Vec<String> {
        let mut lines = Vec::new();
        let found_by_name: HashMap<_, _> = found.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let known: HashSet<_> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        for tensor in &self.tensors {
            match found_by_name.get(tensor.name.as_str()) {
                None => lines.push(format!("expected {tensor}, found no such tensor")),
                Some(other) if *other != tensor => lines.push(format!("expected {tensor}, found {other}")),
                Some(_) => {}
            }
        }
        for tensor in found.tensors.iter().filter(|tensor| !known.contains(tensor.name.as_str())) {
            lines.push(format!("expected no such tensor, found {tensor}"));
        }
        if lines.is_empty() && self != found {
            lines.push("expected the same tensors in another order".to_owned());
        }
        if lines.len() > DIFFERENCES_MAX {
            let more = lines.len() - DIFFERENCES_MAX;
            lines.truncate(DIFFERENCES_MAX);
            lines.push(format!("and {more} more differences"));
        }
        lines
    }
}

fn check_tensor(index: usize, tensor: &Tensor) -> Result<(), ManifestError> {
    let bytes = tensor.name.len();
    if bytes == 0 || bytes > NAME_BYTES_MAX {
        return Err(ManifestError::BadName { index, found: bytes });
    }
    let elements = tensor.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    match elements {
        Some(1..=TENSOR_ELEMENTS_MAX) => Ok(()),
        _ => Err(ManifestError::BadShape { name: tensor.name.clone(), shape: tensor.shape.clone() }),
    }
}

fn check_ties(tensors: &[Tensor]) -> Result<(), ManifestError> {
    let by_name: HashMap<_, _> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    for tensor in tensors {
        let Role::Tied(to) = &tensor.role else { continue };
        let target = by_name.get(to.as_str());
        if !target.is_some_and(|target| !matches!(target.role, Role::Tied(_)) && target.shape == tensor.shape) {
            return Err(ManifestError::BadTie { name: tensor.name.clone(), tied_to: to.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tied(name: &str, shape: &[usize], to: &str) -> Tensor {
        Tensor { role: Role::Tied(to.to_owned()), ..Tensor::trainable(name, shape) }
    }

    #[test]
    fn bad_manifests_are_refused_with_the_reason() {
        let weight = Tensor::trainable("w", &[2, 3]);
        let cases = [
            (vec![], "at least one tensor"),
            (vec![Tensor::trainable("", &[1])], "name of 1 to"),
            (vec![weight.clone(), weight.clone()], "found it twice"),
            (vec![Tensor::trainable("w", &[2, 0])], "found shape [2, 0]"),
            (vec![Tensor::trainable("w", &[usize::MAX, 2])], "found shape"),
            (vec![weight.clone(), tied("t", &[3, 2], "w")], "tied_to"),
            (vec![weight.clone(), tied("t", &[2, 3], "x")], "tied_to"),
            (vec![tied("t", &[2, 3], "u"), tied("u", &[2, 3], "t")], "tied_to"),
        ];
        for (tensors, expected) in cases {
            let error = Manifest::new(tensors).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn differences_are_spelled_out_by_name() {
        let expected = Manifest::new(vec![Tensor::trainable("a", &[2]), Tensor::trainable("b", &[3])]).unwrap();
        let found = Manifest::new(vec![Tensor::trainable("a", &[4]), Tensor::trainable("c", &[3])]).unwrap();
        assert_eq!(
            expected.differences(&found),
            [
                "expected \"a\" f32[2] trainable, found \"a\" f32[4] trainable",
                "expected \"b\" f32[3] trainable, found no such tensor",
                "expected no such tensor, found \"c\" f32[3] trainable",
            ]
        );
        assert!(expected.differences(&expected).is_empty());
    }

    #[test]
    fn another_order_is_a_difference() {
        let (a, b) = (Tensor::trainable("a", &[2]), Tensor::trainable("b", &[2]));
        let expected = Manifest::new(vec![a.clone(), b.clone()]).unwrap();
        let found = Manifest::new(vec![b, a]).unwrap();
        assert_eq!(expected.differences(&found), ["expected the same tensors in another order"]);
    }
}
