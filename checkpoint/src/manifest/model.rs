//! The tensors of a model in JSON. Reading goes through [`Manifest::new`], so what is read is valid.

use halflife_proto::dtype::Dtype;
use halflife_proto::manifest::{Manifest, Role, Tensor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredTensor {
    name: String,
    shape: Vec<u64>,
    dtype: Dtype,
    role: StoredRole,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredRole {
    Trainable,
    Frozen,
    Buffer,
    TiedTo(String),
}

pub fn serialize<S: Serializer>(manifest: &Manifest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(manifest.tensors().iter().map(|tensor| StoredTensor {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        dtype: tensor.dtype,
        role: match &tensor.role {
            Role::Trainable => StoredRole::Trainable,
            Role::Frozen => StoredRole::Frozen,
            Role::Buffer => StoredRole::Buffer,
            Role::Tied(to) => StoredRole::TiedTo(to.clone()),
        },
    }))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Manifest, D::Error> {
    let stored = Vec::<StoredTensor>::deserialize(deserializer)?;
    let tensors = stored.into_iter().map(|tensor| Tensor {
        name: tensor.name,
        shape: tensor.shape,
        dtype: tensor.dtype,
        role: match tensor.role {
            StoredRole::Trainable => Role::Trainable,
            StoredRole::Frozen => Role::Frozen,
            StoredRole::Buffer => Role::Buffer,
            StoredRole::TiedTo(to) => Role::Tied(to),
        },
    });
    Manifest::new(tensors.collect()).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Model(#[serde(with = "super")] Manifest);

    #[test]
    fn every_role_and_shape_reads_back() {
        let tensor = |name: &str, role| Tensor { role, ..Tensor::trainable(name, &[2, 3]) };
        let manifest = Manifest::new(vec![
            tensor("a", Role::Trainable),
            tensor("b", Role::Frozen),
            tensor("c", Role::Buffer),
            tensor("d", Role::Tied("a".to_owned())),
            Tensor::trainable("scalar", &[]),
        ])
        .unwrap();
        let text = serde_json::to_string(&Model(manifest.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Model>(&text).unwrap().0, manifest);
    }

    #[test]
    fn an_invalid_model_is_refused() {
        assert!(serde_json::from_str::<Model>("[]").is_err());
    }
}
