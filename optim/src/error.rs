//! What can be wrong with an optimizer configuration.
//!
//! Every message names the field, what was expected and what came. Nothing is repaired: a
//! configuration either means exactly what it says or is refused before the first step.

/// A configuration that cannot mean what it says. The optimizer was not built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value outside the range in which the formula holds.
    #[error("{field}: expected {expected}, got {found}")]
    OutOfRange {
        /// Path of the field below `[optimizer]`, such as `lr.base`.
        field: String,
        /// The accepted range, in words.
        expected: &'static str,
        /// The value that came.
        found: String,
    },
    /// A group pattern that is not a regular expression.
    #[error("group {group:?}: pattern {pattern:?} is not a regular expression: {reason}")]
    BadPattern {
        /// Name of the group.
        group: String,
        /// The pattern as written.
        pattern: String,
        /// What the regex compiler says.
        reason: String,
    },
    /// A setting that the chosen rule would never read.
    #[error("{field} is set, but {reader} does not read it: remove it")]
    Unread {
        /// Path of the field below `[optimizer]`.
        field: String,
        /// What would have had to read it, such as `algorithm = "lion"`.
        reader: String,
    },
    /// A setting that is required and absent.
    #[error("{field} is missing: expected {expected}")]
    Missing {
        /// Path of the field below `[optimizer]`.
        field: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// Two settings that contradict each other.
    #[error("{left} cannot be combined with {right}: {reason}")]
    Conflict {
        /// One setting.
        left: String,
        /// The other.
        right: String,
        /// Why both cannot hold.
        reason: &'static str,
    },
}

impl ConfigError {
    pub(crate) fn range(field: impl Into<String>, expected: &'static str, found: impl ToString) -> Self {
        Self::OutOfRange { field: field.into(), expected, found: found.to_string() }
    }
}

/// A choice as configurations spell it: `LrInside` is `lr_inside`.
pub(crate) fn spelled(choice: impl std::fmt::Debug) -> String {
    let name = format!("{choice:?}");
    let mut spelled = String::with_capacity(name.len() + 2);
    for (index, letter) in name.chars().enumerate() {
        if index > 0 && letter.is_uppercase() {
            spelled.push('_');
        }
        spelled.extend(letter.to_lowercase());
    }
    spelled
}

/// Checks that `value` is finite and at least zero.
pub(crate) fn non_negative(field: &str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(ConfigError::range(field, "a finite number, zero or more", value))
}

/// Checks that `value` is finite and above zero.
pub(crate) fn positive(field: &str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(ConfigError::range(field, "a finite number above zero", value))
}

/// Checks that `count` is at least one.
pub(crate) fn at_least_one(field: &str, count: u64) -> Result<(), ConfigError> {
    if count >= 1 {
        return Ok(());
    }
    Err(ConfigError::range(field, "at least 1", count))
}
