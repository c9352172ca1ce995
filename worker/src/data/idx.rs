//! Images and labels in the IDX format of MNIST (<http://yann.lecun.com/exdb/mnist/>), plain or
//! gzipped.
//!
//! A file is: two zero bytes, the type of its elements (8 is unsigned bytes), the number of its
//! dimensions, each dimension as a big-endian u32, the elements. Promises: a header that lies about
//! the size costs no memory; missing and surplus bytes are errors; no content panics. Does not:
//! read other types than unsigned bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::dataset::Dataset;
use super::error::DataError;

const UNSIGNED_BYTES: u8 = 8;
const PIXEL_MAX: f32 = 255.0;
/// Most bytes of elements in one file: far beyond MNIST, well within a machine's memory.
const ELEMENTS_MAX: u64 = 1 << 33;

/// Training and test part from the four files of `directory`.
pub(super) fn read(directory: &Path) -> Result<(Dataset, Dataset), DataError> {
    let train = read_part(directory, "train")?;
    let test = read_part(directory, "t10k")?;
    if train.features_per_sample() != test.features_per_sample() {
        return Err(DataError::unusable(
            format!("test images of {} pixels like the training images", train.features_per_sample()),
            format!("{} pixels", test.features_per_sample()),
        ));
    }
    let classes = train.classes().max(test.classes());
    Ok((train.with_classes(classes), test.with_classes(classes)))
}

fn read_part(directory: &Path, part: &str) -> Result<Dataset, DataError> {
    let images = Elements::read(&directory.join(format!("{part}-images-idx3-ubyte")), 3)?;
    let labels = Elements::read(&directory.join(format!("{part}-labels-idx1-ubyte")), 1)?;
    if images.dims[0] != labels.dims[0] {
        return Err(DataError::unusable(
            format!("{} labels, one an image of {}", images.dims[0], images.path.display()),
            format!("{} in {}", labels.dims[0], labels.path.display()),
        ));
    }
    let features = images.values.iter().map(|pixel| f32::from(*pixel) / PIXEL_MAX).collect();
    let classes = labels.values.iter().map(|label| u32::from(*label)).collect();
    Dataset::new(features, classes, images.dims[1..].iter().product())
}

/// The content of one file.
#[derive(Debug, PartialEq)]
struct Elements {
    path: PathBuf,
    dims: Vec<usize>,
    values: Vec<u8>,
}

impl Elements {
    /// Reads `path`, or `path` with `.gz` where only that exists.
    fn read(path: &Path, dims: u8) -> Result<Elements, DataError> {
        let gzipped = path.with_added_extension("gz");
        match File::open(path) {
            Ok(file) => Elements::parse(file, path, dims),
            Err(error) if error.kind() == io::ErrorKind::NotFound && gzipped.exists() => {
                let file = File::open(&gzipped).map_err(|source| DataError::Read { path: gzipped.clone(), source })?;
                Elements::parse(MultiGzDecoder::new(file), &gzipped, dims)
            }
            Err(source) => Err(DataError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(source: impl Read, path: &Path, dims: u8) -> Result<Elements, DataError> {
        let mut source = Source { source, path, offset: 0 };
        let magic = source.four("two zero bytes, type and number of dimensions")?;
        let expected = [0, 0, UNSIGNED_BYTES, dims];
        if magic != expected {
            return Err(source.error(0, format!("the IDX header {expected:?}"), format!("{magic:?}")));
        }
        let mut sizes = Vec::with_capacity(dims.into());
        for _ in 0..dims {
            sizes.push(u64::from(u32::from_be_bytes(source.four("a dimension")?)));
        }
        let elements = sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        match elements {
            Some(elements @ 1..=ELEMENTS_MAX) => {
                let values = source.rest(elements)?;
                let dims = sizes.into_iter().map(|size| size as usize).collect();
                Ok(Elements { path: path.to_owned(), dims, values })
            }
            _ => Err(source.error(4, format!("1 to {ELEMENTS_MAX} elements"), format!("dimensions {sizes:?}"))),
        }
    }
}

/// A file under way, for the errors.
struct Source<'a, R> {
    source: R,
    path: &'a Path,
    offset: u64,
}

impl<R: Read> Source<'_, R> {
    fn four(&mut self, what: &str) -> Result<[u8; 4], DataError> {
        let bytes = self.up_to(4)?;
        <[u8; 4]>::try_from(bytes.as_slice()).map_err(|_| {
            let at = self.offset - bytes.len() as u64;
            self.error(at, format!("4 bytes: {what}"), format!("the end after {}", bytes.len()))
        })
    }

    /// Exactly `elements` bytes and the end of the file.
    fn rest(&mut self, elements: u64) -> Result<Vec<u8>, DataError> {
        let begin = self.offset;
        let values = self.up_to(elements + 1)?;
        let found = values.len() as u64;
        if found == elements {
            return Ok(values);
        }
        let found = if found > elements { "more".to_owned() } else { format!("the end after {found}") };
        Err(self.error(begin, format!("{elements} bytes, as the header says"), found))
    }

    /// Reads until `bytes` have come or the file ends; memory grows only with what comes.
    fn up_to(&mut self, bytes: u64) -> Result<Vec<u8>, DataError> {
        let mut found = Vec::new();
        let read = self.source.by_ref().take(bytes).read_to_end(&mut found);
        read.map_err(|source| DataError::Read { path: self.path.to_owned(), source })?;
        self.offset += found.len() as u64;
        Ok(found)
    }

    fn error(&self, offset: u64, expected: String, found: String) -> DataError {
        DataError::Byte { path: self.path.to_owned(), offset, expected, found }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use proptest::prelude::*;

    fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, UNSIGNED_BYTES, dims.len() as u8];
        dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Two training images and one test image of 1 x 2 pixels.
    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: Vec<u8>| std::fs::write(directory.path().join(name), bytes).unwrap();
        write("train-images-idx3-ubyte", idx(&[2, 1, 2], &[0, 255, 51, 0]));
        write("train-labels-idx1-ubyte.gz", gzipped(&idx(&[2], &[1, 0])));
        write("t10k-images-idx3-ubyte.gz", gzipped(&idx(&[1, 1, 2], &[255, 0])));
        write("t10k-labels-idx1-ubyte", idx(&[1], &[4]));
        directory
    }

