//! Stores that fail on purpose, for tests of this crate and of those that use it.
//!
//! [`FaultyStore`] stands before any store: it fails an operation, loses its answer, writes less than it
//! was given, takes its time, or is gone from some operation on. [`ForgetfulDisk`] is a file system in
//! memory that loses at a crash what was not synced.

mod disk;
mod store;

pub use disk::ForgetfulDisk;
pub use store::{Fault, FaultyStore};
