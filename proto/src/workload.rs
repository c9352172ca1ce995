//! What the built-in worker trains: the `[model]`, `[data]` and `[training]` tables of a job file.
//!
//! Promises: a [`Workload`] from [`Workload::from_toml`] has no unknown keys and every number in
//! range, and [`Workload::to_toml`] writes what `from_toml` reads back unchanged (that text is how
//! the tables reach the workers). Does not: touch a file or know any tensor; that is the worker's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::strict_toml::{self, TomlError};

/// Widest hidden layer, in units.
pub const HIDDEN_UNITS_MAX: usize = 1 << 20;
/// Most hidden layers.
pub const HIDDEN_LAYERS_MAX: usize = 256;
/// Most samples in one slot.
pub const SAMPLES_PER_SLOT_MAX: u32 = 1 << 24;

/// The three tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// `[model]`: what is trained.
    pub model: ModelSettings,
    /// `[data]`: on what.
    pub data: DataSettings,
    /// `[training]`: how the data is cut into slots and how often it is evaluated.
    pub training: TrainingSettings,
}

/// `[model]`. Features per sample and number of classes come from the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelSettings {
    /// Fully connected layers; gradients by candle's automatic differentiation.
    Mlp(MlpSettings),
    /// Softmax regression (no hidden layer); gradients by hand on ndarray.
    Softmax(SoftmaxSettings),
}

/// `kind = "mlp"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpSettings {
    /// Units of each hidden layer, from the input on; `[]` is a linear model.
    pub hidden: Vec<usize>,
    /// Between the layers.
    #[serde(default)]
    pub activation: Activation,
}

/// `kind = "softmax"`: nothing to set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftmaxSettings {}

/// The function between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(0, x).
    #[default]
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// x times the normal distribution function, in its tanh form (Hendrycks and Gimpel, 2016).
    Gelu,
}

/// `[data]`. All kinds: features end up in \[0, 1\]; which samples go into which part follows from
/// the split seed alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DataSettings {
    /// The built-in 1,797 handwritten digits of 8 x 8 pixels.
    Digits(DigitsSettings),
    /// A table of numbers, one sample a line, its label last.
    Csv(CsvSettings),
    /// Images and labels in the IDX format of MNIST, with a test part of their own.
    Idx(IdxSettings),
}

/// `kind = "digits"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigitsSettings {
    /// Part of all samples kept for the test, rounded up to whole samples: 0.2 is 360 of 1,797.
    #[serde(default = "default_test_fraction")]
    pub test_fraction: f64,
    /// Part of the training samples held out for choosing settings, rounded up: neither trained
    /// nor tested on, evaluated as `holdout`.
    #[serde(default)]
    pub holdout_fraction: f64,
    /// Draws the parts; the job's seed unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_seed: Option<u64>,
}

impl Default for DigitsSettings {
    fn default() -> DigitsSettings {
        DigitsSettings { test_fraction: default_test_fraction(), holdout_fraction: 0.0, split_seed: None }
    }
}

/// `kind = "csv"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvSettings {
    /// The file, seen from where the worker runs. Comma-separated; all columns but the last are
    /// features, the last is the label, a class number from 0.
    pub path: PathBuf,
    /// Whether the first line names the columns and is skipped.
    #[serde(default)]
    pub header: bool,
    /// Largest value a feature may have: features are divided by it, and one outside
    /// \[0, scale\] is an error.
    #[serde(default = "default_scale")]
    pub scale: f64,
    /// As for digits.
    #[serde(default = "default_test_fraction")]
    pub test_fraction: f64,
    /// As for digits.
    #[serde(default)]
    pub holdout_fraction: f64,
    /// As for digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_seed: Option<u64>,
}

/// `kind = "idx"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdxSettings {
    /// The directory, seen from where the worker runs. Holds `train-images-idx3-ubyte`,
    /// `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, each
    /// plain or with `.gz`. Pixels are divided by 255.
    pub directory: PathBuf,
    /// As for digits.
    #[serde(default)]
    pub holdout_fraction: f64,
    /// As for digits; draws the held-out part only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_seed: Option<u64>,
}

/// `[training]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSettings {
    /// Samples in one slot: a step uses slots x this many.
    pub samples_per_slot: u32,
    /// Steps between two evaluations; 0 evaluates only at the end.
    #[serde(default)]
    pub eval_every: u64,
}

fn default_test_fraction() -> f64 {
    0.2
}

fn default_scale() -> f64 {
    1.0
}

/// Why a text is not a workload.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WorkloadError {
    /// Not TOML, an unknown key, a missing key or a value of the wrong type.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// A value out of range.
    #[error("{key}: expected {expected}, found {found}")]
    OutOfRange {
        /// The setting, as `table.key`.
        key: &'static str,
        /// What is allowed.
        expected: String,
        /// What it was.
        found: String,
    },
}

