//! The command line of `explain`, and how it becomes a [`Run`].

use std::fs;
use std::path::PathBuf;

use clap::Args;
use halflife_optim::Preset;
use thiserror::Error;

use super::presets::{self, UnknownPreset};
use super::run::Run;
use crate::config::{ConfigError, JobSpec};

/// Length of the run when there is no job file to say it.
const STEPS_DEFAULT: u64 = 1_000;

/// Say what a job's optimizer does: every choice, the formula, lr and decay over the run.
///
/// Prints the full configuration, the update rule with its numbers, lr and decay over the run, the
/// decay ledger (half-life, timescale, the same decay under other conventions), what it costs, and
/// what looks wrong. Starts nothing.
#[derive(Clone, Debug, Default, Args)]
pub struct ExplainArguments {
    /// The job file. Needed unless --preset is given.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrides one setting of the job, such as --set optimizer.lr=0.1. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A system whose choices fill in what the job leaves open; alone, its defaults are explained.
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Steps in the whole run, in place of the job's; 1,000 without a job file.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Steps of one epoch, to say timescales in epochs.
    #[arg(long, value_name = "N")]
    pub steps_per_epoch: Option<u64>,
    /// Steps to show lr and decay at, from 1.
    #[arg(long, value_name = "STEP", num_args = 1..)]
    pub at: Vec<u64>,
}

/// Why nothing can be explained.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// Neither job file nor preset.
    #[error("expected --config FILE, --preset NAME or both")]
    NothingGiven,
    /// A preset of another name.
    #[error(transparent)]
    Preset(#[from] UnknownPreset),
    /// The job file, or what became of it, is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A step outside the run.
    #[error("--at {step}: expected a step from 1 to {steps}, the length of the run")]
    StepOutsideRun {
        /// What was asked for.
        step: u64,
        /// Length of the run.
        steps: u64,
    },
}

impl ExplainArguments {
    /// Reads the job file, if one is given, and checks everything.
    ///
    /// # Errors
    /// [`ExplainError`], naming what was expected and what came.
    pub fn run(&self) -> Result<Run, ExplainError> {
        let (origin, job) = self.job()?;
        let steps = job.job.steps;
        if let Some(&step) = self.at.iter().find(|step| !(1..=steps).contains(step)) {
            return Err(ExplainError::StepOutsideRun { step, steps });
        }
        Ok(Run::new(&origin, &job, &self.at)?)
    }

    /// The job that is spoken of, and what errors call it.
    pub(crate) fn job(&self) -> Result<(String, JobSpec), ExplainError> {
        let preset = self.preset.as_deref().map(presets::named).transpose()?;
        let (origin, text) = self.job_text(preset)?;
        let job = JobSpec::parse(&origin, &text, &self.overrides(preset))?;
        Ok((origin, job))
    }

    /// The text of the job file, or of a job that says no more than its preset; with its origin.
    fn job_text(&self, preset: Option<Preset>) -> Result<(String, String), ExplainError> {
        if let Some(path) = &self.config {
            let origin = path.display().to_string();
            let text =
                fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: origin.clone(), source })?;
            return Ok((origin, text));
        }
        let preset = preset.ok_or(ExplainError::NothingGiven)?;
        Ok((format!("--preset {}", presets::name(preset)), presets::job_text(preset, STEPS_DEFAULT)))
    }

    /// Every option that changes the job, as an override; `--set` has the last word.
    fn overrides(&self, preset: Option<Preset>) -> Vec<String> {
        let preset = preset.map(|preset| format!("optimizer.preset=\"{}\"", presets::name(preset)));
        let steps = self.steps.map(|steps| format!("job.steps={steps}"));
        let epoch = self.steps_per_epoch.map(|steps| format!("optimizer.steps_per_epoch={steps}"));
        let preset = preset.filter(|_| self.config.is_some());
        preset.into_iter().chain(steps).chain(epoch).chain(self.set.iter().cloned()).collect()
    }
}
