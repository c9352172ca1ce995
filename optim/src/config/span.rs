//! A length of training, written `"2000 steps"` or `"5 epochs"`.

use crate::error::ConfigError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A length of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Span {
    /// In steps.
    Steps(f64),
    /// In epochs; needs `steps_per_epoch`.
    Epochs(f64),
}

impl Span {
    /// The length in steps.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] for epochs without `steps_per_epoch`.
    #[allow(clippy::cast_precision_loss)] // exact below 2^53 steps
    pub fn steps(self, steps_per_epoch: Option<u64>) -> Result<f64, ConfigError> {
        match (self, steps_per_epoch) {
            (Self::Steps(steps), _) => Ok(steps),
            (Self::Epochs(epochs), Some(steps)) => Ok(epochs * steps as f64),
            (Self::Epochs(_), None) => Err(ConfigError::Missing {
                field: "steps_per_epoch".into(),
                expected: "the steps of one epoch, for a decay given in epochs",
            }),
        }
    }
}

impl FromStr for Span {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refused = || {
            let expected = "a number above zero and \"steps\" or \"epochs\", as in \"5 epochs\"";
            ConfigError::range("span", expected, format!("{text:?}"))
        };
        let (number, unit) = text.trim().split_once(' ').ok_or_else(refused)?;
        let number: f64 = number.parse().map_err(|_| refused())?;
        if !(number.is_finite() && number > 0.0) {
            return Err(refused());
        }
        match unit.trim() {
            "step" | "steps" => Ok(Self::Steps(number)),
            "epoch" | "epochs" => Ok(Self::Epochs(number)),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(number) => write!(f, "{number} steps"),
            Self::Epochs(number) => write!(f, "{number} epochs"),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}
