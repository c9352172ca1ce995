//! What a run leaves behind: its evaluations and the report written as JSON.

use std::io;
use std::path::Path;

use halflife_proto::job::{Consistency, Wire};
use halflife_proto::v1;
use serde::Serialize;

use crate::data::Parts;
use crate::model::{Evaluation, Model, ModelError};
use crate::weights_file::replace;

/// Loss (mean cross-entropy, in nats) and accuracy (0 to 1) on each part of the data, at the
/// weights of one step. Infinite and NaN losses are `null` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Updates the weights have seen.
    pub step: u64,
    /// On the training samples.
    pub train_loss: f64,
    /// On the training samples.
    pub train_accuracy: f64,
    /// On the held-out samples, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout_loss: Option<f64>,
    /// On the held-out samples, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout_accuracy: Option<f64>,
    /// On the test samples.
    pub test_loss: f64,
    /// On the test samples.
    pub test_accuracy: f64,
}

impl Scores {
    /// Evaluates `weights`, the arena after `step` updates, on all parts.
    ///
    /// # Errors
    /// [`ModelError`] when the model cannot compute.
    pub fn of(model: &dyn Model, weights: &[f32], parts: &Parts, step: u64) -> Result<Scores, ModelError> {
        let train = model.evaluate(weights, &parts.train)?;
        let holdout = parts.holdout.as_ref().map(|part| model.evaluate(weights, part)).transpose()?;
        let test = model.evaluate(weights, &parts.test)?;
        Ok(Scores {
            step,
            train_loss: train.loss,
            train_accuracy: train.accuracy,
            holdout_loss: holdout.map(|evaluation: Evaluation| evaluation.loss),
            holdout_accuracy: holdout.map(|evaluation| evaluation.accuracy),
            test_loss: test.loss,
            test_accuracy: test.accuracy,
        })
    }
}

/// The report of one run, as one worker saw it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The job's id.
    pub job_id: String,
    /// The job's seed.
    pub seed: u64,
    /// Steps of the whole job.
    pub steps: u64,
    /// Slots in a step.
    pub slots: u32,
    /// Samples in a slot.
    pub samples_per_slot: u32,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Samples of each part.
    pub train_samples: usize,
    /// Zero when nothing is held out.
    pub holdout_samples: usize,
    /// Samples of each part.
    pub test_samples: usize,
    /// Every evaluation, in order of steps; the last is the final one.
    pub evaluations: Vec<Scores>,
    /// The final evaluation once more, so that `test_accuracy` is a field of the report. Its
    /// `step` is the number of updates made.
    #[serde(flatten)]
    pub last: Scores,
    /// Steps that ended while this worker took part: all of them unless it joined late.
    pub steps_seen: u64,
    /// What they took, evaluations included.
    pub seconds: f64,
    /// `steps_seen` per second.
    pub steps_per_second: f64,
    /// See [`crate::digest::weights_digest`].
    pub weights_digest: String,
    /// How tensor data travelled.
    pub wire: Wire,
    /// When steps were applied.
    pub consistency: Consistency,
    /// In the asynchronous modes: what became of the tickets, of all workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tickets: Option<TicketReport>,
    /// Times the job went back to a checkpoint while this worker took part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rollbacks: Vec<Rollback>,
    /// Of this worker's acknowledged contributions, those that were undone thereby (the newest 65,536 are looked at).
    pub undone_steps: u64,
    /// Whether any number of workers and servers would have made the same digest: false where what a
    /// worker sends depends on what it sent before, and where it matters who was fast.
    pub bit_reproducible: bool,
    /// What can make this worker's bits differ from another's.
    pub fingerprint: String,
}

/// The job went back to a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rollback {
    /// The generation that began.
    pub generation: u64,
    /// Newest step this worker had seen.
    pub from_step: u64,
    /// The checkpoint's.
    pub to_step: u64,
    /// Steps, or pushes, in between that this worker had contributed to and that had been acknowledged.
    pub undone_steps: u64,
}

/// What became of a job's tickets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TicketReport {
    /// Applied on every block.
    pub done: u64,
    /// Void because their worker was gone.
    pub voided: u64,
    /// Void ones that some blocks had applied.
    pub torn: u64,
    /// How far workers were ahead of the slowest when they got a ticket, in their own pushes.
    pub clock_staleness: Staleness,
    /// How many updates of a block a gradient had not seen.
    pub update_staleness: Staleness,
}

