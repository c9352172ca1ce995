//! Comma-separated numbers: a sample a line, its label in the last column.
//!
//! Promises: a bad line is named with what was expected and what is there; no content panics.
//! Does not: guess separators, headers, missing values or names of classes; unquote.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use halflife_proto::workload::CsvSettings;

use super::dataset::Dataset;
use super::error::DataError;

/// Most classes. A label beyond is taken for a mistake: it would size the model.
const CLASSES_MAX: u32 = 1 << 16;
/// Longest piece of a bad value that is quoted, in characters.
const QUOTED_MAX: usize = 40;

/// What a table looks like, and what errors call it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    pub(super) path: &'a Path,
    /// Whether the first line names the columns.
    pub(super) header: bool,
    /// Largest value of a feature.
    pub(super) scale: f64,
}

/// Reads the file of `settings`.
pub(super) fn read(settings: &CsvSettings) -> Result<Dataset, DataError> {
    let CsvSettings { path, header, scale, .. } = settings;
    let file = File::open(path).map_err(|source| DataError::Read { path: path.clone(), source })?;
    Table { path, header: *header, scale: *scale }.parse(file)
}

impl Table<'_> {
    /// Reads `source` to its end. Blank lines count but hold no sample.
    pub(super) fn parse(self, source: impl Read) -> Result<Dataset, DataError> {
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        let mut columns = None;
        for (text, number) in BufReader::new(source).split(b'\n').zip(1..) {
            let text = text.map_err(|source| DataError::Read { path: self.path.to_owned(), source })?;
            if text.trim_ascii().is_empty() || (self.header && number == 1) {
                continue;
            }
            let values: Vec<&[u8]> = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
            let line = Line { table: self, number };
            line.check_columns(values.len(), *columns.get_or_insert(values.len()))?;
            let (label, pixels) = values.split_last().expect("a line has columns");
            for (column, pixel) in pixels.iter().enumerate() {
                features.push(line.feature(column, pixel)?);
            }
            labels.push(line.label(label)?);
        }
        Dataset::new(features, labels, columns.map_or(0, |columns| columns - 1))
    }
}

/// Where values stand, for the errors.
struct Line<'a> {
    table: Table<'a>,
    number: u64,
}

impl Line<'_> {
    fn check_columns(&self, found: usize, first: usize) -> Result<(), DataError> {
        if found < 2 {
            return Err(self.error("at least one feature and a label", format!("{found} column(s)")));
        }
        if found != first {
            return Err(self.error(format!("{first} columns like the lines before"), format!("{found}")));
        }
        Ok(())
    }

    fn feature(&self, column: usize, text: &[u8]) -> Result<f32, DataError> {
        let scale = self.table.scale;
        match number::<f64>(text) {
            Some(value) if (0.0..=scale).contains(&value) => Ok((value / scale) as f32),
            _ => Err(self.error(format!("a number from 0 to {scale} in column {}", column + 1), quoted(text))),
        }
    }

    fn label(&self, text: &[u8]) -> Result<u32, DataError> {
        match number::<u32>(text) {
            Some(label) if label < CLASSES_MAX => Ok(label),
            _ => Err(self.error(format!("a class from 0 to {} in the last column", CLASSES_MAX - 1), quoted(text))),
        }
    }

    fn error(&self, expected: impl Into<String>, found: String) -> DataError {
        let path = self.table.path.to_owned();
        DataError::Line { path, line: self.number, expected: expected.into(), found }
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn quoted(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let piece: String = text.chars().take(QUOTED_MAX).collect();
    let more = if piece.len() < text.len() { "..." } else { "" };
    format!("{piece:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &[u8], header: bool) -> Result<Dataset, DataError> {
        Table { path: Path::new("some.csv"), header, scale: 4.0 }.parse(text)
    }

    #[test]
    fn features_are_divided_by_the_scale() {
        let dataset = parse(b"0, 1,2.5,1\n\n4,1e0, 2 ,0\r\n", false).unwrap();
        let batch = dataset.batch();
        assert_eq!((batch.features, batch.labels), (&[0.0, 0.25, 0.625, 1.0, 0.25, 0.5][..], &[1, 0][..]));
    }

    #[test]
    fn a_header_is_skipped_when_there_is_one() {
        let text = b"a,b,label\n1,2,0\n1,2,1\n";
        assert_eq!(parse(text, true).unwrap().samples(), 2);
        let error = parse(text, false).unwrap_err().to_string();
        assert_eq!(error, "some.csv, line 1: expected a number from 0 to 4 in column 1, found \"a\"");
    }

    #[test]
    fn bad_lines_are_named() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "expected at least one sample, found none"),
            (b"1,0\n1,1,0\n", "some.csv, line 2: expected 2 columns like the lines before, found 3"),
            (b"1,0\n1\n", "some.csv, line 2: expected at least one feature and a label, found 1 column(s)"),
            (b"1,0\n\n5,1\n", "some.csv, line 3: expected a number from 0 to 4 in column 1, found \"5\""),
            (b"-1,0\n", "found \"-1\""),
            (b"nan,0\n", "found \"nan\""),
            (b"1,\xff\n", "expected a class from 0 to 65535"),
            (b"1,65536\n", "expected a class from 0 to 65535"),
            (b"1,1.5\n", "found \"1.5\""),
            (b"1,0\n2,0\n", "expected samples of at least two classes"),
        ];
        for (text, expected) in cases {
            let error = parse(text, false).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let settings = CsvSettings {
            path: "no/such.csv".into(),
            header: false,
            scale: 1.0,
            test_fraction: 0.2,
            holdout_fraction: 0.0,
            split_seed: None,
        };
        let error = read(&settings).unwrap_err().to_string();
        assert!(error.starts_with("cannot read no/such.csv: "), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, header: bool) {
            let _ = parse(&bytes, header);
        }

        #[test]
        fn no_text_of_numbers_panics(text in "[0-9,.\n\"e-]{0,200}") {
            let _ = parse(text.as_bytes(), false);
        }
    }
}
