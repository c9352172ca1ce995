//! Why something was not done: one type, one table to gRPC codes (DESIGN.md rule 11).
//!
//! Whoever sends a refusal has left its own state unchanged.

use std::fmt;

use prost::Message as _;
use thiserror::Error;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::v1;

/// Trailing metadata of a failed unary call that carries the encoded `halflife.v1.Refusal`.
pub const REFUSAL_METADATA: &str = "halflife-refusal-bin";

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCause {
    /// The peer speaks another version of the contract.
    WrongProtocol,
    /// The peer belongs to another job.
    WrongJob,
    /// The message belongs to another incarnation of the job's state.
    WrongGeneration,
    /// The worker was taken for dead, or never joined.
    Fenced,
    /// The worker's model is not the job's model.
    ManifestMismatch,
    /// There is no such tensor or block.
    UnknownBlock,
    /// The block lives on another server.
    NotOwner,
    /// Tensor data of another dtype.
    WrongDtype,
    /// Tensor data of another length.
    WrongSize,
    /// Slots that are not a node of the slot tree, or several in a dtype that carries single slots.
    MisalignedSlots,
    /// A contribution to a step beyond the next.
    StepAhead,
    /// The weights of that step are no longer kept.
    StepGone,
    /// The block has no weights yet.
    NotInitialized,
    /// Initial weights that differ from those already set.
    InitializationDiffers,
    /// NaN or infinity in data declared finite, or in a step under the policy `stop`.
    NonfiniteData,
    /// A sample weight that is not a positive finite number, or not the slot count.
    InvalidWeight,
    /// A message that does not parse into anything meaningful.
    Malformed,
    /// Reserved in the contract, not built yet.
    Unimplemented,
    /// The job waits for servers or workers; try again.
    NotReady,
    /// The job has ended.
    JobStopped,
    /// No memory for it within the configured bound.
    OutOfMemory,
    /// A message larger than the bound.
    TooLarge,
    /// The job has all the servers it takes.
    JobFull,
    /// A control call to a server that does not lead.
    NotLead,
}

/// cause, wire name, gRPC code: the one table.
const TABLE: &[(RefusalCause, v1::RefusalCause, Code)] = &[
    (RefusalCause::WrongProtocol, v1::RefusalCause::WrongProtocol, Code::FailedPrecondition),
    (RefusalCause::WrongJob, v1::RefusalCause::WrongJob, Code::FailedPrecondition),
    (RefusalCause::WrongGeneration, v1::RefusalCause::WrongGeneration, Code::FailedPrecondition),
    (RefusalCause::Fenced, v1::RefusalCause::Fenced, Code::PermissionDenied),
    (RefusalCause::ManifestMismatch, v1::RefusalCause::ManifestMismatch, Code::FailedPrecondition),
    (RefusalCause::UnknownBlock, v1::RefusalCause::UnknownBlock, Code::NotFound),
    (RefusalCause::NotOwner, v1::RefusalCause::NotOwner, Code::FailedPrecondition),
    (RefusalCause::WrongDtype, v1::RefusalCause::WrongDtype, Code::InvalidArgument),
    (RefusalCause::WrongSize, v1::RefusalCause::WrongSize, Code::InvalidArgument),
    (RefusalCause::MisalignedSlots, v1::RefusalCause::MisalignedSlots, Code::InvalidArgument),
    (RefusalCause::StepAhead, v1::RefusalCause::StepAhead, Code::OutOfRange),
    (RefusalCause::StepGone, v1::RefusalCause::StepGone, Code::OutOfRange),
    (RefusalCause::NotInitialized, v1::RefusalCause::NotInitialized, Code::FailedPrecondition),
    (RefusalCause::InitializationDiffers, v1::RefusalCause::InitializationDiffers, Code::AlreadyExists),
    (RefusalCause::NonfiniteData, v1::RefusalCause::NonfiniteData, Code::InvalidArgument),
    (RefusalCause::InvalidWeight, v1::RefusalCause::InvalidWeight, Code::InvalidArgument),
    (RefusalCause::Malformed, v1::RefusalCause::Malformed, Code::InvalidArgument),
    (RefusalCause::Unimplemented, v1::RefusalCause::Unimplemented, Code::Unimplemented),
    (RefusalCause::NotReady, v1::RefusalCause::NotReady, Code::Unavailable),
    (RefusalCause::JobStopped, v1::RefusalCause::JobStopped, Code::Aborted),
    (RefusalCause::OutOfMemory, v1::RefusalCause::OutOfMemory, Code::ResourceExhausted),
    (RefusalCause::TooLarge, v1::RefusalCause::TooLarge, Code::InvalidArgument),
    (RefusalCause::JobFull, v1::RefusalCause::JobFull, Code::FailedPrecondition),
    (RefusalCause::NotLead, v1::RefusalCause::NotLead, Code::FailedPrecondition),
];

impl RefusalCause {
    fn row(self) -> (v1::RefusalCause, Code) {
        TABLE
            .iter()
            .find(|(cause, _, _)| *cause == self)
            .map_or((v1::RefusalCause::Unspecified, Code::Unknown), |(_, wire, code)| (*wire, *code))
    }

    /// How many causes there are.
    pub const COUNT: usize = TABLE.len();

