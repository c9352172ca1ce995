//! Where updates are computed: small ones right where they became ready, large ones on compute
//! threads, so that no thread of the async runtime is held for more than tens of microseconds.
//!
//! Handing an update over costs about 100 us in latency (LIMITS: 135 us against 35 us for a
//! 1K-parameter step), which only pays beyond [`INLINE_WORK_MAX`].

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Most work, in element additions and updates, that runs inline: about 20 us.
pub const INLINE_WORK_MAX: usize = 32 * 1024;

/// The compute threads of a server.
#[derive(Debug)]
pub struct Compute {
    pool: ThreadPool,
}

impl Compute {
    /// Starts `threads` compute threads (0: one per core).
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> Result<Compute, ThreadPoolBuildError> {
        let pool =
            ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("halflife-compute-{i}")).build()?;
        Ok(Compute { pool })
    }

    /// Runs a job of so much work (element additions and updates) here or on a compute thread.
    pub fn run(&self, work: usize, job: impl FnOnce() + Send + 'static) {
        if work <= INLINE_WORK_MAX {
            job();
        } else {
            self.pool.spawn(job);
        }
    }
}
