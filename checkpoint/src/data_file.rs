//! The data file around its arrays: the safetensors header, the counts of updates, the padding.
//!
//! The header is a function of the index, so reading compares it byte for byte instead of trusting it.

use serde::Serialize;

use crate::contents::WEIGHTS;
use crate::index::{Index, IndexedArray, IndexedBlock, UPDATES_BYTES, padding, place};
use crate::manifest::FORMAT_VERSION;
use crate::store::PART_ALIGNMENT;

/// Largest header that the safetensors library reads, without its length.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Bytes before the header that give its length.
const LENGTH_BYTES: usize = 8;

/// One tensor of the header.
#[derive(Serialize)]
struct Info {
    dtype: &'static str,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

#[derive(Serialize)]
struct Metadata<'a> {
    format: &'static str,
    format_version: String,
    job: &'a str,
    step: String,
    generation: String,
    server: String,
}

/// What precedes the arrays of a data file, and its size.
#[derive(Debug)]
pub struct Frame {
    /// Length and header, padded with spaces to a multiple of [`PART_ALIGNMENT`].
    pub header: Vec<u8>,
    /// The counts of updates, in block order.
    pub updates: Vec<u8>,
    /// Zero bytes at the end.
    pub padding: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The frame of an index whose arrays have their places.
pub fn frame(index: &Index) -> Frame {
    let data_bytes = place(&mut index.blocks.clone());
    let padding = padding(data_bytes);
    let header = header(index, data_bytes, padding);
    let bytes = (header.len() as u64).saturating_add(data_bytes).saturating_add(padding);
    let updates = index.blocks.iter().flat_map(|block| block.updates.to_le_bytes()).collect();
    Frame { header, updates, padding, bytes }
}

/// The key of an array in the header. Planes have a prefix, so that none can be taken for another
/// entry, whatever its name.
fn key(array: &str, block: &IndexedBlock) -> String {
    let prefix = if array == WEIGHTS { "" } else { "plane." };
    format!("{prefix}{array}:{}:{}", block.id().index, block.tensor)
}

fn header(index: &Index, data_bytes: u64, padding: u64) -> Vec<u8> {
    let mut header = vec![0; LENGTH_BYTES];
    header.push(b'{');
    let metadata = Metadata {
        format: "halflife-checkpoint",
        format_version: FORMAT_VERSION.to_string(),
        job: &index.job.0,
        step: index.id.step.0.to_string(),
        generation: index.id.generation.0.to_string(),
        server: index.server.0.to_string(),
    };
    entry(&mut header, "__metadata__", &metadata);
    for (block, offset) in index.blocks.iter().zip((0..).step_by(UPDATES_BYTES as usize)) {
        let key = format!("updates:{}:{}", block.id().index, block.tensor);
        entry(&mut header, &key, &Info { dtype: "U64", shape: vec![], data_offsets: [offset, offset + UPDATES_BYTES] });
    }
    for late in [false, true] {
        for block in &index.blocks {
            for array in block.arrays.iter().filter(|array| array.is_late() == late) {
                entry(&mut header, &key(&array.name, block), &info(array));
            }
        }
    }
    if padding > 0 {
        let data_offsets = [data_bytes, data_bytes.saturating_add(padding)];
        entry(&mut header, "pad", &Info { dtype: "U8", shape: vec![padding], data_offsets });
    }
    header.push(b'}');
    header.resize(header.len().next_multiple_of(PART_ALIGNMENT), b' ');
    let length = (header.len() - LENGTH_BYTES) as u64;
    header[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    header
}

fn info(array: &IndexedArray) -> Info {
    Info {
        dtype: array.dtype.safetensors_name(),
        shape: vec![array.bytes / array.dtype.element_bytes()],
        data_offsets: [array.offset, array.offset.saturating_add(array.bytes)],
    }
}

fn entry<T: Serialize>(header: &mut Vec<u8>, key: &str, value: &T) {
    if header.len() > LENGTH_BYTES + 1 {
        header.push(b',');
    }
    // Writing to memory does not fail, and these values have string keys.
    serde_json::to_writer(&mut *header, key).expect("a text is JSON");
    header.push(b':');
    serde_json::to_writer(&mut *header, value).expect("header entries are plain data");
}
