//! Guarded files: a value in JSON behind the digest of its exact bytes.
//!
//! A file is `{"blake3":"<64 hex digits>","<kind>":<value>}` and a line feed, without a byte more or
//! less. The digest is over the bytes of `<value>` as they stand; nothing has to be written again to
//! check it, and every byte of the file is either digested or has only one form.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoints::{Differing, ReadError};
use crate::exact;
use crate::manifest::FORMAT_VERSION;

const BEFORE_DIGEST: &str = "{\"blake3\":\"";
const AFTER_VALUE: &str = "}\n";
const DIGEST_HEX_BYTES: usize = 64;

fn before_value(kind: &str) -> String {
    format!("\",\"{kind}\":")
}

/// The file of a value.
pub fn write<T: Serialize>(kind: &str, value: &T) -> Vec<u8> {
    // Writing to memory does not fail, and every value here has string keys.
    let value = serde_json::to_vec(value).expect("values of guarded files are plain data");
    let digest = exact::hex(blake3::hash(&value).as_bytes());
    [BEFORE_DIGEST.as_bytes(), digest.as_bytes(), before_value(kind).as_bytes(), &value, AFTER_VALUE.as_bytes()]
        .concat()
}

/// What every value says before anything else is read of it.
#[derive(Deserialize)]
struct Versioned {
    format_version: u32,
}

/// The value of a file.
pub fn read<T: DeserializeOwned>(path: &str, kind: &'static str, file: &[u8]) -> Result<T, ReadError> {
    let malformed = |problem: String| ReadError::Malformed { path: path.to_owned(), problem };
    let (digest, value) = take_apart(kind, file).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&file[..file.len().min(DIGEST_HEX_BYTES)]);
        malformed(format!("expected a guarded {kind}, found {} bytes that begin with {shown:?}", file.len()))
    })?;
    let found = exact::hex(blake3::hash(value).as_bytes());
    if digest != found.as_bytes() {
        let expected = String::from_utf8_lossy(digest).into_owned();
        let digests = Box::new(Differing { expected, found });
        return Err(ReadError::Digest { path: path.to_owned(), part: kind, digests });
    }
    let version: Versioned = serde_json::from_slice(value).map_err(|error| malformed(error.to_string()))?;
    if version.format_version != FORMAT_VERSION {
        let found = version.format_version;
        return Err(ReadError::Version { path: path.to_owned(), expected: FORMAT_VERSION, found });
    }
    serde_json::from_slice(value).map_err(|error| malformed(error.to_string()))
}

fn take_apart<'a>(kind: &str, file: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (digest, rest) = file.strip_prefix(BEFORE_DIGEST.as_bytes())?.split_at_checked(DIGEST_HEX_BYTES)?;
    let value = rest.strip_prefix(before_value(kind).as_bytes())?.strip_suffix(AFTER_VALUE.as_bytes())?;
    Some((digest, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Value {
        format_version: u32,
        text: String,
    }

    fn file(format_version: u32) -> Vec<u8> {
        write("value", &Value { format_version, text: "é \" }".to_owned() })
    }

    #[test]
    fn a_file_is_plain_json_and_reads_back() {
        let file = file(FORMAT_VERSION);
        let json: serde_json::Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(json["value"]["text"], "é \" }");
        assert_eq!(read::<Value>("p", "value", &file).unwrap().text, "é \" }");
    }

    #[test]
    fn no_byte_can_change_unnoticed() {
        let file = file(FORMAT_VERSION);
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut changed = file.clone();
                changed[at] ^= 1 << bit;
                let error = read::<Value>("some/path", "value", &changed).unwrap_err().to_string();
                assert!(error.starts_with("some/path"), "byte {at} bit {bit}: {error}");
            }
        }
    }

    #[test]
    fn no_length_but_its_own_is_accepted() {
        let file = file(FORMAT_VERSION);
        for length in 0..file.len() {
            assert!(read::<Value>("p", "value", &file[..length]).is_err(), "{length}");
        }
        assert!(read::<Value>("p", "value", &[&file[..], b"\n"].concat()).is_err());
    }

    #[test]
    fn another_version_is_named_before_its_fields_are_read() {
        let error = read::<serde_json::Value>("p", "value", &file(FORMAT_VERSION + 1)).unwrap_err();
        assert!(matches!(error, ReadError::Version { expected: 1, found: 2, .. }), "{error}");
    }

    #[test]
    fn another_kind_is_refused() {
        assert!(read::<Value>("p", "claim", &file(FORMAT_VERSION)).is_err());
    }
}
