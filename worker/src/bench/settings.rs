//! What a benchmark was asked for, checked, and the job it makes of it.

use halflife_proto::manifest::ManifestError;
use halflife_server::{ConfigError, JobSpec};
use serde::Serialize;
use thiserror::Error;

use super::shape::ModelShape;
use super::wire::Wire;

/// The job that a benchmark's own servers run, and that a cluster must run for `--server`.
const JOB: &str = include_str!("../../../deploy/examples/bench.toml");
/// What errors call it.
const JOB_NAME: &str = "the benchmark's bench.toml";
/// Most worker processes; a laptop has fewer cores, and a cluster starts benchmarks on several machines.
const WORKERS_MAX: u32 = 256;
/// Most measured steps: a day of the shortest.
const STEPS_MAX: u64 = 1_000_000_000;

/// What is measured, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// The lead of a cluster that runs elsewhere; own servers without.
    pub server: Option<String>,
    /// The model.
    pub shape: ModelShape,
    /// Worker processes.
    pub workers: u32,
    /// Server processes; `None` takes the job's number.
    pub servers: Option<u32>,
    /// What the wire carries.
    pub wire: Wire,
    /// Measured steps; `None` takes what the model's size suggests.
    pub steps: Option<u64>,
    /// Steps before those; `None`: a tenth of them.
    pub warmup: Option<u64>,
    /// Whether the bound is measured too.
    pub bound: bool,
    /// Elements per block, instead of the job's.
    pub block_elements: Option<u64>,
    /// Overrides of the job.
    pub set: Vec<String>,
    /// Overrides of a second job to compare with; none without any.
    pub compare: Vec<String>,
    /// Threads that move data, of each process; 0: by the number of cores.
    pub io_threads: usize,
    /// How long a worker tries to join.
    pub patience_s: u64,
}

