//! The whole measurement: processes up, warm-up, phases in turn, verification, report.
//!
//! What is compared takes turns within one run, in the same processes, forwards in one round and backwards
//! in the next: a machine that slows down meanwhile slows down both.

use std::io::{IsTerminal, Write, stderr};

use halflife_proto::manifest::ManifestError;
use thiserror::Error;

use super::bound::BoundPlan;
use super::child::{ProcessError, Processes, Running};
use super::cluster::{Cluster, Kind, Workers};
use super::machine::Machine;
use super::phase::Phase;
use super::process::{JobFacts, Outcome, Usage};
use super::report::{Memory, Part, Ratio, Report, Verified};
use super::settings::{Settings, SettingsError};
use super::statistics::median;

/// How long a phase should last: long against the time that orders take, short against changes of the
/// machine.
const PHASE_SECONDS: f64 = 0.1;
/// Rounds there should be at least: what an interval is made from.
const ROUNDS_MIN: u64 = 15;
/// Longest phase, in steps.
const PHASE_STEPS_MAX: u64 = 1000;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum BenchError {
    /// Settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ManifestError),
    /// A process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The cluster's job has too few slots.
    #[error("{job}: expected at least one slot for each of {workers} workers, found {slots} (job.slots)")]
    TooFewSlots {
        /// The job.
        job: String,
        /// Workers.
        workers: u32,
        /// Slots.
        slots: u32,
    },
    /// The cluster's job is nearly over.
    #[error("{job}: expected {wanted} steps to come, found {left} (job.steps)")]
    TooFewSteps {
        /// The job.
        job: String,
        /// Warm-up and measured steps.
        wanted: u64,
        /// Steps left.
        left: u64,
    },
}

/// What takes turns.
struct Contender {
    name: String,
    cluster: usize,
    kind: Kind,
    phases: Vec<Phase>,
}

/// Measures. Blocks; `running` ends it from elsewhere.
///
/// # Errors
/// [`BenchError`].
pub fn run(settings: &Settings, running: Running) -> Result<Report, BenchError> {
    settings.check()?;
    let machine = Machine::this();
    let mut bench = Bench::start(settings, running)?;
    bench.measure()?;
    bench.finish(machine)
}

struct Bench<'a> {
    settings: &'a Settings,
    processes: Processes,
    clusters: Vec<Cluster>,
    contenders: Vec<Contender>,
    /// Of the first job's servers and workers, before anything else was in their memory.
    usage: Option<(Vec<Usage>, Vec<Usage>)>,
    steps: u64,
    warmup: u64,
}

