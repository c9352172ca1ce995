//! What a checkpoint is, and how long writing it takes.

use serde::Serialize;

use super::constants::DISK_BYTES_PER_S;
use super::question::Question;

/// A checkpoint of the job. Bytes and seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Saving {
    /// Per element: f32 weights and the optimizer's state.
    pub bytes_per_element: u64,
    /// The whole of it.
    pub bytes: u64,
    /// The fullest server's part.
    pub server_bytes: u64,
    /// Writing that to a local disk, while training goes on.
    pub to_disk_s: f64,
    /// Writing it over the server's link, to a store that keeps up.
    pub over_network_s: f64,
    /// Checkpoints that lie in the store when nothing else is kept.
    pub kept: u32,
    /// Bytes of those, and of one that is being written.
    pub store_bytes: u64,
}

impl Saving {
    pub(super) fn new(question: &Question, servers: u32) -> Option<Saving> {
        let checkpoint = question.job.checkpoint.as_ref()?;
        let planes: u64 = question.optimizer().planes().iter().map(|plane| plane.dtype.bytes() as u64).sum();
        let bytes_per_element = size_of::<f32>() as u64 + planes;
        let bytes = bytes_per_element.saturating_mul(question.parameters);
        let server_bytes = bytes_per_element.saturating_mul(question.elements(servers));
        Some(Saving {
            bytes_per_element,
            bytes,
            server_bytes,
            to_disk_s: server_bytes as f64 / DISK_BYTES_PER_S.value,
            over_network_s: server_bytes as f64 * 8.0 / (question.network_gbit * 1e9),
            kept: checkpoint.keep_last,
            store_bytes: bytes.saturating_mul(u64::from(checkpoint.keep_last) + 1),
        })
    }
}