/// Why settings cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// Too few or too many workers.
    #[error("--workers: expected 1 to {WORKERS_MAX}, found {0}")]
    Workers(u32),
    /// No steps, or more than anyone waits for.
    #[error("--steps: expected 1 to {STEPS_MAX}, found {0}")]
    Steps(u64),
    /// Settings of own servers, and no own servers.
    #[error("--server measures servers that run elsewhere: leave out {0}")]
    NotOurs(&'static str),
    /// A wire that the bound does not have.
    #[error("--bound measures a wire of f32: leave it out, or --dtype, --gradients and --weights")]
    BoundOfLossyWire,
    /// A model that is none.
    #[error("--params: {0}")]
    Model(#[from] ManifestError),
    /// A job that is none.
    #[error(transparent)]
    Job(#[from] ConfigError),
    /// Slots without a worker's name on them.
    #[error("job.slots: expected at least one for each of {workers} workers, found {slots}")]
    TooFewSlots {
        /// Workers.
        workers: u32,
        /// Slots.
        slots: u32,
    },
}

impl Settings {
    /// Of a model, with everything else as it is by default.
    #[must_use]
    pub fn of(shape: ModelShape) -> Settings {
        Settings {
            server: None,
            shape,
            workers: 1,
            servers: None,
            wire: Wire::default(),
            steps: None,
            warmup: None,
            bound: false,
            block_elements: None,
            set: Vec::new(),
            compare: Vec::new(),
            io_threads: 0,
            patience_s: 60,
        }
    }

    /// Checks what does not need the job.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.workers == 0 || self.workers > WORKERS_MAX {
            return Err(SettingsError::Workers(self.workers));
        }
        if let Some(steps) = self.steps.filter(|steps| !(1..=STEPS_MAX).contains(steps)) {
            return Err(SettingsError::Steps(steps));
        }
        let given = [
            (self.servers.is_some(), "--servers"),
            (self.bound, "--bound"),
            (self.block_elements.is_some(), "--block-elements"),
            (!self.set.is_empty(), "--set"),
            (!self.compare.is_empty(), "--compare"),
        ];
        if let (true, Some((_, flag))) = (self.server.is_some(), given.iter().find(|(given, _)| *given)) {
            return Err(SettingsError::NotOurs(flag));
        }
        if self.bound && !self.wire_of(&[]).is_exact() {
            return Err(SettingsError::BoundOfLossyWire);
        }
        self.shape.manifest()?;
        Ok(())
    }

    /// Measured steps.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn steps(&self) -> Result<u64, ManifestError> {
        let suggested = match self.shape.manifest()?.elements() {
            ..=65_536 => 5_000,
            65_537..=8_000_000 => 200,
            8_000_001..=40_000_000 => 60,
            _ => 30,
        };
        Ok(self.steps.unwrap_or(suggested))
    }

    /// Steps before the measured ones.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn warmup(&self) -> Result<u64, ManifestError> {
        // At least two, so that every buffer has gone round once.
        Ok(self.warmup.unwrap_or(self.steps()? / 10).clamp(2, 500))
    }

    /// The job of own servers; `more` overrides it further.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn job(&self, more: &[String]) -> Result<JobSpec, SettingsError> {
        let spec = JobSpec::parse(JOB_NAME, JOB, &self.overrides(more)?)?;
        if spec.job.slots < self.workers {
            return Err(SettingsError::TooFewSlots { workers: self.workers, slots: spec.job.slots });
        }
        Ok(spec)
    }

    /// What the wire of that job carries.
    #[must_use]
    pub fn wire_of(&self, more: &[String]) -> Wire {
        Wire::of_overrides(&[&self.set, &self.wire.overrides(), more].map(<[String]>::to_vec).concat())
    }

    /// Flags win over --set, and what only the benchmark can know over both.
    fn overrides(&self, more: &[String]) -> Result<Vec<String>, SettingsError> {
        let mut overrides = vec![format!("job.slots={}", self.workers)];
        overrides.extend_from_slice(&self.set);
        overrides.extend(self.servers.map(|servers| format!("job.servers={servers}")));
        overrides.extend(self.block_elements.map(|elements| format!("job.block_elements={elements}")));
        overrides.extend(self.wire.overrides());
        overrides.extend_from_slice(more);
        // One more than are made: the last step of a job that keeps checkpoints comes with the last of them.
        overrides.push(format!("job.steps={}", self.steps()? + self.warmup()? + 1));
        Ok(overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { workers: 2, steps: Some(30), ..Settings::of(ModelShape::Parameters(1000)) }
    }

    #[test]
    fn the_job_has_a_slot_for_each_worker_and_as_many_steps_as_are_made() {
        let set = vec!["optimizer.lr=0.5".to_owned(), "job.servers=2".to_owned()];
        let settings = Settings { servers: Some(3), block_elements: Some(64), set, ..settings() };
        let job = settings.job(&["optimizer.lr=0.25".to_owned()]).unwrap();
        assert_eq!((job.job.slots, job.job.steps, job.job.servers, job.job.block_elements), (2, 34, 3, 64));
        assert!(job.optimizer_toml().contains("lr = 0.25"), "{}", job.optimizer_toml());
        assert!(job.workload.is_none());
    }

    #[test]
    fn settings_that_cannot_be_measured_are_refused() {
        let elsewhere = || Settings { server: Some("http://a:1".to_owned()), ..settings() };
        let lossy = vec!["wire.gradients=bf16".to_owned()];
        for (settings, expected) in [
            (Settings { workers: 0, ..settings() }, "--workers: expected 1 to 256, found 0"),
            (Settings { steps: Some(0), ..settings() }, "--steps: expected 1 to 1000000000, found 0"),
            (Settings { steps: Some(u64::MAX), ..settings() }, "found 18446744073709551615"),
            (Settings { servers: Some(2), ..elsewhere() }, "leave out --servers"),
            (Settings { bound: true, ..elsewhere() }, "leave out --bound"),
            (Settings { bound: true, set: lossy, ..settings() }, "--bound measures a wire of f32"),
            (Settings { shape: ModelShape::Parameters(0), ..settings() }, "--params: "),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = Settings { set: vec!["job.slots=1".to_owned()], ..settings() }.job(&[]).unwrap_err();
        assert!(error.to_string().contains("found 1"), "{error}");
    }
}
