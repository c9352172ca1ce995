//! `checkpoint now`: asks the lead for a checkpoint and follows the job's status until it is committed.
//!
//! The lead answers with a step no later than the checkpoint's; a committed one of that step or later therefore holds all
//! that the lead knew to be computed when it was asked; it hears of a step a moment after its servers have made it. A lead that
//! goes back meanwhile has forgotten the request.

use std::time::{Duration, Instant};

use halflife_proto::membership::Operation;
use halflife_proto::v1::{JobStatus, Phase};

use super::arguments::NowArguments;
use super::error::CheckpointCommandError;
use super::say;
use crate::operator::Connection;

/// Between two looks at the status.
const INTERVAL: Duration = Duration::from_millis(100);

/// Makes one.
pub(super) async fn run(arguments: &NowArguments) -> Result<(), CheckpointCommandError> {
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let mut lead = Connection::open(&arguments.lead.lead).await?;
    let before = lead.status().await?;
    let step = lead.operate(Operation::Checkpoint).await?;
    let request = Request { step, generation: generation(&before), failed: failed(&before) };
    loop {
        let status = lead.status().await?;
        if let Some(made) = request.look(&status)? {
            say(&made);
            return Ok(());
        }
        if Instant::now() >= deadline {
            let (seconds, standing) = (arguments.timeout, standing(&status));
            return Err(CheckpointCommandError::TimedOut { step, seconds, standing });
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What is waited for.
struct Request {
    step: u64,
    generation: u64,
    /// Checkpoints given up before it.
    failed: u64,
}

impl Request {
    /// What is said once it is made; `None` while it is under way.
    fn look(&self, status: &JobStatus) -> Result<Option<String>, CheckpointCommandError> {
        let step = self.step;
        if generation(status) != self.generation {
            let found = "the job went back to its last checkpoint meanwhile; ask again".to_owned();
            return Err(CheckpointCommandError::Overtaken { step, found });
        }
        let Some(kept) = &status.checkpoint else {
            let found = "the job keeps no checkpoints".to_owned();
            return Err(CheckpointCommandError::Overtaken { step, found });
        };
        if let Some(newest) = kept.newest.filter(|newest| newest.step >= step) {
            let name = format!("{:012}-g{:08}", newest.step, newest.generation);
            return Ok(Some(format!("checkpoint {name} is committed; writing it took {} ms", kept.took_ms)));
        }
        // One given up may have been another, under way before; then this one is ordered by now.
        if kept.failed > self.failed && kept.under_way.is_none_or(|under_way| under_way < step) {
            return Err(CheckpointCommandError::GivenUp { step, why: kept.error.clone() });
        }
        match status.phase() {
            // The last one is given up, and nothing more is written.
            Phase::Finished => Err(CheckpointCommandError::GivenUp { step, why: kept.error.clone() }),
            Phase::Stopped => Err(CheckpointCommandError::Overtaken { step, found: standing(status) }),
            _ => Ok(None),
        }
    }
}

fn generation(status: &JobStatus) -> u64 {
    status.job.as_ref().map_or(0, |job| job.generation)
}

fn failed(status: &JobStatus) -> u64 {
    status.checkpoint.as_ref().map_or(0, |kept| kept.failed)
}

/// How the job stands, for people.
fn standing(status: &JobStatus) -> String {
    let phase = status.phase().as_str_name().trim_start_matches("PHASE_").to_lowercase().replace('_', " ");
    let note = if status.note.is_empty() { String::new() } else { format!(" ({})", status.note) };
    format!("the job is {phase}{note} at step {}", status.step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::v1::{CheckpointId, CheckpointStatus, JobDescription};

    #[test]
    fn only_a_checkpoint_of_the_step_or_later_ends_the_wait() {
        let request = Request { step: 10, generation: 2, failed: 1 };
        let status = |newest: u64, under_way: Option<u64>, failed: u64, generation: u64| JobStatus {
            job: Some(JobDescription { generation, ..JobDescription::default() }),
            phase: Phase::Training.into(),
            checkpoint: Some(CheckpointStatus {
                newest: Some(CheckpointId { step: newest, generation }),
                under_way,
                failed,
                error: "no room".to_owned(),
                ..CheckpointStatus::default()
            }),
            ..JobStatus::default()
        };
        assert!(request.look(&status(9, None, 1, 2)).unwrap().is_none());
        assert!(request.look(&status(9, Some(10), 2, 2)).unwrap().is_none());
        let made = request.look(&status(12, None, 1, 2)).unwrap().unwrap();
        assert!(made.contains("checkpoint 000000000012-g00000002 is committed"), "{made}");
        for (status, part) in [
            (status(9, None, 2, 2), "found it given up: no room"),
            (status(9, None, 1, 3), "went back to its last checkpoint"),
            (JobStatus { phase: Phase::Finished.into(), ..status(9, None, 1, 2) }, "found it given up: no room"),
            (JobStatus { phase: Phase::Stopped.into(), ..status(9, None, 1, 2) }, "the job is stopped"),
            (JobStatus { checkpoint: None, ..status(9, None, 1, 2) }, "keeps no checkpoints"),
        ] {
            let error = request.look(&status).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
