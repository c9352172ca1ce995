//! How many threads move data, in servers and workers alike.
//!
//! A message of a small step passes several tasks on each side. With one thread they run one after the
//! other; with more, tokio wakes another thread after three of them, which costs more than the work it
//! takes over: one thread makes a step of 1,024 parameters faster by a quarter and loses nothing at
//! 25M (docs/performance.md). So threads are added only where there are many cores and, presumably, many
//! connections. Updates and gradients are computed on other threads.

use std::io;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};

/// Cores for each thread that moves data, where the user names no number: one thread moves some 3 GB/s, which
/// takes the updates of three or four cores.
const CORES_PER_THREAD: usize = 4;

/// A runtime with `threads` of them; 0: one per `CORES_PER_THREAD` cores.
///
/// # Errors
/// When the system refuses a thread.
pub fn runtime(threads: usize) -> io::Result<Runtime> {
    let threads = match threads {
        0 => (available_parallelism()?.get() / CORES_PER_THREAD).max(1),
        given => given,
    };
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_as_it_is_and_none_is_at_least_one() {
        let threads = |given| runtime(given).unwrap().metrics().num_workers();
        assert_eq!(threads(3), 3);
        assert_eq!(threads(0), (available_parallelism().unwrap().get() / CORES_PER_THREAD).max(1));
    }
}
