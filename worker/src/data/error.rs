//! Why data could not be read.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Names the file, the place in it, what was expected and what was found.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line of text is wrong.
    #[error("{}, line {line}: expected {expected}, found {found}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
    /// Bytes of a binary file are wrong.
    #[error("{}, byte {offset}: expected {expected}, found {found}", path.display())]
    Byte {
        /// The file.
        path: PathBuf,
        /// From 0, after decompression.
        offset: u64,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The samples are well-formed but cannot be used.
    #[error("data: expected {expected}, found {found}")]
    Unusable {
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
}

impl DataError {
    pub(super) fn unusable(expected: impl Into<String>, found: impl Into<String>) -> DataError {
        DataError::Unusable { expected: expected.into(), found: found.into() }
    }
}
