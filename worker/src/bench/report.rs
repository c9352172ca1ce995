//! What a benchmark found: for people as a table, for programs as JSON.

use std::fmt;

use serde::Serialize;

use super::machine::Machine;
use super::phase::Phase;
use super::process::{Outcome, Usage};
use super::settings::Settings;
use super::statistics::{Estimate, StepTimes};
use super::verification::Verification;
use super::wire::Wire;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Of this program.
    pub version: String,
    /// What was asked for.
    pub settings: Settings,
    /// Where it was measured.
    pub machine: Machine,
    /// The job's id.
    pub job_id: String,
    /// Elements of the model.
    pub parameters: u64,
    /// Own server processes; 0 when they ran elsewhere.
    pub servers: usize,
    /// Elements per block.
    pub block_elements: u64,
    /// Steps before the measured ones.
    pub warmup_steps: u64,
    /// The job, then what took turns with it.
    pub parts: Vec<Part>,
    /// The job against the bound.
    pub bound_ratio: Option<Ratio>,
    /// The job against the one it was compared with.
    pub compare_ratio: Option<Ratio>,
    /// Of the job's processes, without the bound.
    pub memory: Memory,
    /// What was verified.
    pub verified: Verified,
}

/// What was measured of one of those that took turns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// `job`, `bound`, or `other`: the one with the overrides of `--compare`.
    pub name: String,
    /// Measured steps.
    pub steps: u64,
    /// Steps per second while its turns lasted.
    pub steps_per_second: f64,
    /// Step times, in milliseconds.
    pub step_ms: StepTimes,
    /// Gradients of all workers, in GB (10^9 bytes) per second; elements only.
    pub gradient_gb_per_second: f64,
    /// Weights to all workers, as above.
    pub weight_gb_per_second: f64,
    /// CPU milliseconds per step of each own server.
    pub server_cpu_ms: Vec<f64>,
    /// CPU milliseconds per step of each worker.
    pub worker_cpu_ms: Vec<f64>,
}

/// The job divided by another, phase by phase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Of mean step times.
    pub time: Estimate,
    /// Of CPU time per step in all processes.
    pub cpu: Estimate,
    /// Of the median step times.
    pub p50: f64,
    /// Of the 99th percentiles of step times.
    pub p99: f64,
}

/// Peak resident memory, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Of each own server.
    pub servers: Vec<u64>,
    /// Of each worker.
    pub workers: Vec<u64>,
    /// Of all own servers, program included, by the model's elements.
    pub server_bytes_per_parameter: Option<f64>,
}

/// What was verified.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// Whether everything was.
    pub passed: bool,
    /// Whether all workers of a job ended with the same weights.
    pub weights_equal: bool,
    /// The final weights of the job.
    pub weights_digest: String,
    /// What each worker compared; those of the other job last.
    pub workers: Vec<Verification>,
    /// What each worker compared of the bound.
    pub bound: Vec<Verification>,
}

impl Part {
    /// `elements`: those that all workers send, or get, in a step.
    #[must_use]
    pub fn new(name: &str, phases: &[Phase], elements: u64, wire: Wire) -> Part {
        let durations: Vec<u64> = phases.iter().flat_map(|phase| &phase.step_ns).copied().collect();
        let step_ms = StepTimes::of(&durations);
        let seconds = durations.iter().sum::<u64>() as f64 / 1e9;
        let steps_per_second = durations.len() as f64 / seconds;
        let gb = |bytes: u64| (elements * bytes) as f64 * steps_per_second / 1e9;
        let steps = phases.iter().map(|phase| phase.steps).sum::<u64>();
        let cpu = |of: fn(&Phase) -> &[u64]| {
            let count = phases.first().map_or(0, |phase| of(phase).len());
            let total = |index: usize| phases.iter().map(|phase| of(phase)[index]).sum::<u64>();
            (0..count).map(|index| total(index) as f64 / 1e6 / steps as f64).collect()
        };
        Part {
            name: name.to_owned(),
            steps,
            steps_per_second,
            step_ms,
            gradient_gb_per_second: gb(wire.gradients.bytes()),
            weight_gb_per_second: gb(wire.weights.bytes()),
            server_cpu_ms: cpu(|phase| &phase.server_cpu_ns),
            worker_cpu_ms: cpu(|phase| &phase.worker_cpu_ns),
        }
    }

