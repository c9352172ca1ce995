//! Where updates are computed: small ones right where they became ready, large ones on compute
//! threads, so that no thread of the async runtime is held for more than tens of microseconds.
//!
//! Handing an update over costs about 100 us in latency (LIMITS: 135 us against 35 us for a
//! 1K-parameter step), which only pays beyond [`INLINE_WORK_MAX`].
//!
//! One queue feeds all threads: whichever is free takes the block that has been ready longest, so no
//! core idles while a block waits. Threads share nothing but the queue's lock, held for one move in
//! or out: with updates of 100 us and more, thousands of threads would have to contend for it. A
//! block is in the queue at most once (its planes travel with the update), which bounds it.
//!
//! Nothing is allocated per update: the queue keeps its capacity, and each thread its [`Summer`].

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, available_parallelism};

use tokio::sync::Notify;

use crate::block::Summer;

/// Most work, in element additions and updates, that runs inline: about 20 us.
pub const INLINE_WORK_MAX: usize = 32 * 1024;

/// Work that may wait before [`Compute::has_room`] makes readers wait: 16 MiB of gradients. More
/// would keep no thread busier.
const QUEUED_WORK_MAX: usize = 4 << 20;

/// Jobs that have room from the beginning: as many of the smallest as [`QUEUED_WORK_MAX`] lets in, and one more
/// for each of as many readers.
const JOBS_AT_FIRST: usize = 2 * QUEUED_WORK_MAX / INLINE_WORK_MAX;

/// Something to compute.
pub trait Job: Send + 'static {
    /// Computes it, with working memory that is used again.
    fn run(self, summer: &mut Summer);
}

/// The compute threads of a server. They end with it, after what is queued.
#[derive(Debug)]
pub struct Compute<J: Job> {
    shared: Arc<Shared<J>>,
    /// Working memory of updates that run inline, one for each that runs at once.
    inline: Mutex<Vec<Summer>>,
}

#[derive(Debug)]
struct Shared<J> {
    queue: Mutex<Queue<J>>,
    ready: Condvar,
    /// Sum of the work that waits.
    queued: AtomicUsize,
    room: Notify,
}

#[derive(Debug)]
struct Queue<J> {
    jobs: VecDeque<(usize, J)>,
    closed: bool,
}

impl<J: Job> Compute<J> {
    /// Starts `threads` compute threads (0: one per core).
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> io::Result<Compute<J>> {
        let queue = Mutex::new(Queue { jobs: VecDeque::with_capacity(JOBS_AT_FIRST), closed: false });
        let (ready, queued, room) = (Condvar::new(), AtomicUsize::new(0), Notify::new());
        let compute = Compute { shared: Arc::new(Shared { queue, ready, queued, room }), inline: Mutex::default() };
        let threads = if threads == 0 { available_parallelism()?.get() } else { threads };
        for index in 0..threads {
            let shared = compute.shared.clone();
            Builder::new().name(format!("halflife-compute-{index}")).spawn(move || shared.work())?;
        }
        Ok(compute)
    }

    /// Runs a job of so much work (element additions and updates) here or on a compute thread.
    pub fn run(&self, work: usize, job: J) {
        if work <= INLINE_WORK_MAX {
            let mut summer = lock(&self.inline).pop().unwrap_or_default();
            run_or_abort(job, &mut summer);
            lock(&self.inline).push(summer);
            return;
        }
        self.shared.queued.fetch_add(work, Ordering::Relaxed);
        lock(&self.shared.queue).jobs.push_back((work, job));
        self.shared.ready.notify_one();
    }

    /// Element additions and updates that wait for a thread.
    #[must_use]
    pub fn queued_work(&self) -> usize {
        self.shared.queued.load(Ordering::Relaxed)
    }

    /// Waits until the threads have caught up so far that more gradients are wanted. Who reads them
    /// off a connection waits here, which lets the sender's window close.
    pub async fn has_room(&self) {
        while self.shared.queued.load(Ordering::Relaxed) > QUEUED_WORK_MAX {
            let room = self.shared.room.notified();
            // Looked at again: it may have come between the look and the listening.
            if self.shared.queued.load(Ordering::Relaxed) > QUEUED_WORK_MAX {
                room.await;
            }
        }
    }
}

