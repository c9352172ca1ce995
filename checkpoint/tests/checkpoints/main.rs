//! Checkpoints in a directory, as a job uses them, and everything that can go wrong with them.

mod damage;
mod format;
mod life;
mod sample;