    /// CPU milliseconds per step of all its processes.
    #[must_use]
    pub fn cpu_ms(&self) -> f64 {
        self.server_cpu_ms.iter().chain(&self.worker_cpu_ms).sum()
    }
}

impl Ratio {
    /// Of phases that took turns.
    #[must_use]
    pub fn new(job: &[Phase], other: &[Phase]) -> Option<Ratio> {
        let pairs =
            |of: fn(&Phase) -> f64| job.iter().zip(other).map(|(job, other)| of(job) / of(other)).collect::<Vec<_>>();
        let times = |phases: &[Phase]| {
            StepTimes::of(&phases.iter().flat_map(|phase| &phase.step_ns).copied().collect::<Vec<_>>())
        };
        let (own, others) = (times(job), times(other));
        Some(Ratio {
            time: Estimate::of(&pairs(Phase::mean_step_ns))?,
            cpu: Estimate::of(&pairs(Phase::cpu_step_ns))?,
            p50: own.p50 / others.p50,
            p99: own.p99 / others.p99,
        })
    }
}

impl Memory {
    /// By what processes have used.
    #[must_use]
    pub fn new(servers: &[Usage], workers: &[Usage], parameters: u64) -> Memory {
        let peaks = |usages: &[Usage]| usages.iter().filter_map(|usage| usage.peak_bytes).collect::<Vec<u64>>();
        let (servers, workers) = (peaks(servers), peaks(workers));
        let all = servers.iter().sum::<u64>() as f64;
        let server_bytes_per_parameter = (!servers.is_empty()).then_some(all / parameters as f64);
        Memory { servers, workers, server_bytes_per_parameter }
    }
}

impl Verified {
    /// By the last words of each job's workers.
    #[must_use]
    pub fn new(jobs: &[Vec<Outcome>]) -> Verified {
        let all = || jobs.iter().flatten();
        let digest = |job: &[Outcome]| job.first().map(|first| first.weights_digest.clone()).unwrap_or_default();
        let weights_equal = jobs.iter().all(|job| job.iter().all(|outcome| outcome.weights_digest == digest(job)));
        let workers: Vec<Verification> = all().map(|outcome| outcome.verification.clone()).collect();
        let bound: Vec<Verification> = all().filter_map(|outcome| outcome.bound.clone()).collect();
        let passed = weights_equal && workers.iter().chain(&bound).all(Verification::passed);
        let weights_digest = jobs.first().map(|job| digest(job)).unwrap_or_default();
        Verified { passed, weights_equal, weights_digest, workers, bound }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { settings, machine, parameters, servers, block_elements, .. } = self;
        let where_ = if *servers == 0 { "servers elsewhere".to_owned() } else { format!("{servers} server(s)") };
        writeln!(
            f,
            "{}{parameters} parameters, {where_}, {} worker(s), blocks of {block_elements}, gradients {}, weights {}",
            settings.shape.name().map_or(String::new(), |name| format!("{name}: ")),
            settings.workers,
            settings.wire_of(&[]).gradients.name(),
            settings.wire_of(&[]).weights.name(),
        )?;
        let load = machine.load_before.map_or(String::new(), |load| format!(", load {load:.2} before"));
        writeln!(f, "on {} cores of {}{load}", machine.cores, machine.processor)?;
        if !machine.optimized_build {
            writeln!(f, "NOT AN OPTIMISED BUILD: these times say nothing (cargo build --release)")?;
        }
        if !settings.compare.is_empty() {
            writeln!(f, "the other job has {}", settings.compare.join(", "))?;
        }
        writeln!(f)?;
        table(f, &self.parts)?;
        for (name, ratio) in [("bound", &self.bound_ratio), ("other", &self.compare_ratio)] {
            if let Some(ratio) = ratio {
                writeln!(f, "  job / {name:<11} {ratio}")?;
            }
        }
        writeln!(f, "  peak memory       {}", self.memory)?;
        write!(f, "{}", self.verified)
    }
}

