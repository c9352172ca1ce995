//! The contract of halflife.
//!
//! - [`v1`]: the protobuf messages and gRPC services, generated from `proto/halflife/v1/`.
//! - The domain types both sides of the wire share: [`ids`], [`manifest`], [`slots`], [`blocks`],
//!   [`placement`], [`contribution`], [`membership`], [`job`], [`workload`], [`hello`], [`refusal`]. Whoever holds
//!   one may rely on it being valid.
//! - [`wire`]: the only conversions between the two, and the place where what arrives is checked.
//! - [`tensor_codec`]: tensor data of each [`dtype`] to f32 values and back.
//! - [`trace`]: ids of traces that every process makes alike, and what records spans.
//! - [`causes`]: an error as people read it, with what lies beneath. [`check_scheme`]: which URLs are spoken to.
//! - [`fault_point`]: places where a test can end a process; nothing without the feature.
//! - [`planted_bugs`]: how crates plant bugs in themselves, for tests that must find them; nothing without the feature.
//! - [`strict_toml`]: reading settings so that a misspelt one is an error with a suggestion.
//!
//! No I/O, no state.

#[cfg(target_endian = "big")]
compile_error!("tensor data is little-endian on the wire and copied as it lies in memory");

pub mod blocks;
mod causes;
pub mod contribution;
pub mod dtype;
pub mod fault_point;
pub mod framing;
pub mod hello;
pub mod ids;
pub mod job;
pub mod manifest;
pub mod membership;
pub mod placement;
mod planting;
pub mod refusal;
mod scheme;
pub mod slots;
pub mod strict_toml;
pub mod tensor_codec;
pub mod trace;
pub mod wire;
pub mod workload;

pub use causes::causes;
pub use scheme::check_scheme;

/// Messages and services generated from `proto/halflife/v1/*.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("halflife.v1");
}

/// The compiled descriptors of [`v1`], for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The version of the contract this build speaks. Peers of another version refuse each other.
pub const PROTOCOL_VERSION: u32 = 1;

/// Path of the step stream, which both ends serve through [`framing`].
pub const STEP_PATH: &str = "/halflife.v1.Data/Step";

/// Largest gRPC message either side accepts, in bytes: one block of [`blocks::BLOCK_ELEMENTS_MAX`]
/// f32 elements and its header, with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 4 * blocks::BLOCK_ELEMENTS_MAX as usize + (1 << 20);

/// Most bytes of tensor data one `Pull` may ask for.
pub const PULL_BYTES_MAX: usize = 4 * blocks::BLOCK_ELEMENTS_MAX as usize;

/// Most blocks one `Pull` may ask for.
pub const PULL_BLOCKS_MAX: usize = 8192;

/// HTTP/2 frame size both ends ask for, in bytes. The default of 16 KiB halves the throughput of
/// block-sized messages.
pub const HTTP2_FRAME_BYTES: u32 = 1 << 20;

/// HTTP/2 flow-control window per stream and connection, in bytes: what may be under way before the
/// receiver answers. A window w carries at most w / round-trip time: 32 MiB is 1.6 GB/s at 20 ms,
/// a 10 Gbit/s link at 26 ms. It also bounds what a receiver holds unread per connection.
pub const HTTP2_WINDOW_BYTES: u32 = 32 << 20;

/// What one connection may hold ready to send, in bytes: a few blocks, so that the socket never
/// waits for the next one to be framed.
pub const HTTP2_SEND_BYTES: usize = 4 << 20;

/// A peer is asked for a sign of life after so many silent seconds,
pub const KEEPALIVE_INTERVAL_S: u64 = 10;
/// and is lost when none comes in so many more.
pub const KEEPALIVE_TIMEOUT_S: u64 = 20;
