//! Checkpoints in a directory, as a job uses them, and everything that can go wrong with them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;
mod damage;
mod faults;
mod format;
mod life;
mod numbers;
mod sample;
