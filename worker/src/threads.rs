//! How many threads one gradient takes.
//!
//! A worker per core wants one thread each: candle's default pool makes a small model's step four
//! times slower (14 ms against 3.6 ms) and grows with the number of cores. candle 0.11 reads
//! `RAYON_NUM_THREADS` from the environment at every matrix product, so the program sets it once,
//! before it starts any thread; only `main` can know that. A user's own value is left alone.

use std::env;

/// What candle reads.
pub const VARIABLE: &str = "RAYON_NUM_THREADS";

/// What the variable should be set to: `None` when the user has set it.
#[must_use]
pub fn wanted() -> Option<&'static str> {
    env::var_os(VARIABLE).is_none().then_some("1")
}

/// Threads one gradient computation uses, by candle's own rule: the variable, or else a thread per
/// core.
#[must_use]
pub fn per_gradient() -> u32 {
    let set = env::var(VARIABLE).ok().and_then(|value| value.parse().ok()).filter(|threads| *threads > 0);
    set.unwrap_or_else(|| candle_core::utils::get_num_threads() as u32)
}
