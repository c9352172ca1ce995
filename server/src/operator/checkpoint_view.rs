//! The part of a status that a job with checkpoints adds.

use halflife_proto::v1::{CheckpointId, CheckpointStatus, JobStatus};
use serde_json::{Value, json};

/// Lines for people, each after a newline; none in a job without checkpoints.
pub(super) fn text(status: &JobStatus) -> String {
    let Some(kept) = &status.checkpoint else { return String::new() };
    let CheckpointStatus { newest, under_way, committed, failed, error, pause_ms, took_ms, restored } = kept;
    let named = |id: &CheckpointId| format!("step {} of generation {}", id.step, id.generation);
    let mut text = format!("\ncheckpoint: {}", newest.as_ref().map_or("none yet".to_owned(), named));
    if *committed > 0 {
        text.push_str(&format!(" in {took_ms} ms"));
    }
    if *pause_ms > 0 {
        text.push_str(&format!(", no tickets for {pause_ms} ms"));
    }
    if let Some(step) = under_way {
        text.push_str(&format!("; next: step {step}"));
    }
    text.push_str(&format!("; {committed} made, {failed} failed"));
    if let Some(id) = restored {
        text.push_str(&format!("; this generation began with {}", named(id)));
    }
    if !error.is_empty() {
        text.push_str(&format!("\nthe last checkpoint failed: {error}"));
    }
    text
}

/// For programs: `null` in a job without checkpoints.
pub(super) fn json(status: &JobStatus) -> Value {
    let named = |id: &Option<CheckpointId>| {
        id.as_ref().map_or(Value::Null, |id| json!({"step": id.step, "generation": id.generation}))
    };
    status.checkpoint.as_ref().map_or(Value::Null, |kept| {
        json!({
            "newest": named(&kept.newest),
            "under_way": kept.under_way,
            "committed": kept.committed,
            "failed": kept.failed,
            "error": kept.error,
            "pause_ms": kept.pause_ms,
            "took_ms": kept.took_ms,
            "restored": named(&kept.restored),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_with_checkpoints_tells_of_them() {
        assert_eq!((text(&JobStatus::default()), json(&JobStatus::default())), (String::new(), Value::Null));
        let kept = CheckpointStatus {
            newest: Some(CheckpointId { step: 40, generation: 2 }),
            under_way: Some(60),
            committed: 3,
            failed: 1,
            error: "no space".to_owned(),
            took_ms: 12,
            pause_ms: 5,
            restored: Some(CheckpointId { step: 20, generation: 1 }),
        };
        let status = JobStatus { checkpoint: Some(kept), ..JobStatus::default() };
        let expected = "\ncheckpoint: step 40 of generation 2 in 12 ms, no tickets for 5 ms; next: step 60; 3 made, 1 failed; \
                        this generation began with step 20 of generation 1\nthe last checkpoint failed: no space";
        assert_eq!(text(&status), expected);
        assert_eq!(json(&status)["newest"]["step"], 40);
    }
}
