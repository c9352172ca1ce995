//! What is explained: a job, its compiled optimizer and what is known of its model and data.

use halflife_optim::{DecayMode, Optimizer, OptimizerConfig, Preset, WeightDecayConfig};

use super::workload::{self, ModelTensors};
use crate::config::{ConfigError, JobSpec};

/// A checked job with everything the sections read.
#[derive(Clone, Debug)]
pub struct Run {
    /// The job, its optimizer expanded.
    pub(super) job: JobSpec,
    /// The preset it names, if any.
    pub(super) preset: Option<Preset>,
    pub(super) optimizer: Optimizer,
    pub(super) tensors: ModelTensors,
    /// As told, or from the size of built-in data.
    pub(super) steps_per_epoch: Option<f64>,
    /// Steps to show; the usual ones when empty.
    pub(super) at: Vec<u64>,
}

impl Run {
    /// `origin` names the job in errors; `at` are steps of the run to show, none for the usual.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for an optimizer that does not hold together.
    pub fn new(origin: &str, job: &JobSpec, at: &[u64]) -> Result<Run, ConfigError> {
        let invalid = |error: halflife_optim::ConfigError| ConfigError::Invalid {
            origin: origin.to_owned(),
            message: format!("[optimizer]: {error}"),
        };
        let expanded = job.optimizer.expanded().map_err(invalid)?;
        let optimizer = Optimizer::new(&expanded, job.job.steps).map_err(invalid)?;
        Ok(Run {
            preset: job.optimizer.preset,
            optimizer,
            tensors: ModelTensors::of(job.workload.as_ref(), job.optimizer.preset),
            steps_per_epoch: workload::steps_per_epoch(job),
            at: at.to_vec(),
            job: JobSpec { optimizer: expanded, ..job.clone() },
        })
    }

    pub(super) fn config(&self) -> &OptimizerConfig {
        &self.job.optimizer
    }

    pub(super) fn steps(&self) -> u64 {
        self.job.job.steps
    }

    pub(super) fn decay(&self) -> &WeightDecayConfig {
        self.config().weight_decay.as_ref().expect("an expanded configuration has a decay, if of mode none")
    }

    pub(super) fn decay_mode(&self) -> DecayMode {
        self.decay().mode.unwrap_or_default()
    }
}