impl<'a> Bench<'a> {
    fn start(settings: &'a Settings, running: Running) -> Result<Bench<'a>, BenchError> {
        let mut processes = Processes::new(running, settings.io_threads);
        let workers = |more| Workers {
            count: settings.workers,
            shape: settings.shape,
            wire: settings.wire_of(more),
            patience_s: settings.patience_s,
        };
        let mut clusters = Vec::new();
        match &settings.server {
            Some(url) => clusters.push(Cluster::join(&mut processes, "", url, &workers(&[]))?),
            None => {
                let (job, other) = (settings.job(&[])?, settings.job(&settings.compare)?);
                clusters.push(Cluster::start(&mut processes, "", &job, &workers(&[]))?);
                if !settings.compare.is_empty() {
                    let workers = workers(&settings.compare);
                    clusters.push(Cluster::start(&mut processes, "other ", &other, &workers)?);
                }
            }
        }
        let (steps, warmup) = (settings.steps()?, settings.warmup()?);
        check_job(settings, clusters[0].facts(), steps + warmup)?;
        let contender =
            |name: &str, cluster, kind| Contender { name: name.to_owned(), cluster, kind, phases: Vec::new() };
        let mut contenders = vec![contender("job", 0, Kind::Job)];
        if settings.bound {
            contenders.push(contender("bound", 0, Kind::Bound));
        }
        if clusters.len() > 1 {
            contenders.push(contender("other", 1, Kind::Job));
        }
        Ok(Bench { settings, processes, clusters, contenders, usage: None, steps, warmup })
    }

    /// Warms everything up, then takes turns until all steps are made.
    fn measure(&mut self) -> Result<(), BenchError> {
        note("warming up");
        let first = self.clusters[0].run(&mut self.processes, Kind::Job, self.warmup)?;
        if self.settings.bound {
            self.usage = Some(self.clusters[0].usage(&mut self.processes)?);
            let plan = self.bound_plan();
            self.clusters[0].open_bound(&mut self.processes, &plan)?;
            self.clusters[0].run(&mut self.processes, Kind::Bound, self.warmup)?;
        }
        for other in &self.clusters[1..] {
            other.run(&mut self.processes, Kind::Job, self.warmup)?;
        }
        let phase_steps = phase_steps(&first, self.steps);
        let rounds = self.steps.div_ceil(phase_steps);
        for round in 0..rounds {
            note(&format!("round {} of {rounds}, {phase_steps} steps each", round + 1));
            let steps = phase_steps.min(self.steps - round * phase_steps);
            let count = self.contenders.len();
            for turn in 0..count {
                let turn = if round % 2 == 0 { turn } else { count - 1 - turn };
                let contender = &mut self.contenders[turn];
                let cluster = &self.clusters[contender.cluster];
                contender.phases.push(cluster.run(&mut self.processes, contender.kind, steps)?);
            }
        }
        Ok(())
    }

    fn bound_plan(&self) -> BoundPlan {
        let facts = self.clusters[0].facts();
        let manifest_elements = self.settings.shape.manifest().map_or(0, |manifest| manifest.elements());
        BoundPlan {
            elements: manifest_elements as usize,
            chunk_elements: facts.block_elements as usize,
            servers: self.clusters[0].servers(),
            workers: self.settings.workers,
            combine: halflife_proto::job::Combine::Mean,
            optimizer_toml: facts.optimizer_toml.clone(),
            steps: self.steps + self.warmup,
        }
    }

    fn finish(mut self, machine: Machine) -> Result<Report, BenchError> {
        let usage = match self.usage.take() {
            Some(usage) => usage,
            None => self.clusters[0].usage(&mut self.processes)?,
        };
        let mut outcomes: Vec<Vec<Outcome>> = Vec::new();
        for cluster in &self.clusters {
            outcomes.push(cluster.finish(&mut self.processes)?);
        }
        note("");
        let parameters = self.settings.shape.manifest()?.elements();
        let part = |contender: &Contender| {
            let wire = if contender.cluster == 0 {
                self.settings.wire_of(&[])
            } else {
                self.settings.wire_of(&self.settings.compare)
            };
            Part::new(&contender.name, &contender.phases, parameters * u64::from(self.settings.workers), wire)
        };
        let ratio = |name: &dyn Fn(&Contender) -> bool| {
            let other = self.contenders.iter().find(|contender| name(contender))?;
            Ratio::new(&self.contenders[0].phases, &other.phases)
        };
        let report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: self.settings.clone(),
            machine,
            job_id: self.clusters[0].facts().job_id.clone(),
            parameters,
            servers: self.clusters[0].servers(),
            block_elements: self.clusters[0].facts().block_elements,
            warmup_steps: self.warmup,
            parts: self.contenders.iter().map(part).collect(),
            bound_ratio: ratio(&|contender| contender.kind == Kind::Bound),
            compare_ratio: ratio(&|contender| contender.cluster > 0),
            memory: Memory::new(&usage.0, &usage.1, parameters),
            verified: Verified::new(&outcomes),
        };
        self.processes.close();
        Ok(report)
    }
}

/// How many steps a phase has, by the steps of the warm-up.
fn phase_steps(warmup: &Phase, steps: u64) -> u64 {
    let settled = warmup.step_ns[warmup.step_ns.len() / 2..].iter().map(|duration| *duration as f64).collect();
    let step_seconds = median(settled).unwrap_or(1.0) / 1e9;
    let wanted = (PHASE_SECONDS / step_seconds).ceil() as u64;
    wanted.clamp(1, PHASE_STEPS_MAX).min((steps / ROUNDS_MIN).max(1))
}

fn check_job(settings: &Settings, facts: &JobFacts, wanted: u64) -> Result<(), BenchError> {
    let job = facts.job_id.clone();
    if facts.slots < settings.workers {
        return Err(BenchError::TooFewSlots { job, workers: settings.workers, slots: facts.slots });
    }
    match facts.steps.saturating_sub(facts.done) {
        left if left < wanted => Err(BenchError::TooFewSteps { job, wanted, left }),
        _ => Ok(()),
    }
}

/// A line that shows life where somebody watches.
fn note(text: &str) {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\r\x1b[K{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(step_ns: u64) -> Phase {
        Phase { step_ns: vec![step_ns; 4], steps: 4, server_cpu_ns: vec![], worker_cpu_ns: vec![] }
    }

    #[test]
    fn phases_last_a_while_and_leave_enough_rounds() {
        for (step_ns, steps, expected) in [
            (50_000, 100_000, 1000),
            (1_000_000, 5_000, 100),
            (30_000_000, 200, 4),
            (400_000_000, 30, 1),
            (1000, 20, 1),
        ] {
            assert_eq!(phase_steps(&phase(step_ns), steps), expected, "{step_ns} ns, {steps} steps");
        }
    }
}