/// A distribution of staleness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Staleness {
    /// How many there are: tickets, or updates of blocks.
    pub count: u64,
    /// The largest.
    pub max: u64,
    /// The mean.
    pub mean: f64,
    /// Half of all are at most this.
    pub p50: u64,
    /// 95 of 100 are.
    pub p95: u64,
    /// 99 of 100 are.
    pub p99: u64,
}

impl From<v1::TicketStatus> for TicketReport {
    fn from(status: v1::TicketStatus) -> TicketReport {
        let staleness = |values: Option<v1::Distribution>| {
            let v1::Distribution { count, max, mean, p50, p95, p99 } = values.unwrap_or_default();
            Staleness { count, max, mean, p50, p95, p99 }
        };
        TicketReport {
            done: status.done,
            voided: status.voided,
            torn: status.torn,
            clock_staleness: staleness(status.clock_staleness),
            update_staleness: staleness(status.update_staleness),
        }
    }
}

impl Report {
    /// Why another number of workers, or their speed, would have made other bits; `None` when not.
    #[must_use]
    pub fn why_not_reproducible(&self) -> Option<&'static str> {
        self.consistency.why_not_reproducible(self.slots).or(self.wire.why_not_reproducible())
    }

    /// Writes the report as JSON, replacing a file of that name.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        replace(path, &text)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use halflife_proto::tensor_codec::Dtype;

    use super::*;

    pub(crate) fn scores(step: u64) -> Scores {
        Scores {
            step,
            train_loss: 0.125,
            train_accuracy: 0.75,
            holdout_loss: None,
            holdout_accuracy: None,
            test_loss: f64::NAN,
            test_accuracy: 0.5,
        }
    }

    fn report() -> Report {
        Report {
            job_id: "digits-1".to_owned(),
            seed: 1,
            steps: 20,
            slots: 8,
            samples_per_slot: 4,
            parameters: 100,
            train_samples: 10,
            holdout_samples: 0,
            test_samples: 2,
            evaluations: vec![scores(10), scores(20)],
            last: scores(20),
            steps_seen: 20,
            seconds: 2.0,
            steps_per_second: 10.0,
            weights_digest: "ab".to_owned(),
            wire: Wire { gradients: Dtype::I8Scaled, weights: Dtype::Bf16 },
            consistency: Consistency::default(),
            tickets: None,
            rollbacks: Vec::new(),
            undone_steps: 0,
            bit_reproducible: false,
            fingerprint: "here".to_owned(),
        }
    }

    #[test]
    fn the_final_scores_are_fields_of_the_report() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        report().write(&path).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["test_accuracy"], 0.5);
        assert_eq!(json["step"], 20);
        assert_eq!(json["evaluations"][0]["step"], 10);
        assert_eq!(json["weights_digest"], "ab");
        assert_eq!((&json["wire"]["gradients"], &json["wire"]["weights"]), (&"i8".into(), &"bf16".into()));
        assert_eq!(json["bit_reproducible"], false);
        assert!(json["test_loss"].is_null() && json.get("holdout_loss").is_none());
    }

    #[test]
    fn held_out_samples_are_evaluated_when_there_are_any() {
        use halflife_proto::workload::{DataSettings, DigitsSettings, ModelSettings, SoftmaxSettings};
        let settings = DigitsSettings { holdout_fraction: 0.1, ..DigitsSettings::default() };
        let parts = crate::data::load(&DataSettings::Digits(settings), 1).unwrap();
        let model = crate::model::build(&ModelSettings::Softmax(SoftmaxSettings {}), 64, 10).unwrap();
        let scores = Scores::of(&*model, &vec![0.0; 650], &parts, 7).unwrap();
        let ln_10 = std::f64::consts::LN_10;
        assert!((scores.holdout_loss.unwrap() - ln_10).abs() < 1e-12 && (scores.test_loss - ln_10).abs() < 1e-12);
        assert!(scores.step == 7 && scores.holdout_accuracy.unwrap() < 0.2);
    }
}
