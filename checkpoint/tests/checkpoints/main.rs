//! Checkpoints in a directory, as a job uses them, and everything that can go wrong with them.

mod crash;
mod damage;
mod faults;
mod format;
mod life;
mod sample;