impl<J: Job> Drop for Compute<J> {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.ready.notify_all();
    }
}

impl<J: Job> Shared<J> {
    fn work(&self) {
        let mut summer = Summer::default();
        while let Some((work, job)) = self.next() {
            let before = self.queued.fetch_sub(work, Ordering::Relaxed);
            if before > QUEUED_WORK_MAX {
                self.room.notify_waiters();
            }
            run_or_abort(job, &mut summer);
        }
    }

    fn next(&self) -> Option<(usize, J)> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends the process when the job panics. That is a broken invariant, already reported by the panic itself. The block is lost
/// with its planes, and everybody would wait for it for ever, also where only a session's task ended with it: better to be
/// seen to fail.
fn run_or_abort<J: Job>(job: J, summer: &mut Summer) {
    if catch_unwind(AssertUnwindSafe(|| job.run(summer))).is_err() {
        std::process::abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Moving jobs in and out does not panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{ThreadId, current};

    enum Test {
        Tell(Sender<ThreadId>),
        Wait(Receiver<()>),
        Panic,
    }

    impl Job for Test {
        fn run(self, _: &mut Summer) {
            match self {
                Test::Tell(whom) => whom.send(current().id()).unwrap(),
                Test::Wait(until) => until.recv().unwrap(),
                Test::Panic => panic!("as it was told"),
            }
        }
    }

    #[test]
    fn small_work_runs_here_and_large_work_elsewhere() {
        let compute = Compute::new(2).unwrap();
        let (sender, receiver) = channel();
        compute.run(INLINE_WORK_MAX, Test::Tell(sender.clone()));
        assert_eq!(receiver.recv().unwrap(), current().id());
        compute.run(INLINE_WORK_MAX + 1, Test::Tell(sender));
        assert_ne!(receiver.recv().unwrap(), current().id());
    }

    /// Set in the process that is to end.
    const PANICKING_WORK: &str = "HALFLIFE_TEST_PANICKING_WORK";

    #[test]
    fn an_update_that_panics_ends_the_process_wherever_it_runs() {
        use std::os::unix::process::ExitStatusExt as _;

        if let Ok(work) = std::env::var(PANICKING_WORK) {
            let compute = Compute::new(1).unwrap();
            // As in a session, whose task would catch it.
            let _ = catch_unwind(AssertUnwindSafe(|| compute.run(work.parse().unwrap(), Test::Panic)));
            std::thread::sleep(std::time::Duration::from_secs(10));
            return;
        }
        for work in [INLINE_WORK_MAX, INLINE_WORK_MAX + 1] {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "compute::tests::an_update_that_panics_ends_the_process_wherever_it_runs"]);
            let output = child.env(PANICKING_WORK, work.to_string()).output().unwrap();
            let aborted = Some(6); // SIGABRT
            assert_eq!(output.status.signal(), aborted, "{work}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[tokio::test]
    async fn readers_wait_while_too_much_is_queued() {
        let compute = Compute::new(1).unwrap();
        let (release, held) = channel();
        compute.run(INLINE_WORK_MAX + 1, Test::Wait(held));
        let (sender, receiver) = channel();
        compute.run(QUEUED_WORK_MAX + 1, Test::Tell(sender));
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, compute.has_room()).await.is_err());
        release.send(()).unwrap();
        compute.has_room().await;
        receiver.recv().unwrap();
    }

    #[test]
    fn what_is_queued_is_computed_before_the_end() {
        let compute = Compute::new(1).unwrap();
        let (sender, receiver) = channel();
        for _ in 0..100 {
            compute.run(INLINE_WORK_MAX + 1, Test::Tell(sender.clone()));
        }
        drop((compute, sender));
        assert_eq!(receiver.iter().count(), 100);
    }
}
