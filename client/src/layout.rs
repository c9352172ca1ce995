//! Where each tensor lies in one flat f32 arena.

use std::collections::HashMap;
use std::ops::Range;

use halflife_proto::ids::TensorIndex;
use halflife_proto::manifest::{Manifest, Role};

// Element counts of a manifest are u64 and reach 2^60.
const _: () = assert!(usize::BITS >= 64, "arenas are indexed with 64 bits");

/// One arena for the whole model, in manifest order. A tied tensor has its target's range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    ranges: Vec<Range<usize>>,
    contributing: Vec<TensorIndex>,
    elements: usize,
}

impl Layout {
    /// Places the tensors of `manifest` one after the other.
    #[must_use]
    pub fn new(manifest: &Manifest) -> Layout {
        let mut by_name = HashMap::with_capacity(manifest.tensors().len());
        let mut contributing = Vec::new();
        let mut elements = 0usize;
        for (index, tensor) in manifest.tensors().iter().enumerate() {
            if !matches!(tensor.role, Role::Tied(_)) {
                let begin = elements;
                elements += tensor.elements() as usize;
                by_name.insert(tensor.name.as_str(), begin..elements);
            }
            if matches!(tensor.role, Role::Trainable | Role::Buffer) {
                contributing.push(TensorIndex(index as u32));
            }
        }
        let range_of = |name: &str| by_name.get(name).cloned().unwrap_or(0..0);
        let ranges = manifest.tensors().iter().map(|tensor| match &tensor.role {
            Role::Tied(to) => range_of(to),
            _ => range_of(&tensor.name),
        });
        Layout { ranges: ranges.collect(), contributing, elements }
    }

    /// The elements of a tensor, row-major.
    ///
    /// # Panics
    /// When the manifest has no such tensor.
    #[must_use]
    pub fn range(&self, tensor: TensorIndex) -> Range<usize> {
        self.ranges[tensor.0 as usize].clone()
    }

    /// The tensors that take contributions (trainable ones and buffers), in manifest order.
    #[must_use]
    pub fn contributing(&self) -> &[TensorIndex] {
        &self.contributing
    }

    /// Length of the arena in elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::manifest::Tensor;

    #[test]
    fn tied_tensors_share_the_range_of_their_target() {
        let tied = Tensor { role: Role::Tied("w".into()), ..Tensor::trainable("t", &[2, 3]) };
        let tensors = vec![tied, Tensor::trainable("b", &[]), Tensor::trainable("w", &[2, 3])];
        let layout = Layout::new(&Manifest::new(tensors).unwrap());
        let ranges: Vec<_> = (0..3).map(|index| layout.range(TensorIndex(index))).collect();
        assert_eq!(ranges, [1..7, 0..1, 1..7]);
        assert_eq!(layout.contributing(), [TensorIndex(1), TensorIndex(2)]);
        assert_eq!(layout.elements(), 7);
    }
}
