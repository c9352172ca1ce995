//! A golden file, parsed into its neutral fields.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// One optimizer case. `raw` keeps the fields that only the configuration reads.
pub(crate) struct Case {
    pub(crate) path: PathBuf,
    pub(crate) raw: Value,
    pub(crate) steps: u64,
    pub(crate) tensors: Vec<TensorCase>,
}

pub(crate) struct TensorCase {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) init: Vec<f32>,
    pub(crate) decayed: bool,
    pub(crate) lr_mult: f64,
    pub(crate) decay_mult: f64,
}

impl Case {
    pub(crate) fn read(path: &Path) -> Self {
        let raw = read_json(path);
        let tensors = raw["tensors"].as_array().expect("tensors");
        Self {
            path: path.to_owned(),
            steps: raw["num_steps"].as_u64().expect("num_steps"),
            tensors: tensors.iter().map(TensorCase::from_json).collect(),
            raw,
        }
    }

    /// Whether any gradient is a set of sparse rows.
    pub(crate) fn is_sparse(&self) -> bool {
        let gradients = self.raw["gradients"].as_array();
        let mut all = gradients.into_iter().flatten().filter_map(Value::as_object);
        all.any(|step| step.values().any(Value::is_object))
    }

    /// The combined gradient of `tensor` at update `step` (from 1); `None` when there is none.
    pub(crate) fn gradient(&self, step: u64, tensor: &str) -> Option<Vec<f32>> {
        let index = usize::try_from(step - 1).expect("step");
        let parts = &self.raw["gradient_parts"];
        if parts.is_null() {
            return floats(&self.raw["gradients"][index][tensor]);
        }
        let parts = parts[index].as_array().expect("gradient_parts");
        let parts: Option<Vec<_>> = parts.iter().map(|part| floats(&part[tensor])).collect();
        Some(self.combine(&parts?))
    }

    fn combine(&self, parts: &[Vec<f32>]) -> Vec<f32> {
        let combine = &self.raw["combine"];
        let op = combine["op"].as_str().expect("combine.op");
        let weights: Vec<f32> = match op {
            "weighted_mean" => floats(&combine["weights"]).expect("combine.weights"),
            "mean" | "sum" => vec![1.0; parts.len()],
            other => panic!("{}: unknown combine.op {other}", self.path.display()),
        };
        let total: f32 = weights.iter().sum();
        let divisor = if op == "sum" { 1.0 } else { total };
        let sum_at = |i: usize| {
            let weighted = parts.iter().zip(&weights).map(|(part, w)| w * part[i]);
            weighted.sum::<f32>()
        };
        (0..parts[0].len()).map(|i| sum_at(i) / divisor).collect()
    }
}

impl TensorCase {
    fn from_json(raw: &Value) -> Self {
        let shape = raw["shape"].as_array().expect("shape");
        Self {
            name: raw["name"].as_str().expect("name").into(),
            shape: shape.iter().map(|n| usize::try_from(n.as_u64().expect("dimension")).expect("dimension")).collect(),
            init: floats(&raw["init"]).expect("init"),
            decayed: raw["decayed"].as_bool().expect("decayed"),
            lr_mult: raw["lr_mult"].as_f64().unwrap_or(1.0),
            decay_mult: raw["wd_mult"].as_f64().unwrap_or(1.0),
        }
    }
}

/// The directory of golden files: the repository's copy unless `HALFLIFE_GOLDEN_DIR` is set.
pub(crate) fn golden_dir() -> PathBuf {
    std::env::var_os("HALFLIFE_GOLDEN_DIR").map_or_else(own_golden_dir, PathBuf::from)
}

/// The repository's copy.
pub(crate) fn own_golden_dir() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden").into()
}

/// Every JSON file of a subdirectory, in name order. Another set than the repository's may lack
/// the subdirectory.
pub(crate) fn files(subdirectory: &str) -> Vec<PathBuf> {
    let dir = golden_dir().join(subdirectory);
    if !dir.exists() && golden_dir() != own_golden_dir() {
        return Vec::new();
    }
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files
}

pub(crate) fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A number; non-finite ones are written as strings.
pub(crate) fn number(value: &Value) -> f64 {
    match value.as_str() {
        Some(text) => text.parse().expect("number in a string"),
        None => value.as_f64().unwrap_or_else(|| panic!("not a number: {value}")),
    }
}

pub(crate) fn numbers(value: &Value) -> Option<Vec<f64>> {
    Some(value.as_array()?.iter().map(number).collect())
}

#[allow(clippy::cast_possible_truncation)] // the files hold f32 printed with enough digits
pub(crate) fn floats(value: &Value) -> Option<Vec<f32>> {
    Some(numbers(value)?.iter().map(|&x| x as f32).collect())
}
