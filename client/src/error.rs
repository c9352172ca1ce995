//! What can go wrong between a worker and its job.

use std::error::Error as _;
use std::time::Duration;

use halflife_proto::blocks::BlockId;
use halflife_proto::causes;
use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::tensor_codec::Dtype;
use thiserror::Error;
use tonic::{Code, Status};

/// Why the SDK could not do what it was asked for. Cheap to clone, so that it can be told again.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// A URL that does not parse.
    #[error("expected a URL such as http://host:port, found {url:?}: {cause}")]
    BadUrl {
        /// What came.
        url: String,
        /// What the parser says.
        cause: String,
    },
    /// No connection, at one attempt.
    #[error("cannot connect to {url}: {cause}")]
    Unreachable {
        /// The peer.
        url: String,
        /// The transport's reasons, outermost first.
        cause: String,
    },
    /// A call failed for a reason of the transport's, at one attempt.
    #[error("call to {url} failed with {code:?}: {cause}")]
    CallFailed {
        /// The peer.
        url: String,
        /// The gRPC code.
        code: Code,
        /// The transport's reasons.
        cause: String,
    },
    /// Tried again and again, without success.
    #[error("gave up on {url} after {} s; last cause: {last}", tried_for.as_secs())]
    GaveUp {
        /// The peer.
        url: String,
        /// How long it was tried.
        tried_for: Duration,
        /// Why the last attempt failed.
        last: Box<ClientError>,
    },
    /// The peer understood and refused.
    #[error("{url} refused: {refusal}")]
    Refused {
        /// The peer.
        url: String,
        /// Its reason.
        refusal: Refusal,
    },
    /// This worker was taken for dead; it may join again as a new incarnation.
    #[error("the lead took this worker for dead: {0}")]
    Fenced(Refusal),
    /// The job has gone back to a checkpoint, and what this worker knows of it is of an earlier generation. It may join
    /// again.
    #[error("the job has gone back to a checkpoint: {0}")]
    RolledBack(Refusal),
    /// The job has ended without finishing.
    #[error("the job has stopped: {0}")]
    JobStopped(Refusal),
    /// The lead did not take leave of this worker.
    #[error("lost the lead at {url}: {cause}")]
    LeadLost {
        /// Where it was.
        url: String,
        /// What happened instead.
        cause: String,
    },
    /// The peer sent what the contract does not allow.
    #[error("{url} broke the contract: {refusal}")]
    BadMessage {
        /// The peer.
        url: String,
        /// What was expected and what came.
        refusal: Refusal,
    },
    /// A server sent weights that do not fit.
    #[error("weights from {url}: {violation}")]
    BadWeights {
        /// The server.
        url: String,
        /// What is wrong with them.
        violation: WeightsViolation,
    },
    /// A gradient or initial weights that do not fit the job. Nothing was sent.
    #[error("{what}: expected {expected}, found {found}")]
    BadContribution {
        /// Which property of it.
        what: &'static str,
        /// What would have been right.
        expected: String,
        /// What came.
        found: String,
    },
}

/// What is wrong with weights a server sent. The assembled weights are unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WeightsViolation {
    /// There is no such block.
    #[error("expected a block of the manifest, found {block}")]
    UnknownBlock {
        /// What came.
        block: BlockId,
    },
    /// The block belongs to another server.
    #[error("{block}: expected from {expected}, found from {found}")]
    NotOwner {
        /// The block.
        block: BlockId,
        /// Its owner.
        expected: ServerIndex,
        /// The sender.
        found: ServerIndex,
    },
    /// Data of another dtype.
    #[error("{block}: expected weights in {expected}, found {found}")]
    WrongDtype {
        /// The block.
        block: BlockId,
        /// The wire's dtype, or f32 of what was pulled.
        expected: Dtype,
        /// What came.
        found: Dtype,
    },
    /// Data of another length.
    #[error("{block}: expected {expected} bytes, found {found}")]
    WrongSize {
        /// The block.
        block: BlockId,
        /// Its size in bytes.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// Weights of another incarnation of the job's state.
    #[error("{block}: expected generation {expected}, found {found}")]
    WrongGeneration {
        /// The block.
        block: BlockId,
        /// The job's.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Weights older than those already received.
    #[error("{block}: expected {expected} or later, found {found}")]
    StepBack {
        /// The block.
        block: BlockId,
        /// The newest received.
        expected: Step,
        /// What came.
        found: Step,
    },
    /// Weights of a step the job does not have, or not of the step asked for.
    #[error("{block}: expected {expected} at most, found {found}")]
    StepBeyond {
        /// The block.
        block: BlockId,
        /// The newest possible.
        expected: Step,
        /// What came.
        found: Step,
    },
}

impl ClientError {
    /// The error of a refusal by the peer at `url`.
    pub(crate) fn refused(url: &str, refusal: Refusal) -> ClientError {
        match refusal.cause {
            RefusalCause::Fenced => ClientError::Fenced(refusal),
            RefusalCause::WrongGeneration => ClientError::RolledBack(refusal),
            RefusalCause::JobStopped => ClientError::JobStopped(refusal),
            _ => ClientError::Refused { url: url.to_owned(), refusal },
        }
    }

    /// The error of a failed call to `url`.
    pub(crate) fn failed(url: &str, status: &Status) -> ClientError {
        match Refusal::from_status(status) {
            Some(refusal) => ClientError::refused(url, refusal),
            None => ClientError::CallFailed { url: url.to_owned(), code: status.code(), cause: status_cause(status) },
        }
    }

    /// The error of an answer from `url` that `refusal` says is not one.
    pub(crate) fn bad_message(url: &str, refusal: Refusal) -> ClientError {
        ClientError::BadMessage { url: url.to_owned(), refusal }
    }

    /// The error of weights from `url` that do not fit.
    pub(crate) fn bad_weights(url: &str, violation: WeightsViolation) -> ClientError {
        ClientError::BadWeights { url: url.to_owned(), violation }
    }

    /// Where the lead is, if a server that does not lead told it.
    pub(crate) fn leads_at(&self) -> Option<&str> {
        match self {
            ClientError::Refused { refusal, .. } => refusal.lead_url(),
            _ => None,
        }
    }

    /// Whether the lead may be another server by now.
    pub(crate) fn may_lead_elsewhere(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::CallFailed { .. } => true,
            ClientError::Refused { refusal, .. } => refusal.cause == RefusalCause::NotLead,
            _ => false,
        }
    }

    /// How much this says about why the job ended for this worker: a broken stream often has its
    /// reason under way in a notice, and a refusal may be one symptom of it.
    pub(crate) fn weight(&self) -> Weight {
        match self {
            ClientError::LeadLost { .. } | ClientError::GaveUp { .. } => Weight::Broken,
            ClientError::Refused { .. } => Weight::Symptom,
            _ => Weight::Reason,
        }
    }
}

/// See [`ClientError::weight`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    Broken,
    Symptom,
    Reason,
}

/// A status's message and the reasons beneath it.
pub(crate) fn status_cause(status: &Status) -> String {
    match status.source() {
        Some(source) => format!("{}: {}", status.message(), causes(source)),
        None => status.message().to_owned(),
    }
}
