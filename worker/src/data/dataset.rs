//! Labelled samples in memory.

use super::DataError;

/// Samples of equal length with a class each. Not empty; every feature is finite and in \[0, 1\].
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    features: Vec<f32>,
    labels: Vec<u32>,
    features_per_sample: usize,
    classes: usize,
}

/// Some samples, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch<'a> {
    /// Row-major, samples x features per sample.
    pub features: &'a [f32],
    /// One class a sample.
    pub labels: &'a [u32],
}

impl Batch<'_> {
    /// Number of samples.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.labels.len()
    }
}

impl Dataset {
    /// Features are row-major, samples x features per sample. The number of classes is the
    /// greatest label plus one.
    pub(super) fn new(features: Vec<f32>, labels: Vec<u32>, features_per_sample: usize) -> Result<Dataset, DataError> {
        let Some(greatest) = labels.iter().max() else {
            return Err(DataError::unusable("at least one sample", "none"));
        };
        let classes = *greatest as usize + 1;
        if classes < 2 {
            return Err(DataError::unusable("samples of at least two classes", "only class 0"));
        }
        assert_eq!(features.len(), labels.len() * features_per_sample, "features and labels of different samples");
        debug_assert!(features.iter().all(|feature| (0.0..=1.0).contains(feature)), "a feature outside [0, 1]");
        Ok(Dataset { features, labels, features_per_sample, classes })
    }

    /// Number of samples, at least 1.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.labels.len()
    }

    /// Features of one sample.
    #[must_use]
    pub fn features_per_sample(&self) -> usize {
        self.features_per_sample
    }

    /// Number of classes, at least 2; in a part of a data set, that of the whole.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// A copy of the samples at `indices`, in that order, with the classes of the whole.
    ///
    /// # Panics
    /// If an index is not a sample.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Dataset {
        let row = |index: &usize| &self.features[index * self.features_per_sample..][..self.features_per_sample];
        Dataset {
            features: indices.iter().flat_map(row).copied().collect(),
            labels: indices.iter().map(|index| self.labels[*index]).collect(),
            features_per_sample: self.features_per_sample,
            classes: self.classes,
        }
    }

    /// The same samples among `classes` classes, at least as many as there are.
    pub(super) fn with_classes(self, classes: usize) -> Dataset {
        assert!(classes >= self.classes, "labels beyond {classes} classes");
        Dataset { classes, ..self }
    }

    /// All samples at once.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        Batch { features: &self.features, labels: &self.labels }
    }

    /// All samples in order, at most `samples_max` at a time.
    pub fn batches(&self, samples_max: usize) -> impl Iterator<Item = Batch<'_>> {
        let features = self.features.chunks(samples_max * self.features_per_sample);
        features.zip(self.labels.chunks(samples_max)).map(|(features, labels)| Batch { features, labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset() -> Dataset {
        Dataset::new(vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5], vec![0, 2, 1], 2).unwrap()
    }

    #[test]
    fn selected_samples_keep_their_labels_and_classes() {
        let selected = dataset().select(&[2, 0, 2]);
        assert_eq!(selected.batch(), Batch { features: &[0.4, 0.5, 0.0, 0.1, 0.4, 0.5], labels: &[1, 0, 1] });
        assert_eq!(selected.classes(), 3);
    }

    #[test]
    fn batches_cover_all_samples_in_order() {
        let dataset = dataset();
        let batches: Vec<_> = dataset.batches(2).collect();
        assert_eq!(batches[0], Batch { features: &[0.0, 0.1, 0.2, 0.3], labels: &[0, 2] });
        assert_eq!(batches[1], Batch { features: &[0.4, 0.5], labels: &[1] });
        assert_eq!(batches.len(), 2);
    }

    #[test]
    fn samples_of_one_class_are_refused() {
        assert!(Dataset::new(vec![0.5; 4], vec![0, 0], 2).is_err());
        assert!(Dataset::new(vec![], vec![], 2).is_err());
    }
}
