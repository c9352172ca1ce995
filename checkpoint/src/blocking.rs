//! Work that may block or takes long, off the threads that serve everybody else.

/// Runs `work` on a thread that may block. Its panic becomes the caller's. What is under way when the
/// caller stops waiting goes on to its end.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
