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

impl Fingerprint {
    /// This build on this machine, computing on `threads` threads of `device`.
    #[must_use]
    pub fn of_this_process(threads: u32, device: &str) -> Fingerprint {
        let build = format!("{} {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        Fingerprint { build, cpu_features: cpu_features(), threads, device: device.to_owned() }
    }
}

/// The vector features that numeric libraries choose their kernels by.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> String {
    let found = [
        ("avx", std::is_x86_feature_detected!("avx")),
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
    ];
    found.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect::<Vec<_>>().join("+")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> String {
    String::new()
}
