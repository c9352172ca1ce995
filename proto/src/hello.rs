//! Who is speaking: the first message of every conversation.

use std::fmt;

use crate::PROTOCOL_VERSION;
use crate::ids::{Generation, Incarnation, JobId};
use crate::refusal::{Refusal, RefusalCause};

/// What can make two runs of the same job differ in their bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Fingerprint {
    /// Version of the program.
    pub build: String,
    /// CPU features the kernels may use.
    pub cpu_features: String,
    /// Threads one gradient computation uses.
    pub threads: u32,
    /// Where gradients are computed: `cpu`, `cuda:0`, ...
    pub device: String,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fingerprint { build, cpu_features, threads, device } = self;
        write!(f, "build {build}, {device}, {threads} thread(s), {cpu_features}")
    }
}

/// Opens a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the contract the sender speaks.
    pub protocol_version: u32,
    /// The job; `None` from a worker that takes whatever job the lead runs.
    pub job: Option<JobId>,
    /// The generation; 0 from a worker that does not know it yet.
    pub generation: Generation,
    /// The sender's process.
    pub incarnation: Incarnation,
    /// The sender's build and machine.
    pub fingerprint: Fingerprint,
}

impl Hello {
    /// Checks a peer's protocol version, job and generation against one's own (`self`).
    ///
    /// # Errors
    /// A [`Refusal`] that names both sides.
    pub fn check(&self, found: &Hello) -> Result<(), Refusal> {
        check_protocol(found.protocol_version)?;
        if self.job != found.job {
            let name = |job: &Option<JobId>| job.as_ref().map_or("no job".to_owned(), ToString::to_string);
            return Err(Refusal::mismatch(RefusalCause::WrongJob, "job", name(&self.job), name(&found.job)));
        }
        if self.generation != found.generation {
            return Err(Refusal::mismatch(
                RefusalCause::WrongGeneration,
                "generation",
                self.generation,
                found.generation,
            ));
        }
        Ok(())
    }
}

/// Checks a peer's protocol version alone, before anything else about it is known.
///
/// # Errors
/// A [`Refusal`] that names both versions.
pub fn check_protocol(found: u32) -> Result<(), Refusal> {
    if found == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Refusal::mismatch(RefusalCause::WrongProtocol, "protocol version", PROTOCOL_VERSION, found))
}
