//! The job, as everyone may know it.

use super::{SLOTS_MAX, read_dtype, required, unimplemented};

use crate::ids::{Generation, JobId};
use crate::job::{Combine, Consistency, JobDescription, Mode, Wire};

use crate::refusal::{Refusal, RefusalCause};

use crate::v1;

impl From<&JobDescription> for v1::JobDescription {
    fn from(job: &JobDescription) -> v1::JobDescription {
        let combine = match job.combine {
            Combine::Mean => v1::Combine::Mean,
            Combine::WeightedMean => v1::Combine::WeightedMean,
            Combine::Sum => v1::Combine::Sum,
        };
        let Consistency { mode, quorum, staleness } = job.consistency;
        let mode = match mode {
            Mode::Sync => v1::Mode::Sync,
            Mode::Bounded => v1::Mode::Bounded,
            Mode::Async => v1::Mode::Async,
        };
        v1::JobDescription {
            protocol_version: crate::PROTOCOL_VERSION,
            job_id: job.id.0.clone(),
            generation: job.generation.0,
            seed: job.seed,
            slots: job.slots,
            steps: job.steps,
            block_elements: job.block_elements,
            combine: combine.into(),
            mode: mode.into(),
            workload_toml: job.workload_toml.clone(),
            spec_revision: job.spec_revision,
            optimizer_toml: job.optimizer_toml.clone(),
            wire: Some((&job.wire).into()),
            quorum,
            staleness,
            keeps_checkpoints: job.keeps_checkpoints,
        }
    }
}

/// Reads a job description.
///
/// # Errors
/// `WRONG_PROTOCOL`, or `MALFORMED` / `UNIMPLEMENTED` for what this build cannot take part in.
pub fn read_job(wire: Option<v1::JobDescription>) -> Result<JobDescription, Refusal> {
    let wire = required(wire, "job")?;
    crate::hello::check_protocol(wire.protocol_version)?;
    let combine = match wire.combine() {
        v1::Combine::Mean => Combine::Mean,
        v1::Combine::WeightedMean => Combine::WeightedMean,
        v1::Combine::Sum => Combine::Sum,
        v1::Combine::Unspecified => {
            return Err(Refusal::mismatch(
                RefusalCause::Malformed,
                "combine",
                "mean, weighted_mean or sum",
                wire.combine,
            ));
        }
    };
    let consistency = read_consistency(&wire)?;
    if wire.slots == 0 || wire.slots > SLOTS_MAX {
        return Err(Refusal::mismatch(RefusalCause::Malformed, "slots", format!("1 to {SLOTS_MAX}"), wire.slots));
    }
    Ok(JobDescription {
        id: JobId(wire.job_id),
        generation: Generation(wire.generation),
        seed: wire.seed,
        slots: wire.slots,
        steps: wire.steps,
        block_elements: wire.block_elements,
        combine,
        consistency,
        workload_toml: wire.workload_toml,
        spec_revision: wire.spec_revision,
        optimizer_toml: wire.optimizer_toml,
        wire: read_wire(wire.wire)?,
        keeps_checkpoints: wire.keeps_checkpoints,
    })
}

/// Reads when steps are applied. What does not belong to the mode is refused, not passed over.
fn read_consistency(wire: &v1::JobDescription) -> Result<Consistency, Refusal> {
    let malformed =
        |what, expected: String, found: String| Err(Refusal::mismatch(RefusalCause::Malformed, what, expected, found));
    let mode = match wire.mode() {
        v1::Mode::Sync => Mode::Sync,
        v1::Mode::Bounded => Mode::Bounded,
        v1::Mode::Async => Mode::Async,
        other => return Err(unimplemented(other.as_str_name())),
    };
    let consistency = Consistency { mode, quorum: wire.quorum, staleness: wire.staleness };
    match (mode, consistency.quorum, consistency.staleness) {
        (Mode::Sync, Some(quorum), None) if quorum == 0 || quorum > wire.slots => {
            malformed("quorum", format!("1 to {}", wire.slots), quorum.to_string())
        }
        (Mode::Sync, _, None) | (Mode::Bounded, None, Some(_)) | (Mode::Async, None, None) => Ok(consistency),
        (mode, quorum, staleness) => {
            let expected = "quorum with sync only, staleness with bounded and only there".to_owned();
            malformed("mode", expected, format!("{} with quorum {quorum:?}, staleness {staleness:?}", mode.name()))
        }
    }
}

impl From<&Wire> for v1::Wire {
    fn from(wire: &Wire) -> v1::Wire {
        v1::Wire { gradients: v1::Dtype::from(wire.gradients).into(), weights: v1::Dtype::from(wire.weights).into() }
    }
}

/// Reads how tensor data travels.
///
/// # Errors
/// `MALFORMED` without it, `WRONG_DTYPE` for a dtype that is unknown or not for this direction.
pub fn read_wire(wire: Option<v1::Wire>) -> Result<Wire, Refusal> {
    let wire = required(wire, "wire")?;
    let (gradients, weights) = (read_dtype(wire.gradients)?, read_dtype(wire.weights)?);
    if !Wire::WEIGHT_DTYPES.contains(&weights) {
        return Err(Refusal::mismatch(RefusalCause::WrongDtype, "dtype of weights", "f32 or bf16", weights));
    }
    Ok(Wire { gradients, weights })
}
