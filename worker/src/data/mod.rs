//! Labelled samples: from where they come, how they are cut into parts.
//!
//! - `digits`, `csv`, `idx`: the readers, one a kind of `[data]`.
//! - `split`: training, held-out and test part, drawn by a seed.
//! - `dataset`: what they all give.
//!
//! Promises: every feature is finite and in \[0, 1\], every label is below the number of classes,
//! and no content of any file makes a reader panic. Does not: download, shuffle or augment.

mod csv;
mod dataset;
mod digits;
mod error;
mod idx;
mod split;

use halflife_proto::workload::DataSettings;

pub use dataset::{Batch, Dataset};
pub use error::DataError;
pub use split::Parts;

/// Reads the data and cuts it into its parts. `job_seed` draws them unless the settings have a
/// seed of their own. Blocks on files.
///
/// # Errors
/// [`DataError`] names the file and the place in it.
pub fn load(settings: &DataSettings, job_seed: u64) -> Result<Parts, DataError> {
    let seed = settings.split_seed().unwrap_or(job_seed);
    let holdout = settings.holdout_fraction();
    match settings {
        DataSettings::Digits(digits) => split::three_ways(&digits::read()?, digits.test_fraction, holdout, seed),
        DataSettings::Csv(settings) => split::three_ways(&csv::read(settings)?, settings.test_fraction, holdout, seed),
        DataSettings::Idx(settings) => {
            let (train, test) = idx::read(&settings.directory)?;
            split::hold_out(train, test, holdout, seed)
        }
    }
}
