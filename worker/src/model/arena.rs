//! Where each tensor lies in an arena.

use std::collections::HashMap;
use std::ops::Range;

use halflife_proto::manifest::{Manifest, Role};

/// The layout of an arena: a range of elements per tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arena {
    ranges: Vec<Range<usize>>,
    elements: usize,
}

impl Arena {
    /// Tensors follow each other in manifest order; a tied one shares its target's range.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Arena {
        let mut elements = 0;
        let mut own = HashMap::new();
        for tensor in manifest.tensors().iter().filter(|tensor| !matches!(tensor.role, Role::Tied(_))) {
            let begin = elements;
            elements += tensor.elements() as usize;
            own.insert(tensor.name.as_str(), begin..elements);
        }
        let ranges = manifest.tensors().iter().map(|tensor| match &tensor.role {
            Role::Tied(to) => own[to.as_str()].clone(),
            _ => own[tensor.name.as_str()].clone(),
        });
        Arena { ranges: ranges.collect(), elements }
    }

    /// Elements of each tensor, by tensor index.
    #[must_use]
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Elements of the whole arena.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }
}

#[cfg(test)]
mod tests {
    use halflife_proto::manifest::Tensor;

    use super::*;

    #[test]
    fn tied_tensors_share_the_range_of_their_target() {
        let tied = Tensor { role: Role::Tied("b".into()), ..Tensor::trainable("t", &[3]) };
        let manifest =
            Manifest::new(vec![tied, Tensor::trainable("a", &[2, 2]), Tensor::trainable("b", &[3])]).unwrap();
        let arena = Arena::of(&manifest);
        assert_eq!((arena.ranges(), arena.elements()), (&[4..7, 0..4, 4..7][..], 7));
    }
}
