//! A safetensors file with metadata, whole in memory.
//!
//! Promises: a written file is there whole or not at all, has its tensors in the order given, and the same bytes for the
//! same contents (the format's own library sorts by name, and shuffles the metadata). Does not read what it wrote back.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use bytes::Bytes;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::InterchangeError;

/// Headers end on multiples of this, so that arrays of up to 8 bytes an element lie aligned.
const ALIGNMENT: usize = 8;

/// One array of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Encoding of its elements.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its elements, little-endian.
    pub data: Bytes,
}

impl Stored {
    /// f32 of a shape.
    #[must_use]
    pub fn f32(shape: &[u64], data: impl Into<Bytes>) -> Stored {
        Stored { dtype: Dtype::F32, shape: shape.to_vec(), data: data.into() }
    }

    /// A whole number.
    #[must_use]
    pub fn count(value: u64) -> Stored {
        // As i64, which torch reads; no job makes 2^63 updates.
        Stored { dtype: Dtype::I64, shape: Vec::new(), data: Bytes::copy_from_slice(&value.to_le_bytes()) }
    }

    /// Dtype and shape, for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{:?}{:?}", self.dtype, self.shape)
    }
}

/// The contents of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorFile {
    /// Arrays by name.
    pub tensors: BTreeMap<String, Stored>,
    /// Their names in the order of their data.
    pub order: Vec<String>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Adds an array behind the others.
    pub fn push(&mut self, name: String, stored: Stored) {
        self.order.push(name.clone());
        self.tensors.insert(name, stored);
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`InterchangeError::Io`] or [`InterchangeError::Malformed`], naming the file.
    pub fn read(path: &Path) -> Result<TensorFile, InterchangeError> {
        let shown = path.display().to_string();
        let bytes = fs::read(path).map_err(|source| InterchangeError::Io { path: shown.clone(), source })?;
        let bytes = Bytes::from(bytes);
        let malformed = |error: safetensors::SafeTensorError| InterchangeError::Malformed {
            path: shown.clone(),
            expected: "a safetensors file",
            found: error.to_string(),
        };
        let file = SafeTensors::deserialize(&bytes).map_err(malformed)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(malformed)?;
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let shape = view.shape().iter().map(|dim| *dim as u64).collect();
            (name, Stored { dtype: view.dtype(), shape, data: bytes.slice_ref(view.data()) })
        });
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(TensorFile { tensors: tensors.collect(), order: header.offset_keys(), metadata })
    }

    /// Writes the file, replacing one of that name.
    ///
    /// # Errors
    /// [`InterchangeError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), InterchangeError> {
        let partial = path.with_added_extension("partial");
        let written = self.write_to(&partial).and_then(|()| fs::rename(&partial, path));
        written.map_err(|source| {
            // What is half written is of no use; that it cannot be removed is said by the error of writing.
            let _ = fs::remove_file(&partial);
            InterchangeError::Io { path: path.display().to_string(), source }
        })
    }

    fn write_to(&self, path: &Path) -> io::Result<()> {
        let header = self.header();
        let mut file = io::BufWriter::new(fs::File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for name in &self.order {
            file.write_all(&self.tensors[name].data)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        let mut begin = 0;
        for name in &self.order {
            let Stored { dtype, shape, data } = &self.tensors[name];
            let end = begin + data.len();
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
            begin = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_as_it_was_written_in_its_order() {
        let directory = std::env::temp_dir().join(format!("halflife-tensor-file-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("model.safetensors");
        let mut file = TensorFile::default();
        file.push("count".to_owned(), Stored::count(7));
        file.push("b".to_owned(), Stored::f32(&[2], vec![0; 8]));
        file.push("a".to_owned(), Stored::f32(&[], vec![0, 0, 128, 63]));
        file.metadata.insert("format".to_owned(), "pt".to_owned());
        file.write(&path).unwrap();
        assert_eq!(TensorFile::read(&path).unwrap(), file);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::write(&path, b"nonsense").unwrap();
        let error = TensorFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("expected a safetensors file"), "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
