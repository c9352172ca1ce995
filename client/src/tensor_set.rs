//! A set of tensors, by index.

use halflife_proto::ids::TensorIndex;

const WORD_BITS: usize = u64::BITS as usize;

/// A set of tensors, a bit each. Two sets are equal when they hold the same tensors.
#[derive(Clone, Debug, Default)]
pub struct TensorSet {
    words: Vec<u64>,
}

impl TensorSet {
    /// The set without tensors.
    #[must_use]
    pub fn new() -> TensorSet {
        TensorSet::default()
    }

    /// Adds a tensor.
    pub fn insert(&mut self, tensor: TensorIndex) {
        let (word, bit) = place(tensor);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    /// Takes a tensor out, if it was in.
    pub fn remove(&mut self, tensor: TensorIndex) {
        let (word, bit) = place(tensor);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Whether a tensor is in the set.
    #[must_use]
    pub fn contains(&self, tensor: TensorIndex) -> bool {
        let (word, bit) = place(tensor);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether no tensor is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

fn place(tensor: TensorIndex) -> (usize, u64) {
    let index = tensor.0 as usize;
    (index / WORD_BITS, 1 << (index % WORD_BITS))
}

impl PartialEq for TensorSet {
    fn eq(&self, other: &TensorSet) -> bool {
        let length = self.words.len().max(other.words.len());
        let word = |set: &TensorSet, index: usize| set.words.get(index).copied().unwrap_or(0);
        (0..length).all(|index| word(self, index) == word(other, index))
    }
}

impl Eq for TensorSet {}

impl FromIterator<TensorIndex> for TensorSet {
    fn from_iter<I: IntoIterator<Item = TensorIndex>>(tensors: I) -> TensorSet {
        let mut set = TensorSet::new();
        for tensor in tensors {
            set.insert(tensor);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_go_in_and_out() {
        let mut set: TensorSet = [3, 64, 130].map(TensorIndex).into_iter().collect();
        assert!(set.contains(TensorIndex(64)) && !set.contains(TensorIndex(65)) && !set.contains(TensorIndex(9999)));
        for tensor in [3, 64, 130, 9999] {
            set.remove(TensorIndex(tensor));
        }
        assert!(set.is_empty());
        assert_eq!(set, TensorSet::new());
    }
}
