//! What files must be before anything is written: the model's tensors and no others, each in one group.

use std::collections::{BTreeMap, HashSet};

use halflife_proto::manifest::{Manifest, Role, Tensor};
use halflife_proto::tensor_codec::magnitude_max;
use safetensors::Dtype;

use crate::interchange::{InterchangeError, ParamGroup, TensorFile};

/// Every tensor that has blocks is there, f32, of its shape and finite; nothing else is.
pub(super) fn weights(path: &str, model: &Manifest, file: &TensorFile) -> Result<(), InterchangeError> {
    let refused = |name: &str, expected: String, found: String| {
        Err(InterchangeError::Tensor { path: path.to_owned(), name: name.to_owned(), expected, found })
    };
    let owned = |tensor: &&Tensor| !matches!(tensor.role, Role::Tied(_));
    for tensor in model.tensors().iter().filter(owned) {
        let expected = format!("F32{:?}", tensor.shape);
        let Some(stored) = file.tensors.get(&tensor.name) else {
            return refused(&tensor.name, expected, "no such tensor".to_owned());
        };
        if stored.dtype != Dtype::F32 || stored.shape != tensor.shape {
            return refused(&tensor.name, expected, stored.shown());
        }
        if !magnitude_max(&stored.data).is_finite() {
            return refused(&tensor.name, "finite values".to_owned(), "NaN or infinity".to_owned());
        }
    }
    let known: HashSet<&str> = model.tensors().iter().filter(owned).map(|tensor| tensor.name.as_str()).collect();
    match file.order.iter().find(|name| !known.contains(name.as_str())) {
        Some(name) => refused(name, "no such tensor".to_owned(), file.tensors[name].shown()),
        None => Ok(()),
    }
}

/// Each trainable tensor is in one group.
pub(super) fn grouped(path: &str, model: &Manifest, groups: &[ParamGroup]) -> Result<(), InterchangeError> {
    let refused = |name: &str, expected: &str, found: String| {
        let (path, name) = (path.to_owned(), name.to_owned());
        Err(InterchangeError::Tensor { path, name, expected: expected.to_owned(), found })
    };
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    groups.iter().flat_map(|group| &group.names).for_each(|name| *times.entry(name).or_default() += 1);
    for tensor in model.tensors().iter().filter(|tensor| tensor.role == Role::Trainable) {
        let found = times.remove(tensor.name.as_str()).unwrap_or_default();
        if found != 1 {
            return refused(&tensor.name, "it in one of param_groups", format!("it in {found}"));
        }
    }
    match times.first_key_value() {
        Some((name, _)) => refused(name, "a trainable tensor of the model", "none".to_owned()),
        None => Ok(()),
    }
}
