//! What was found when weights were compared.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is compared at the sampled positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Every bit of every step.
    #[default]
    Bits,
    /// Every step, after rounding the prediction to bf16 as the wire does.
    RoundedToBf16,
    /// No values; that each step comes once and in order.
    StepsOnly,
}

/// One worker's comparison of what it received with what it predicted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// What was compared.
    pub level: Level,
    /// Why not bits, where it was not.
    pub reason: Option<String>,
    /// Positions compared in every version.
    pub positions: usize,
    /// Versions compared.
    pub versions: u64,
    /// Newest version received.
    pub step: u64,
    /// Versions that did not follow the one before.
    pub gaps: u64,
    /// Values that were not as predicted, in all.
    pub mismatches: u64,
    /// The first of them.
    pub first: Option<Mismatch>,
}

/// A weight that is not what it must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The weights' step.
    pub step: u64,
    /// The tensor.
    pub tensor: String,
    /// The element of the flattened tensor.
    pub element: usize,
    /// What it must be.
    pub expected: f32,
    /// What it is.
    pub found: f32,
}

impl Verification {
    /// Counts a mismatch.
    pub fn note(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        self.first.get_or_insert(mismatch);
    }

    /// Counts the arrival of a version that a worker with slots may not miss.
    pub fn arrived(&mut self, step: u64, before: Option<u64>) {
        self.step = step;
        if before.is_some_and(|before| step != before + 1) {
            self.gaps += 1;
        }
    }

    /// Whether everything was as it must be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.mismatches == 0 && self.gaps == 0 && (self.versions > 0 || self.level == Level::StepsOnly)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { step, tensor, element, expected, found } = self;
        write!(
            f,
            "weights of step {step}, tensor {tensor:?}, element {element}: expected {expected:e}, found {found:e}"
        )
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verification { positions, versions, gaps, mismatches, step, .. } = self;
        match (self.passed(), self.level) {
            (true, Level::Bits) => {
                write!(f, "every bit at {positions} positions in {versions} version(s) of the weights")
            }
            (true, Level::RoundedToBf16) => {
                write!(
                    f,
                    "every bit after rounding to bf16 at {positions} positions in {versions} version(s) of the weights"
                )
            }
            (true, Level::StepsOnly) => write!(f, "that every step up to {step} came once"),
            (false, _) if versions + mismatches + gaps == 0 => write!(f, "FAILED: nothing was compared"),
            (false, _) => {
                write!(f, "FAILED: {mismatches} values differ, {gaps} steps are missing")?;
                self.first.as_ref().map_or(Ok(()), |first| write!(f, "; first: {first}"))
            }
        }?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_version_is_a_failure() {
        let mut found = Verification { versions: 2, ..Verification::default() };
        found.arrived(0, None);
        found.arrived(1, Some(0));
        assert!(found.passed());
        found.arrived(3, Some(1));
        assert!(!found.passed());
        assert_eq!(found.to_string(), "FAILED: 0 values differ, 1 steps are missing");
    }

    #[test]
    fn a_comparison_of_nothing_is_no_success() {
        assert!(!Verification::default().passed());
        assert!(Verification { level: Level::StepsOnly, ..Verification::default() }.passed());
    }
}
