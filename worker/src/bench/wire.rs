//! What dtypes a benchmark asks a job's wire to carry.

use clap::ValueEnum;
use halflife_proto::tensor_codec::Dtype;
use serde::{Deserialize, Serialize};

/// How an element is encoded on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum WireDtype {
    /// 4 bytes.
    #[default]
    F32,
    /// 2 bytes.
    Bf16,
    /// 1 byte, and scales that are not counted here.
    I8,
}

impl WireDtype {
    /// Bytes per element.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            WireDtype::F32 => 4,
            WireDtype::Bf16 => 2,
            WireDtype::I8 => 1,
        }
    }

    /// As job files and the command line write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WireDtype::F32 => "f32",
            WireDtype::Bf16 => "bf16",
            WireDtype::I8 => "i8",
        }
    }

    fn named(name: &str) -> Option<WireDtype> {
        WireDtype::value_variants().iter().copied().find(|dtype| dtype.name() == name)
    }
}

impl From<Dtype> for WireDtype {
    fn from(dtype: Dtype) -> WireDtype {
        match dtype {
            Dtype::F32 => WireDtype::F32,
            Dtype::Bf16 => WireDtype::Bf16,
            Dtype::I8Scaled => WireDtype::I8,
        }
    }
}

/// The dtypes of both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Of gradients.
    pub gradients: WireDtype,
    /// Of weights.
    pub weights: WireDtype,
}

/// The keys of a job file that say so.
const GRADIENTS_KEY: &str = "wire.gradients";
const WEIGHTS_KEY: &str = "wire.weights";

impl Wire {
    /// What a job's wire carries.
    #[must_use]
    pub fn of_job(wire: halflife_proto::job::Wire) -> Wire {
        Wire { gradients: wire.gradients.into(), weights: wire.weights.into() }
    }

    /// The overrides that make a job carry this; none for what jobs do anyway.
    #[must_use]
    pub fn overrides(self) -> Vec<String> {
        let keys = [(GRADIENTS_KEY, self.gradients), (WEIGHTS_KEY, self.weights)];
        let unusual = keys.into_iter().filter(|(_, dtype)| *dtype != WireDtype::default());
        unusual.map(|(key, dtype)| format!("{key}={}", dtype.name())).collect()
    }

    /// What a job with these overrides carries.
    #[must_use]
    pub fn of_overrides(overrides: &[String]) -> Wire {
        let dtype = |wanted: &str| {
            let given = overrides.iter().rev().filter_map(|given| given.split_once('='));
            let value = given.filter(|(key, _)| key.trim() == wanted).map(|(_, value)| value.trim().trim_matches('"'));
            value.filter_map(WireDtype::named).next().unwrap_or_default()
        };
        Wire { gradients: dtype(GRADIENTS_KEY), weights: dtype(WEIGHTS_KEY) }
    }

    /// Whether both ways carry f32.
    #[must_use]
    pub fn is_exact(self) -> bool {
        self == Wire::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_is_what_its_overrides_say() {
        for wire in [Wire::default(), Wire { gradients: WireDtype::I8, weights: WireDtype::Bf16 }] {
            assert_eq!(Wire::of_overrides(&wire.overrides()), wire);
        }
        let given = ["job.steps=3", "wire.gradients=i8", "wire.gradients = \"bf16\""].map(str::to_owned);
        assert_eq!(Wire::of_overrides(&given), Wire { gradients: WireDtype::Bf16, weights: WireDtype::F32 });
        assert!(Wire::default().overrides().is_empty() && Wire::default().is_exact());
    }
}
