//! Reading settings strictly: an unknown key is an error that suggests the right one.
//!
//! Every settings struct derives `Deserialize` with `deny_unknown_fields`; this module only turns
//! the parser's answer into one a person can act on.

use serde::de::DeserializeOwned;
use thiserror::Error;

/// Names at least this similar (Jaro-Winkler, 0 to 1) are worth suggesting.
const SIMILARITY_MIN: f64 = 0.75;

/// Why a text is not the settings it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct TomlError {
    message: String,
    lacks_something: bool,
}

impl TomlError {
    /// Whether nothing is wrong with what is there.
    #[must_use]
    pub fn lacks_something(&self) -> bool {
        self.lacks_something
    }
}

/// Reads `text` as `T`.
///
/// # Errors
/// [`TomlError`]: the line, what was expected and, for an unknown key, the most similar known one.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, TomlError> {
    toml::from_str(text).map_err(explained)
}

/// Reads a table as `T`: one that has no text, and so no lines.
///
/// # Errors
/// [`TomlError`]: the place, what was expected and, for an unknown key, the most similar known one.
pub fn from_table<T: DeserializeOwned>(table: toml::Table) -> Result<T, TomlError> {
    table.try_into().map_err(explained)
}

fn explained(error: toml::de::Error) -> TomlError {
    let mut message = error.to_string().trim_end().to_owned();
    if let Some(suggestion) = suggestion(error.message()) {
        message.push_str(&format!("\ndid you mean `{suggestion}`?"));
    }
    TomlError { message, lacks_something: error.message().starts_with("missing field") }
}

/// The known name nearest to the one the parser complains of. serde words the complaint as
/// "unknown field `x`, expected one of `a`, `b`" (or "variant").
fn suggestion(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Settings {
        steps: u64,
        weight_decay: Option<f64>,
        mode: Option<Mode>,
    }

    #[derive(Deserialize, Debug)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Decoupled,
        Coupled,
    }

    #[test]
    fn a_misspelt_key_is_answered_with_the_right_one() {
        for (text, line, expected) in [
            ("steps = 1\nwieght_decay = 0.1", "line 2", "did you mean `weight_decay`?"),
            ("step = 1", "line 1", "did you mean `steps`?"),
            ("steps = 1\nmode = \"decuopled\"", "line 2", "did you mean `decoupled`?"),
        ] {
            let error = from_str::<Settings>(text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(line), "{error}");
        }
    }

    #[test]
    fn a_table_has_no_lines_and_what_is_missing_is_not_wrong() {
        let table: toml::Table = toml::from_str("steps = 1\nwieght_decay = 0.1").unwrap();
        let error = from_table::<Settings>(table).unwrap_err();
        assert!(error.to_string().contains("did you mean `weight_decay`?") && !error.to_string().contains("line"));
        assert!(!error.lacks_something());
        assert!(from_str::<Settings>("weight_decay = 1.0").unwrap_err().lacks_something());
    }

    #[test]
    fn nothing_is_suggested_where_nothing_is_similar() {
        let error = from_str::<Settings>("steps = 1\nzzz = 2").unwrap_err().to_string();
        assert!(error.contains("unknown field `zzz`") && !error.contains("did you mean"), "{error}");
        let error = from_str::<Settings>("steps = \"many\"").unwrap_err().to_string();
        assert!(error.contains("invalid type") && !error.contains("did you mean"), "{error}");
    }
}
