//! The model as a weights file tells it: the order of the tensors, which are frozen, buffers or tied.
//!
//! Plain safetensors files of other programs have no such record; their tensors are then all trainable, in the order of
//! their data. It does not say which optimizer or job the weights are of.

use std::collections::BTreeMap;

use halflife_proto::dtype::Dtype;
use halflife_proto::manifest::{Manifest, Role, Tensor};
use serde::{Deserialize, Serialize};

use super::{InterchangeError, TensorFile};

/// Metadata key of a weights file that holds the record, as JSON.
pub const MODEL_KEY: &str = "halflife_model";

/// One tensor of the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    name: String,
    shape: Vec<u64>,
    role: RecordedRole,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecordedRole {
    Trainable,
    Frozen,
    Buffer,
    TiedTo(String),
}

/// The record of a model, as metadata.
pub(super) fn text(model: &Manifest) -> String {
    let records: Vec<ModelRecord> = model.tensors().iter().map(record).collect();
    serde_json::to_string(&records).expect("names, numbers and texts are JSON")
}

fn record(tensor: &Tensor) -> ModelRecord {
    let role = match &tensor.role {
        Role::Trainable => RecordedRole::Trainable,
        Role::Frozen => RecordedRole::Frozen,
        Role::Buffer => RecordedRole::Buffer,
        Role::Tied(to) => RecordedRole::TiedTo(to.clone()),
    };
    ModelRecord { name: tensor.name.clone(), shape: tensor.shape.clone(), role }
}

/// The model of a weights file.
///
/// # Errors
/// [`InterchangeError`] when the record cannot be read or is no model.
pub(super) fn model(path: &str, file: &TensorFile) -> Result<Manifest, InterchangeError> {
    let tensors = match file.metadata.get(MODEL_KEY) {
        Some(text) => recorded(path, text)?,
        None => file.order.iter().map(|name| trainable(name, &file.tensors)).collect(),
    };
    Manifest::new(tensors).map_err(|source| InterchangeError::Model { path: path.to_owned(), source })
}

fn recorded(path: &str, text: &str) -> Result<Vec<Tensor>, InterchangeError> {
    let records: Vec<ModelRecord> = serde_json::from_str(text).map_err(|error| InterchangeError::Malformed {
        path: path.to_owned(),
        expected: "metadata \"halflife_model\" with a list of tensors",
        found: error.to_string(),
    })?;
    let tensor = |ModelRecord { name, shape, role }| {
        let role = match role {
            RecordedRole::Trainable => Role::Trainable,
            RecordedRole::Frozen => Role::Frozen,
            RecordedRole::Buffer => Role::Buffer,
            RecordedRole::TiedTo(to) => Role::Tied(to),
        };
        Tensor { name, shape, dtype: Dtype::F32, role }
    };
    Ok(records.into_iter().map(tensor).collect())
}

fn trainable(name: &str, tensors: &BTreeMap<String, super::Stored>) -> Tensor {
    let shape = tensors[name].shape.clone();
    Tensor { name: name.to_owned(), shape, dtype: Dtype::F32, role: Role::Trainable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interchange::Stored;

    #[test]
    fn a_record_gives_the_model_back_and_without_one_the_data_order_counts() {
        let tensor = |name: &str, role| Tensor { role, ..Tensor::trainable(name, &[2]) };
        let model_before = Manifest::new(vec![
            tensor("z", Role::Trainable),
            tensor("a", Role::Frozen),
            tensor("m", Role::Buffer),
            tensor("t", Role::Tied("z".to_owned())),
        ])
        .unwrap();
        let mut file = TensorFile::default();
        file.metadata.insert(MODEL_KEY.to_owned(), text(&model_before));
        assert_eq!(model("f", &file).unwrap(), model_before);
        let mut plain = TensorFile::default();
        plain.push("z".to_owned(), Stored::f32(&[2], vec![0; 8]));
        plain.push("a".to_owned(), Stored::f32(&[1], vec![0; 4]));
        let names: Vec<_> = model("f", &plain).unwrap().tensors().iter().map(|t| t.name.clone()).collect();
        assert_eq!(names, ["z", "a"]);
        assert!(matches!(model("f", &TensorFile::default()), Err(InterchangeError::Model { .. })));
    }
}
