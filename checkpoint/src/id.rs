//! Names of checkpoints.
//!
//! A name is also the directory the checkpoint lies in. It contains the generation, so that two
//! incarnations of a job that pass the same step never write to the same place.

use std::fmt;
use std::str::FromStr;

use halflife_proto::ids::{Generation, Step};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Names one checkpoint: the state after `step`, taken by `generation`. Shown as
/// `000000000100-g00000002`; ordered by generation, then step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointId {
    /// The step it is the state of.
    pub step: Step,
    /// The generation that took it.
    pub generation: Generation,
}

impl Ord for CheckpointId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.generation, self.step).cmp(&(other.generation, other.step))
    }
}

impl PartialOrd for CheckpointId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}-g{:08}", self.step.0, self.generation.0)
    }
}

/// A text that names no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected the name of a checkpoint like \"000000000100-g00000002\", found {found:?}")]
pub struct CheckpointIdError {
    /// The text.
    pub found: String,
}

impl FromStr for CheckpointId {
    type Err = CheckpointIdError;

    /// Reads exactly what [`fmt::Display`] writes: a name has one spelling, so that two directories
    /// never stand for the same checkpoint.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once("-g").and_then(|(step, generation)| {
            Some(CheckpointId { step: Step(step.parse().ok()?), generation: Generation(generation.parse().ok()?) })
        });
        parsed.filter(|id| id.to_string() == text).ok_or_else(|| CheckpointIdError { found: text.to_owned() })
    }
}

impl Serialize for CheckpointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CheckpointId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(step: u64, generation: u64) -> CheckpointId {
        CheckpointId { step: Step(step), generation: Generation(generation) }
    }

    #[test]
    fn a_name_reads_back_as_it_was_written() {
        for (id, name) in [
            (id(100, 2), "000000000100-g00000002"),
            (id(0, 0), "000000000000-g00000000"),
            (id(u64::MAX, 123_456_789), "18446744073709551615-g123456789"),
        ] {
            assert_eq!(id.to_string(), name);
            assert_eq!(name.parse(), Ok(id));
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        for name in ["", "100-g2", "0000000000100-g00000002", "+00000000100-g00000002", "000000000100-g00000002/"] {
            let error = name.parse::<CheckpointId>().unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn generations_order_before_steps() {
        assert!(id(900, 1) < id(100, 2) && id(100, 2) < id(101, 2));
    }
}