impl Workload {
    /// Reads and checks the three tables.
    ///
    /// # Errors
    /// [`WorkloadError`] names the first key that is wrong.
    pub fn from_toml(text: &str) -> Result<Workload, WorkloadError> {
        let workload: Workload = strict_toml::from_str(text)?;
        workload.validate()?;
        Ok(workload)
    }

    /// The three tables as TOML.
    ///
    /// # Panics
    /// Never for a valid workload: what TOML cannot write (a `split_seed` above `i64::MAX`, a path
    /// that is not UTF-8) is refused by [`Workload::validate`].
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a valid workload is writable as TOML")
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// [`WorkloadError::OutOfRange`] names the first value that is out of range.
    pub fn validate(&self) -> Result<(), WorkloadError> {
        self.model.validate()?;
        self.data.validate()?;
        self.training.validate()
    }
}

impl ModelSettings {
    fn validate(&self) -> Result<(), WorkloadError> {
        let ModelSettings::Mlp(MlpSettings { hidden, activation: _ }) = self else { return Ok(()) };
        require(hidden.len() <= HIDDEN_LAYERS_MAX, "model.hidden", || {
            (format!("at most {HIDDEN_LAYERS_MAX} layers"), hidden.len().to_string())
        })?;
        let units = 1..=HIDDEN_UNITS_MAX;
        require(hidden.iter().all(|layer| units.contains(layer)), "model.hidden", || {
            (format!("1 to {HIDDEN_UNITS_MAX} units a layer"), format!("{hidden:?}"))
        })
    }
}

impl DataSettings {
    /// The seed that draws the parts, unless it is the job's.
    #[must_use]
    pub fn split_seed(&self) -> Option<u64> {
        match self {
            DataSettings::Digits(digits) => digits.split_seed,
            DataSettings::Csv(csv) => csv.split_seed,
            DataSettings::Idx(idx) => idx.split_seed,
        }
    }

    /// Part of the training samples that is held out.
    #[must_use]
    pub fn holdout_fraction(&self) -> f64 {
        match self {
            DataSettings::Digits(digits) => digits.holdout_fraction,
            DataSettings::Csv(csv) => csv.holdout_fraction,
            DataSettings::Idx(idx) => idx.holdout_fraction,
        }
    }

    fn validate(&self) -> Result<(), WorkloadError> {
        let holdout = self.holdout_fraction();
        require((0.0..1.0).contains(&holdout), "data.holdout_fraction", || {
            ("at least 0 and below 1".to_owned(), holdout.to_string())
        })?;
        let seed = self.split_seed().unwrap_or(0);
        require(i64::try_from(seed).is_ok(), "data.split_seed", || {
            (format!("at most {}", i64::MAX), seed.to_string())
        })?;
        match self {
            DataSettings::Digits(digits) => require_test_fraction(digits.test_fraction),
            DataSettings::Csv(csv) => csv.validate(),
            DataSettings::Idx(idx) => require_path(&idx.directory, "data.directory"),
        }
    }
}

impl CsvSettings {
    fn validate(&self) -> Result<(), WorkloadError> {
        require_path(&self.path, "data.path")?;
        require(self.scale.is_finite() && self.scale > 0.0, "data.scale", || {
            ("a finite number above 0".to_owned(), self.scale.to_string())
        })?;
        require_test_fraction(self.test_fraction)
    }
}

impl TrainingSettings {
    fn validate(&self) -> Result<(), WorkloadError> {
        require((1..=SAMPLES_PER_SLOT_MAX).contains(&self.samples_per_slot), "training.samples_per_slot", || {
            (format!("1 to {SAMPLES_PER_SLOT_MAX}"), self.samples_per_slot.to_string())
        })
    }
}

fn require_path(path: &Path, key: &'static str) -> Result<(), WorkloadError> {
    require(path.to_str().is_some_and(|path| !path.is_empty()), key, || {
        ("a path in UTF-8".to_owned(), format!("{path:?}"))
    })
}

fn require_test_fraction(fraction: f64) -> Result<(), WorkloadError> {
    require(fraction > 0.0 && fraction < 1.0, "data.test_fraction", || {
        ("above 0 and below 1".to_owned(), fraction.to_string())
    })
}

