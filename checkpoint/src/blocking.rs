//! Work that may block or takes long, off the threads that serve everybody else.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::Builder;

use tokio::sync::oneshot;

/// How far work in the background stands back: Linux gives it about a tenth of what a thread gets that trains.
const NICENESS: i32 = 10;

/// Runs `work` on a thread that may block. Its panic becomes the caller's. What is under way when the
/// caller stops waiting goes on to its end.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| resume_unwind(panic.into_panic()))
}

/// As [`blocking`], on a thread of its own that stands back for every other, from now on: what keeps a core busy for
/// as long as a step takes must not make the step longer.
///
/// # Errors
/// When the system refuses a thread; `work` does not run then.
pub fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<impl Future<Output = T>> {
    let (sender, done) = oneshot::channel();
    Builder::new().name("halflife-checkpoint".to_owned()).spawn(move || {
        // A system that refuses only takes longer steps.
        let _ = rustix::process::nice(NICENESS);
        // Whoever has stopped waiting wants no result.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
    })?;
    Ok(async {
        let done = done.await.expect("a result is sent, or a panic");
        done.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn work_in_the_background_stands_back_and_leaves_others_as_they_are() {
        let before = niceness();
        assert_eq!(in_background(niceness).unwrap().await, (before + NICENESS).min(19));
        assert_eq!((niceness(), blocking(niceness).await), (before, before));
    }

    #[tokio::test]
    #[should_panic(expected = "broken")]
    async fn a_panic_in_the_background_is_the_callers() {
        in_background(|| panic!("broken")).unwrap().await
    }
}
