//! Training, held-out and test part.
//!
//! Promises: the parts are disjoint, cover all samples, are never empty when asked for, and follow
//! from the seed alone. Does not: balance classes.

use super::dataset::Dataset;
use super::error::DataError;
use crate::permutation::Permutation;
use crate::random::{Philox, Purpose};

/// The parts of a data set; all know the same classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// What gradients are computed on.
    pub train: Dataset,
    /// Taken from the training samples, for choosing settings; absent unless asked for.
    pub holdout: Option<Dataset>,
    /// For the final word only.
    pub test: Dataset,
}

/// The index of each draw of [`Purpose::Split`], so that the test part does not depend on
/// `holdout_fraction`.
const TEST_DRAW: u64 = 0;
const HOLDOUT_DRAW: u64 = 1;

/// Draws the test part, then the held-out part from what is left.
pub(super) fn three_ways(
    all: &Dataset,
    test_fraction: f64,
    holdout_fraction: f64,
    seed: u64,
) -> Result<Parts, DataError> {
    let (test, train) = draw(all, test_fraction, Philox::derive(seed, Purpose::Split, TEST_DRAW));
    match (train, test) {
        (Some(train), Some(test)) => hold_out(train, test, holdout_fraction, seed),
        _ => Err(too_few(all.samples(), "test_fraction", test_fraction)),
    }
}

/// Draws the held-out part from `train`.
pub(super) fn hold_out(train: Dataset, test: Dataset, holdout_fraction: f64, seed: u64) -> Result<Parts, DataError> {
    if holdout_fraction == 0.0 {
        return Ok(Parts { train, holdout: None, test });
    }
    let (holdout, rest) = draw(&train, holdout_fraction, Philox::derive(seed, Purpose::Split, HOLDOUT_DRAW));
    let Some(rest) = rest else { return Err(too_few(train.samples(), "holdout_fraction", holdout_fraction)) };
    Ok(Parts { train: rest, holdout, test })
}

/// `fraction` of `all`, rounded up, and the rest; `None` for an empty part.
fn draw(all: &Dataset, fraction: f64, stream: Philox) -> (Option<Dataset>, Option<Dataset>) {
    let samples = all.samples();
    let count = ((samples as f64 * fraction).ceil() as usize).min(samples);
    let permutation = Permutation::new(stream, samples as u64);
    let order: Vec<usize> = (0..samples as u64).map(|position| permutation.at(position) as usize).collect();
    let part = |indices: &[usize]| (!indices.is_empty()).then(|| all.select(indices));
    (part(&order[..count]), part(&order[count..]))
}

fn too_few(samples: usize, key: &str, fraction: f64) -> DataError {
    DataError::unusable(
        format!("enough samples for each part with {key} = {fraction}"),
        format!("{samples} to draw from"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sample i has the one feature i / 2^16.
    fn numbered(samples: usize) -> Dataset {
        let features = (0..samples).map(|i| i as f32 / 65536.0).collect();
        Dataset::new(features, (0..samples).map(|i| (i % 2) as u32).collect(), 1).unwrap()
    }

    fn members(part: &Dataset) -> Vec<usize> {
        part.batch().features.iter().map(|feature| (feature * 65536.0) as usize).collect()
    }

    #[test]
    fn a_fifth_of_the_digits_is_360_of_1797() {
        let parts = three_ways(&numbered(1797), 0.2, 0.0, 1).unwrap();
        assert_eq!((parts.train.samples(), parts.test.samples()), (1437, 360));
        assert!(parts.holdout.is_none());
    }

    #[test]
    fn seeds_draw_different_parts() {
        let test = |seed| members(&three_ways(&numbered(100), 0.2, 0.0, seed).unwrap().test);
        assert_eq!(test(1), test(1));
        assert_ne!(test(1), test(2));
    }

    #[test]
    fn holding_out_leaves_the_test_part_alone() {
        let (without, with) = (three_ways(&numbered(100), 0.2, 0.0, 5), three_ways(&numbered(100), 0.2, 0.3, 5));
        assert_eq!(without.unwrap().test, with.unwrap().test);
    }

    #[test]
    fn parts_that_would_be_empty_are_refused() {
        assert!(three_ways(&numbered(3), 0.9, 0.0, 1).is_err());
        assert!(three_ways(&numbered(3), 0.4, 0.5, 1).is_err());
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_and_cover_everything(
            samples in 2usize..300, test in 0.01..0.99f64, holdout in 0.0..0.99f64, seed: u64,
        ) {
            if let Ok(parts) = three_ways(&numbered(samples), test, holdout, seed) {
                let mut all = members(&parts.train);
                all.extend(members(&parts.test));
                all.extend(parts.holdout.iter().flat_map(members));
                all.sort_unstable();
                prop_assert!(all.into_iter().eq(0..samples));
            }
        }
    }
}
