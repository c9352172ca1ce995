//! The built-in handwritten digits.
//!
//! 1,797 images of 8 x 8 pixels with 17 grey levels, classes 0 to 9: the test part of "Optical
//! Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998), UCI Machine Learning
//! Repository, <https://doi.org/10.24432/C50P49>, licensed under CC BY 4.0. See `data/README.md`.

use std::path::Path;

use super::csv::Table;
use super::dataset::Dataset;
use super::error::DataError;

static DIGITS: &[u8] = include_bytes!("../../data/digits.csv");

/// Largest grey level.
const GREY_MAX: f64 = 16.0;

/// All 1,797 digits, grey levels divided by 16.
pub(super) fn read() -> Result<Dataset, DataError> {
    Table { path: Path::new("built-in digits.csv"), header: false, scale: GREY_MAX }.parse(DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_1797_digits_of_64_pixels() {
        let digits = read().unwrap();
        assert_eq!((digits.samples(), digits.features_per_sample(), digits.classes()), (1797, 64, 10));
        let first = digits.batches(1).next().unwrap();
        assert_eq!((first.features[2], first.features[3], first.labels), (5.0 / 16.0, 13.0 / 16.0, &[0][..]));
    }
}