    /// Every cause, each at its [`RefusalCause::index`].
    pub fn all() -> impl Iterator<Item = RefusalCause> {
        TABLE.iter().map(|(cause, _, _)| *cause)
    }

    /// Its place in a table of all causes, below [`RefusalCause::COUNT`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name in the contract, such as `wrong_size`.
    #[must_use]
    pub fn name(self) -> String {
        self.row().0.as_str_name().trim_start_matches("REFUSAL_CAUSE_").to_ascii_lowercase()
    }

    /// The gRPC code a unary call fails with.
    #[must_use]
    pub fn code(self) -> Code {
        self.row().1
    }

    /// Whether the same request may succeed later without anyone's help.
    #[must_use]
    pub fn is_transient(self) -> bool {
        self == RefusalCause::NotReady
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Refusal {
    /// Its kind.
    pub cause: RefusalCause,
    /// A sentence for people.
    pub message: String,
    /// What would have been right; may be empty.
    pub expected: String,
    /// What came; may be empty.
    pub found: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.expected.is_empty() || !self.found.is_empty() {
            write!(f, ": expected {}, found {}", self.expected, self.found)?;
        }
        Ok(())
    }
}

impl Refusal {
    /// A refusal that a sentence explains.
    pub fn new(cause: RefusalCause, message: impl Into<String>) -> Refusal {
        Refusal { cause, message: message.into(), expected: String::new(), found: String::new() }
    }

    /// A refusal of `what`, because of what was expected and what came.
    pub fn mismatch(
        cause: RefusalCause,
        what: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Refusal {
        Refusal { cause, message: what.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// Where the lead is, as a server that does not lead told it.
    #[must_use]
    pub fn lead_url(&self) -> Option<&str> {
        (self.cause == RefusalCause::NotLead && !self.expected.is_empty()).then_some(&self.expected)
    }

    /// Reads the refusal out of a failed call, `None` when the failure is the transport's.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Refusal> {
        let value = status.metadata().get_bin(REFUSAL_METADATA)?;
        let wire = v1::Refusal::decode(value.to_bytes().ok()?).ok()?;
        Some(Refusal::from(wire))
    }
}

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> v1::Refusal {
        v1::Refusal {
            cause: refusal.cause.row().0.into(),
            message: refusal.message,
            expected: refusal.expected,
            found: refusal.found,
        }
    }
}

impl From<v1::Refusal> for Refusal {
    fn from(wire: v1::Refusal) -> Refusal {
        let cause = TABLE
            .iter()
            .find(|(_, name, _)| *name == wire.cause())
            .map_or(RefusalCause::Malformed, |(cause, _, _)| *cause);
        Refusal { cause, message: wire.message, expected: wire.expected, found: wire.found }
    }
}

/// Longest text of a refusal that goes into the headers of a failed call, in bytes: clients bound
/// headers at 16 KiB, and the text stands there twice.
const HEADER_TEXT_BYTES_MAX: usize = 1500;

/// Cuts a text at a character's boundary and says so.
fn bounded(text: String) -> String {
    if text.len() <= HEADER_TEXT_BYTES_MAX {
        return text;
    }
    let end = text.floor_char_boundary(HEADER_TEXT_BYTES_MAX);
    format!("{}... ({} bytes more)", &text[..end], text.len() - end)
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let Refusal { cause, message, expected, found } = refusal;
        let refusal = Refusal { cause, message: bounded(message), expected: bounded(expected), found: bounded(found) };
        let mut status = Status::new(refusal.cause.code(), refusal.to_string());
        let encoded = v1::Refusal::from(refusal).encode_to_vec();
        status.metadata_mut().insert_bin(REFUSAL_METADATA, MetadataValue::from_bytes(&encoded));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_refusal_is_cut_to_what_headers_hold() {
        let long = "\u{e9}".repeat(40_000);
        let status = Status::from(Refusal::mismatch(RefusalCause::WrongSize, &long, &long, &long));
        let refusal = Refusal::from_status(&status).unwrap();
        assert_eq!(refusal.cause, RefusalCause::WrongSize);
        assert!(refusal.expected.ends_with("(78500 bytes more)"), "{}", &refusal.expected[1400..]);
        assert!(status.message().len() < 6000);
    }

    #[test]
    fn every_cause_has_a_place_and_a_name_of_its_own() {
        assert!(RefusalCause::all().enumerate().all(|(index, cause)| cause.index() == index));
        let names: std::collections::HashSet<String> = RefusalCause::all().map(RefusalCause::name).collect();
        assert_eq!(names.len(), RefusalCause::COUNT);
        assert_eq!(RefusalCause::WrongSize.name(), "wrong_size");
    }

    #[test]
    fn every_cause_survives_the_wire_and_has_a_code() {
        for value in 1.. {
            let Ok(wire) = v1::RefusalCause::try_from(value) else { break };
            let cause =
                TABLE.iter().find(|row| row.1 == wire).unwrap_or_else(|| panic!("{wire:?} is not in the table")).0;
            let refusal = Refusal::mismatch(cause, "what", "this", "that");
            let status = Status::from(refusal.clone());
            assert_eq!(status.code(), cause.code());
            assert_eq!(Refusal::from_status(&status), Some(refusal));
        }
    }
}
