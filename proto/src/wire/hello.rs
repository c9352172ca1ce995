//! Who speaks.

use super::required;

use crate::hello::{Fingerprint, Hello};
use crate::ids::{Generation, Incarnation, JobId};

use crate::refusal::Refusal;

use crate::v1;

impl From<&Fingerprint> for v1::Fingerprint {
    fn from(fingerprint: &Fingerprint) -> v1::Fingerprint {
        let Fingerprint { build, cpu_features, threads, device } = fingerprint.clone();
        v1::Fingerprint { build, cpu_features, threads, device }
    }
}

impl From<v1::Fingerprint> for Fingerprint {
    fn from(wire: v1::Fingerprint) -> Fingerprint {
        let v1::Fingerprint { build, cpu_features, threads, device } = wire;
        Fingerprint { build, cpu_features, threads, device }
    }
}

impl From<&Hello> for v1::Hello {
    fn from(hello: &Hello) -> v1::Hello {
        v1::Hello {
            protocol_version: hello.protocol_version,
            job_id: hello.job.as_ref().map_or(String::new(), |job| job.0.clone()),
            generation: hello.generation.0,
            incarnation: hello.incarnation.0,
            fingerprint: Some((&hello.fingerprint).into()),
        }
    }
}

/// Reads a hello and checks its protocol version, without which nothing else can be trusted.
///
/// # Errors
/// `MALFORMED` without one, `WRONG_PROTOCOL` from a peer of another version.
pub fn read_hello(wire: Option<v1::Hello>) -> Result<Hello, Refusal> {
    let wire = required(wire, "hello")?;
    crate::hello::check_protocol(wire.protocol_version)?;
    Ok(Hello {
        protocol_version: wire.protocol_version,
        job: (!wire.job_id.is_empty()).then_some(JobId(wire.job_id)),
        generation: Generation(wire.generation),
        incarnation: Incarnation(wire.incarnation),
        fingerprint: wire.fingerprint.unwrap_or_default().into(),
    })
}