fn table(f: &mut fmt::Formatter<'_>, parts: &[Part]) -> fmt::Result {
    writeln!(
        f,
        "  {:<16} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9}",
        "", "steps", "steps/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "GB/s up", "GB/s dn", "CPU ms"
    )?;
    for part in parts {
        let StepTimes { p50, p95, p99, max, .. } = part.step_ms;
        writeln!(
            f,
            "  {:<16} {:>7} {:>9.1} {p50:>9.3} {p95:>9.3} {p99:>9.3} {max:>9.3} {:>8.3} {:>8.3} {:>9.3}",
            part.name,
            part.steps,
            part.steps_per_second,
            part.gradient_gb_per_second,
            part.weight_gb_per_second,
            part.cpu_ms(),
        )?;
        let list = |values: &[f64]| values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(" ");
        let servers = if part.server_cpu_ms.is_empty() {
            String::new()
        } else {
            format!("servers {}, ", list(&part.server_cpu_ms))
        };
        writeln!(f, "  {:<16} CPU ms per step: {servers}workers {}", "", list(&part.worker_cpu_ms))?;
    }
    Ok(())
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ratio { time, cpu, p50, p99 } = self;
        write!(f, "time {time}, CPU {cpu}, p50 {p50:.3}, p99 {p99:.3}, of {} pairs", time.count)
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3}-{:.3})", self.median, self.low, self.high)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |bytes: &[u64]| {
            bytes.iter().map(|bytes| format!("{:.1}", *bytes as f64 / 1e6)).collect::<Vec<_>>().join(" ")
        };
        if let Some(per_parameter) = self.server_bytes_per_parameter {
            write!(f, "servers {} MB ({per_parameter:.1} bytes per parameter), ", list(&self.servers))?;
        }
        write!(f, "workers {} MB", list(&self.workers))
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = |found: &&Verification| !found.passed();
        let shown = |list: &[Verification]| list.iter().find(failed).or(list.first()).map(ToString::to_string);
        writeln!(f, "  verified          {}", shown(&self.workers).unwrap_or_default())?;
        if let Some(bound) = shown(&self.bound) {
            writeln!(f, "  verified, bound   {bound}")?;
        }
        let equal = if self.weights_equal {
            "the same on every worker"
        } else {
            "FAILED: workers ended with different weights"
        };
        write!(f, "  weights digest    {} ({equal})", self.weights_digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(digest: &str) -> Outcome {
        let verification = Verification { versions: 3, positions: 4, ..Verification::default() };
        Outcome { verification, bound: None, weights_digest: digest.to_owned() }
    }

    fn phase(step_ns: u64, cpu_ns: u64) -> Phase {
        Phase { step_ns: vec![step_ns; 2], steps: 2, server_cpu_ns: vec![cpu_ns], worker_cpu_ns: vec![cpu_ns; 2] }
    }

    #[test]
    fn workers_that_end_with_different_weights_are_a_failure() {
        assert!(Verified::new(&[vec![outcome("a"), outcome("a")], vec![outcome("b")]]).passed);
        let verified = Verified::new(&[vec![outcome("a"), outcome("b")]]);
        assert!(!verified.passed && verified.to_string().contains("FAILED: workers ended with different weights"));
    }

    #[test]
    fn a_failed_comparison_of_any_worker_is_shown() {
        let mut bad = outcome("a");
        bad.verification.gaps = 1;
        let verified = Verified::new(&[vec![outcome("a"), bad]]);
        assert!(!verified.passed && verified.to_string().contains("FAILED: 0 values differ, 1 steps are missing"));
    }

    #[test]
    fn rates_follow_from_the_times() {
        let part = Part::new("job", &[phase(1_000_000, 4_000_000), phase(3_000_000, 0)], 1_000_000, Wire::default());
        assert_eq!((part.steps, part.steps_per_second), (4, 500.0));
        assert_eq!(
            (part.gradient_gb_per_second, part.server_cpu_ms, part.worker_cpu_ms),
            (2.0, vec![1.0], vec![1.0; 2])
        );
    }

    #[test]
    fn a_ratio_is_the_median_of_its_pairs() {
        let job = [phase(2000, 30), phase(1000, 30), phase(6000, 30)];
        let other = [phase(1000, 10), phase(1000, 10), phase(2000, 10)];
        let ratio = Ratio::new(&job, &other).unwrap();
        assert_eq!((ratio.time.median, ratio.cpu.median), (2.0, 3.0));
        assert_eq!(Ratio::new(&[], &[]), None);
    }
}
