//! What is tried again, why, and how often.
//!
//! Every call of the SDK may be repeated: describing and pulling change nothing, joining with the
//! same incarnation gives the same answer, a contribution counts once. So the question is only
//! whether trying again can help.

use std::time::{Duration, Instant};

use halflife_proto::refusal::RefusalCause;
use tonic::Code;

use crate::error::ClientError;

const DELAY_MIN: Duration = Duration::from_millis(50);
const DELAY_MAX: Duration = Duration::from_secs(2);

/// Whether a call that failed with `code`, without a refusal, is worth trying again, and why.
fn code_verdict(code: Code) -> (bool, &'static str) {
    match code {
        Code::Unavailable => (true, "nobody listens yet, or the connection broke"),
        Code::DeadlineExceeded => (true, "the peer may only be slow"),
        Code::Cancelled => (true, "we cancel nothing ourselves: the connection was reset under the call"),
        Code::Unknown => (true, "the transport's failures without a code of their own"),
        Code::Ok => (false, "not a failure"),
        Code::Internal => (false, "the peer, or something between, breaks the protocol"),
        Code::InvalidArgument => (false, "the same request stays wrong"),
        Code::NotFound => (false, "what is not there does not come by asking"),
        Code::AlreadyExists => (false, "what is there differs from what was sent"),
        Code::PermissionDenied => (false, "this incarnation is fenced for good"),
        Code::Unauthenticated => (false, "who we are does not change"),
        Code::ResourceExhausted => (false, "a bound is configured, or a message is too large for it"),
        Code::FailedPrecondition => (false, "someone has to change something first"),
        Code::Aborted => (false, "the job has ended"),
        Code::OutOfRange => (false, "that step is not kept: a new request has to name another"),
        Code::Unimplemented => (false, "the peer is no halflife server, or an older one"),
        Code::DataLoss => (false, "never hide a loss"),
    }
}

/// Whether the same request may succeed later, after a refusal of this cause.
fn cause_verdict(cause: RefusalCause) -> (bool, &'static str) {
    match cause {
        cause if cause.is_transient() => (true, "the job waits for servers or workers"),
        RefusalCause::NotLead => (true, "another server leads, or is about to be elected"),
        _ => (false, "the peer understood the request and will answer it the same way"),
    }
}

impl ClientError {
    /// Whether the same attempt may succeed later, and why.
    #[must_use]
    pub fn retry_verdict(&self) -> (bool, &'static str) {
        match self {
            ClientError::Unreachable { .. } => (true, "the peer may be starting"),
            ClientError::CallFailed { code, .. } => code_verdict(*code),
            ClientError::Refused { refusal, .. } => cause_verdict(refusal.cause),
            _ => (false, "the answer is final"),
        }
    }
}

/// Waits longer after each failure, until it gives up.
pub(crate) struct Backoff {
    delay: Duration,
    started: Instant,
    give_up_after: Duration,
}

impl Backoff {
    pub(crate) fn new(give_up_after: Duration) -> Backoff {
        Backoff { delay: DELAY_MIN, started: Instant::now(), give_up_after }
    }

    /// Waits before the next attempt at `url`.
    ///
    /// # Errors
    /// `failure` itself when trying again cannot help; [`ClientError::GaveUp`] when time is up.
    pub(crate) async fn pause(&mut self, url: &str, failure: ClientError) -> Result<(), ClientError> {
        let (retryable, why) = failure.retry_verdict();
        if !retryable {
            return Err(failure);
        }
        tracing::debug!(url, %failure, why, "trying again");
        self.wait(url, failure).await
    }

    /// Waits before the next attempt at `url` with another request, whatever the failure.
    ///
    /// # Errors
    /// [`ClientError::GaveUp`] when time is up.
    pub(crate) async fn wait(&mut self, url: &str, failure: ClientError) -> Result<(), ClientError> {
        let tried_for = self.started.elapsed();
        let Some(delay) = self.next_delay(tried_for, rand::random_range(0.5..1.0)) else {
            return Err(ClientError::GaveUp { url: url.to_owned(), tried_for, last: Box::new(failure) });
        };
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// The next delay, `None` when it is time to give up. `jitter` in [0.5, 1) keeps workers that
    /// failed together from coming back together.
    fn next_delay(&mut self, tried_for: Duration, jitter: f64) -> Option<Duration> {
        let left = self.give_up_after.checked_sub(tried_for).filter(|left| !left.is_zero())?;
        let delay = self.delay.mul_f64(jitter).min(left);
        // Whoever comes back after a short while is found after a short while.
        self.delay = (self.delay * 2).min(DELAY_MAX).min((tried_for / 4).max(DELAY_MIN));
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::refusal::Refusal;

    #[test]
    fn delays_double_up_to_a_quarter_of_the_time_so_far_and_end_with_it() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let mut delays = Vec::new();
        for ms in [0, 50, 500, 1_000, 2_000, 8_000, 9_000, 9_500] {
            delays.push(backoff.next_delay(Duration::from_millis(ms), 0.99).map(|delay| delay.as_millis()));
        }
        let expected = [49, 49, 49, 99, 198, 396, 792, 500].map(Some);
        assert_eq!(delays, expected);
        assert_eq!(backoff.next_delay(Duration::from_secs(10), 0.5), None);
    }

    #[test]
    fn only_what_waiting_can_mend_is_retried() {
        let refused = |cause| ClientError::refused("http://a", Refusal::new(cause, "no"));
        for cause in [RefusalCause::NotReady, RefusalCause::NotLead] {
            assert!(refused(cause).retry_verdict().0, "{cause:?}");
        }
        for cause in [RefusalCause::ManifestMismatch, RefusalCause::Fenced, RefusalCause::JobStopped] {
            assert!(!refused(cause).retry_verdict().0, "{cause:?}");
        }
        let failed = |code| ClientError::CallFailed { url: String::new(), code, cause: String::new() };
        assert!(failed(Code::Unavailable).retry_verdict().0);
        assert!(!failed(Code::Unimplemented).retry_verdict().0);
    }
}