    #[test]
    fn plain_and_gzipped_files_are_read_and_scaled() {
        let (train, test) = read(directory().path()).unwrap();
        assert_eq!((train.batch().features, train.batch().labels), (&[0.0, 1.0, 0.2, 0.0][..], &[1, 0][..]));
        assert_eq!((test.batch().features, test.batch().labels), (&[1.0, 0.0][..], &[4][..]));
        assert_eq!((train.classes(), test.classes()), (5, 5));
    }

    #[test]
    fn files_that_do_not_fit_together_are_refused() {
        let cases = [
            ("train-labels-idx1-ubyte", idx(&[1], &[1]), "expected 2 labels"),
            ("t10k-images-idx3-ubyte", idx(&[1, 1, 3], &[1, 2, 3]), "expected test images of 2 pixels"),
            ("train-labels-idx1-ubyte", idx(&[2], &[0, 0]), "at least two classes"),
            ("train-images-idx3-ubyte", vec![], "train-images-idx3-ubyte, byte 0: expected 4 bytes"),
        ];
        for (name, bytes, expected) in cases {
            let directory = directory();
            std::fs::write(directory.path().join(name), bytes).unwrap();
            let error = read(directory.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_missing_file_and_a_damaged_gzip_are_named() {
        let error = read(Path::new("no/such")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read no/such/train-images-idx3-ubyte: "), "{error}");
        let directory = directory();
        let path = directory.path().join("train-labels-idx1-ubyte.gz");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 6);
        std::fs::write(&path, bytes).unwrap();
        let error = read(directory.path()).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("train-labels-idx1-ubyte.gz: "), "{error}");
    }

    #[test]
    fn bad_content_is_named_by_its_offset() {
        let cases: [(Vec<u8>, &str); 6] = [
            (vec![0, 0, 8], "x, byte 0: expected 4 bytes"),
            (vec![0, 0, 13, 1, 0, 0, 0, 1, 9], "x, byte 0: expected the IDX header [0, 0, 8, 1], found [0, 0, 13, 1]"),
            (vec![0, 0, 8, 1, 0, 0], "x, byte 4: expected 4 bytes: a dimension, found the end after 2"),
            (idx(&[3], &[1, 2]), "x, byte 8: expected 3 bytes, as the header says, found the end after 2"),
            (idx(&[1], &[1, 2]), "x, byte 8: expected 1 bytes, as the header says, found more"),
            (idx(&[0], &[]), "x, byte 4: expected 1 to"),
        ];
        for (bytes, expected) in cases {
            let error = Elements::parse(&bytes[..], Path::new("x"), 1).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let huge = idx(&[u32::MAX, u32::MAX, u32::MAX], &[]);
        assert!(Elements::parse(&huge[..], Path::new("x"), 3).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Elements::parse(&bytes[..], Path::new("x"), 1);
            let _ = Elements::parse(MultiGzDecoder::new(&bytes[..]), Path::new("x"), 3);
        }

        #[test]
        fn no_header_panics(dims in prop::array::uniform3(0u32..4), values in prop::collection::vec(any::<u8>(), 0..30)) {
            let elements = dims.iter().product::<u32>() as usize;
            let parsed = Elements::parse(&idx(&dims, &values)[..], Path::new("x"), 3);
            prop_assert_eq!(parsed.is_ok(), elements > 0 && elements == values.len());
        }
    }
}
