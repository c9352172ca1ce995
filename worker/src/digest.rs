//! One number for a whole model's weights.

use halflife_client::Layout;
use halflife_proto::ids::TensorIndex;
use halflife_proto::manifest::{Manifest, Role, Tensor};

/// BLAKE3, in hexadecimal, over the tensors in the order of their names (as bytes): the
/// little-endian f32 bytes of each, row-major, nothing between them. Tied tensors are skipped: their
/// elements count under their target's name.
///
/// # Panics
/// If `weights` is not an arena of `manifest`.
#[must_use]
pub fn weights_digest(manifest: &Manifest, weights: &[f32]) -> String {
    let mut tensors: Vec<_> = own_tensors(manifest, weights).collect();
    tensors.sort_by(|(a, _), (b, _)| a.name.as_bytes().cmp(b.name.as_bytes()));
    let mut hasher = blake3::Hasher::new();
    for (_, values) in tensors {
        hasher.update(&little_endian(values));
    }
    hasher.finalize().to_hex().to_string()
}

/// The tensors of the arena `weights` that have elements of their own, in manifest order.
pub(crate) fn own_tensors<'a>(
    manifest: &'a Manifest,
    weights: &'a [f32],
) -> impl Iterator<Item = (&'a Tensor, &'a [f32])> {
    let layout = Layout::new(manifest);
    assert_eq!(weights.len(), layout.elements(), "weights of another model");
    let tensors = manifest.tensors().iter().zip(0..);
    tensors
        .filter(|(tensor, _)| !matches!(tensor.role, Role::Tied(_)))
        .map(move |(tensor, index)| (tensor, &weights[layout.range(TensorIndex(index))]))
}

/// The bytes of `values` on the wire and in files.
pub(crate) fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(names: [&str; 2]) -> Manifest {
        Manifest::new(names.map(|name| Tensor::trainable(name, &[2])).to_vec()).unwrap()
    }

    #[test]
    fn the_digest_is_that_of_the_bytes_in_name_order() {
        let bytes: Vec<u8> = [3f32, 4.0, 1.0, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let expected = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(weights_digest(&manifest(["b", "a"]), &[1.0, 2.0, 3.0, 4.0]), expected);
        assert_eq!(weights_digest(&manifest(["a", "b"]), &[3.0, 4.0, 1.0, 2.0]), expected);
    }

    #[test]
    fn layers_are_ordered_by_the_bytes_of_their_names() {
        let digest = |names| weights_digest(&manifest(names), &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(digest(["layers.10.weight", "layers.2.weight"]), digest(["a", "b"]));
    }

    #[test]
    fn one_bit_changes_the_digest() {
        let digest = |weights: &[f32]| weights_digest(&manifest(["a", "b"]), weights);
        assert_ne!(digest(&[0.0, 1.0, 2.0, 3.0]), digest(&[-0.0, 1.0, 2.0, 3.0]));
    }

    #[test]
    fn tied_tensors_count_once() {
        let tied = Tensor { role: Role::Tied("a".into()), ..Tensor::trainable("t", &[2]) };
        let with = Manifest::new(vec![Tensor::trainable("a", &[2]), tied]).unwrap();
        let without = Manifest::new(vec![Tensor::trainable("a", &[2])]).unwrap();
        assert_eq!(weights_digest(&with, &[1.0, 2.0]), weights_digest(&without, &[1.0, 2.0]));
    }
}
