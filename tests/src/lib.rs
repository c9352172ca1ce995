//! What the whole-system tests stand on. Tests themselves are the targets in `tests/tests/`.
//!
//! - [`cluster`]: servers in this process, with real gRPC between them.
//! - [`tool`]: a client of the bare contract, written against the generated code alone, so that the
//!   tests do not trust the SDK to speak for them. [`small_job`]: a job that it can follow by hand.
//! - [`process`]: the real binaries as real processes. [`operator`]: what a person asks of a job and does to it.
//! - [`port`]: free ports, for those who must know them beforehand.
//! - [`etcd`]: a real etcd. [`needed`]: programs of others, and what is said where they are missing.
//! - [`proxy`]: a link between them that can be cut, stalled in either direction, and slowed down.
//!
//! Test code: a failed expectation panics with what was expected.
#![allow(clippy::missing_panics_doc, clippy::unwrap_used)]

pub mod cluster;
pub mod dice;
pub mod etcd;
pub mod needed;
pub mod operator;
mod output;
pub mod port;
pub mod process;
pub mod proxy;
pub mod small_job;
pub mod tool;