/// `explain` gives (expected, found).
fn require(holds: bool, key: &'static str, explain: impl FnOnce() -> (String, String)) -> Result<(), WorkloadError> {
    if holds {
        return Ok(());
    }
    let (expected, found) = explain();
    Err(WorkloadError::OutOfRange { key, expected, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "[model]\nkind = \"mlp\"\nhidden = [64]\n[data]\nkind = \"digits\"\n[training]\n\
        samples_per_slot = 8\n";

    fn digits_with(from: &str, to: &str) -> String {
        assert!(DIGITS.contains(from));
        DIGITS.replace(from, to)
    }

    #[test]
    fn what_is_left_out_has_the_documented_value() {
        let workload = Workload::from_toml(DIGITS).unwrap();
        let expected = Workload {
            model: ModelSettings::Mlp(MlpSettings { hidden: vec![64], activation: Activation::Relu }),
            data: DataSettings::Digits(DigitsSettings { test_fraction: 0.2, holdout_fraction: 0.0, split_seed: None }),
            training: TrainingSettings { samples_per_slot: 8, eval_every: 0 },
        };
        assert_eq!(workload, expected);
        assert_eq!(expected.data, DataSettings::Digits(DigitsSettings::default()));
    }

    #[test]
    fn every_setting_is_read() {
        let text = "[model]\nkind = \"mlp\"\nhidden = [64, 32]\nactivation = \"gelu\"\n[data]\nkind = \"csv\"\n\
            path = \"a.csv\"\nheader = true\nscale = 16\ntest_fraction = 0.3\nholdout_fraction = 0.1\nsplit_seed = 5\n\
            [training]\nsamples_per_slot = 4\neval_every = 50\n";
        let expected = Workload {
            model: ModelSettings::Mlp(MlpSettings { hidden: vec![64, 32], activation: Activation::Gelu }),
            data: DataSettings::Csv(CsvSettings {
                path: "a.csv".into(),
                header: true,
                scale: 16.0,
                test_fraction: 0.3,
                holdout_fraction: 0.1,
                split_seed: Some(5),
            }),
            training: TrainingSettings { samples_per_slot: 4, eval_every: 50 },
        };
        assert_eq!(Workload::from_toml(text).unwrap(), expected);
        let idx = digits_with(
            "kind = \"digits\"",
            "kind = \"idx\"\ndirectory = \"mnist\"\nholdout_fraction = 0.1\nsplit_seed = 5",
        );
        let expected = IdxSettings { directory: "mnist".into(), holdout_fraction: 0.1, split_seed: Some(5) };
        assert_eq!(Workload::from_toml(&idx).unwrap().data, DataSettings::Idx(expected));
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let csv = digits_with("kind = \"digits\"", "kind = \"csv\"\npath = \"a b.csv\"\nsplit_seed = 3");
        let softmax = digits_with("kind = \"mlp\"\nhidden = [64]", "kind = \"softmax\"");
        let idx = digits_with("kind = \"digits\"", "kind = \"idx\"\ndirectory = \"d\"\nholdout_fraction = 0.25");
        for text in [DIGITS.to_owned(), csv, softmax, idx] {
            let workload = Workload::from_toml(&text).unwrap();
            assert_eq!(Workload::from_toml(&workload.to_toml()).unwrap(), workload);
        }
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        let cases = [
            ("hidden = [64]", "hiden = [64]", "did you mean `hidden`?"),
            ("hidden = [64]", "hidden = [64]\nactivation = \"rleu\"", "did you mean `relu`?"),
            ("kind = \"mlp\"", "kind = \"mpl\"", "expected `mlp` or `softmax`"),
            ("kind = \"mlp\"", "kind = \"softmax\"", "unknown field `hidden`"),
            ("hidden = [64]", "", "missing field `hidden`"),
            ("hidden = [64]", "hidden = [64, 0]", "model.hidden: expected 1 to"),
            ("kind = \"digits\"", "kind = \"digits\"\ntest_fraction = 1", "data.test_fraction: expected above 0"),
            ("kind = \"digits\"", "kind = \"digits\"\ntest_fraction = nan", "data.test_fraction"),
            ("kind = \"digits\"", "kind = \"digits\"\nholdout_fraction = -0.1", "data.holdout_fraction"),
            ("kind = \"digits\"", "kind = \"digits\"\nscale = 16", "unknown field `scale`"),
            ("kind = \"digits\"", "kind = \"csv\"", "missing field `path`"),
            ("kind = \"digits\"", "kind = \"csv\"\npath = \"\"", "data.path: expected a path"),
            ("kind = \"digits\"", "kind = \"csv\"\npath = \"a\"\nscale = 0", "data.scale: expected a finite"),
            ("kind = \"digits\"", "kind = \"idx\"\ndirectory = \"\"", "data.directory"),
            ("kind = \"digits\"", "kind = \"idx\"\ndirectory = \"d\"\ntest_fraction = 0.2", "unknown field `test_f"),
            ("samples_per_slot = 8", "samples_per_slot = 0", "training.samples_per_slot: expected 1 to"),
            ("samples_per_slot = 8", "sample_per_slot = 8", "did you mean `samples_per_slot`?"),
            ("[training]", "[trainig]", "did you mean `training`?"),
        ];
        for (from, to, expected) in cases {
            let error = Workload::from_toml(&digits_with(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
