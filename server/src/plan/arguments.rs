//! The command line of `plan`, and how it becomes a [`Question`].

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use thiserror::Error;

use super::question::Question;
use crate::byte_amount;
use crate::config::{CheckpointSection, SERVERS_MAX};
use crate::explain::{ExplainArguments, ExplainError, workload};
use crate::whole_number;

/// The optimizer when neither a job file nor a preset is given.
const PRESET_DEFAULT: &str = "pytorch-adamw";
/// Most workers, and most cores of a machine: more than anybody has, and still planned within seconds.
const WORKERS_MAX: u32 = 1 << 16;
const CORES_MAX: u32 = 1 << 16;

/// How tensor data travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WireDtype {
    /// Both ways.
    F32,
    /// Both ways.
    Bf16,
    /// Gradients; weights stay f32.
    I8,
}

/// Say what a job of some size needs: servers, memory, network, checkpoints, resources of containers.
///
/// Prints every formula with its numbers, the constants behind it and where they were measured. What is reserved
/// of memory is exact; speed is an estimate, given as a range. Starts nothing.
#[derive(Clone, Debug, Args)]
pub struct PlanArguments {
    /// Elements of the model: a number, or 25.6M (K, M, G: thousands, millions, thousand millions). Needed unless the job
    /// file says every size of its model.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub params: Option<u64>,
    /// Workers that take part.
    #[arg(long, value_name = "M", value_parser = whole_number::count(WORKERS_MAX))]
    pub workers: NonZeroU32,
    /// Servers to plan for. As many as recommended unless given, whatever the job file says.
    #[arg(long, value_name = "N", value_parser = whole_number::within::<u32>(1..=u64::from(SERVERS_MAX)))]
    pub servers: Option<u32>,
    /// The job file: optimizer, slots, wire, block size, checkpoints.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrides one setting of the job, such as --set optimizer.algorithm=lion. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A system whose choices fill in what the job leaves open; without a job file, pytorch-adamw.
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Gradient contributions of a step; without a job file, one for each worker.
    #[arg(long, value_name = "N")]
    pub slots: Option<u32>,
    /// How tensor data travels; as the job file says unless given.
    #[arg(long, value_name = "DTYPE")]
    pub wire_dtype: Option<WireDtype>,
    /// Plan for checkpoints even where the job file has none.
    #[arg(long)]
    pub checkpoint: bool,
    /// Each machine's link, in 10^9 bits per second and direction.
    #[arg(long, value_name = "G", default_value_t = 10.0)]
    pub network_gbit: f64,
    /// Cores of each server.
    #[arg(long, value_name = "N", default_value = "4", value_parser = whole_number::count(CORES_MAX))]
    pub cores: NonZeroU32,
    /// What a worker takes for its gradients of a step, in milliseconds. 0: only what halflife adds is planned.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pub gradient_ms: f64,
    /// Bytes that each server may use, such as 8G (K, M, G: powers of 1,024), as its --memory-max. 0: no bound.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = byte_amount::parse)]
    pub memory_max: u64,
    /// Print the plan as JSON; sizes in bytes, times in seconds.
    #[arg(long)]
    pub json: bool,
}

/// Why nothing can be planned.
#[derive(Debug, Error)]
pub enum PlanError {
    /// Nobody says how large the model is.
    #[error("expected --params N: the job file does not say how large the model is")]
    NoParameters,
    /// The job.
    #[error(transparent)]
    Job(#[from] ExplainError),
    /// A number that cannot be.
    #[error("{what}: expected {expected}, found {found}")]
    OutOfRange {
        /// Of what.
        what: &'static str,
        /// What would be right.
        expected: String,
        /// What came.
        found: String,
    },
    /// No number of servers is enough.
    #[error(
        "--memory-max: expected at least {needed} bytes, what each of {servers} servers reserves, found {bound}: \
         fewer workers or slots, or more memory"
    )]
    DoesNotFit {
        /// What was given.
        bound: u64,
        /// Most servers that there may be.
        servers: u32,
        /// What each of them would need.
        needed: u64,
    },
}

impl PlanArguments {
    /// Reads the job file, if one is given, and checks everything.
    ///
    /// # Errors
    /// [`PlanError`], naming what was expected and what came.
    pub fn question(&self) -> Result<Question, PlanError> {
        let out_of_range = |what, expected: &str, found: f64| {
            Err(PlanError::OutOfRange { what, expected: expected.to_owned(), found: found.to_string() })
        };
        if !self.network_gbit.is_finite() || self.network_gbit <= 0.0 {
            return out_of_range("--network-gbit", "a number above 0", self.network_gbit);
        }
        if !self.gradient_ms.is_finite() || self.gradient_ms < 0.0 {
            return out_of_range("--gradient-ms", "a number from 0", self.gradient_ms);
        }
        let (_, mut job) = self.job().job()?;
        if self.checkpoint && job.checkpoint.is_none() {
            let location = "checkpoints".to_owned();
            job.checkpoint = Some(CheckpointSection { location, every: 100, keep_last: 3, keep_every: None });
        }
        let parameters = self.params.or_else(|| workload::parameters(&job)).ok_or(PlanError::NoParameters)?;
        Ok(Question {
            parameters,
            workers: self.workers.get(),
            servers: self.servers,
            network_gbit: self.network_gbit,
            cores: self.cores.get(),
            gradient_ms: self.gradient_ms,
            memory_max: NonZeroU64::new(self.memory_max),
            job,
        })
    }

    /// The job, as `explain` would be asked for it.
    fn job(&self) -> ExplainArguments {
        let slots = self.slots.or(self.config.is_none().then_some(self.workers.get()));
        let slots = slots.map(|slots| format!("job.slots={slots}"));
        let wire = match self.wire_dtype {
            None => [None, None],
            Some(WireDtype::F32) => [Some("wire.gradients=f32"), Some("wire.weights=f32")],
            Some(WireDtype::Bf16) => [Some("wire.gradients=bf16"), Some("wire.weights=bf16")],
            Some(WireDtype::I8) => [Some("wire.gradients=i8"), Some("wire.weights=f32")],
        };
        let set = slots.into_iter().chain(wire.into_iter().flatten().map(str::to_owned)).chain(self.set.clone());
        let preset = self.preset.clone().or(self.config.is_none().then(|| PRESET_DEFAULT.to_owned()));
        ExplainArguments { config: self.config.clone(), set: set.collect(), preset, ..ExplainArguments::default() }
    }
}

fn parse_count(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a number from 1 such as 124439808 or 25.6M, found {text:?}");
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit() && c != '.') {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let scale = match unit {
        "" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return Err(expected()),
    };
    // Whole numbers keep all their digits.
    if let (Ok(number), "") = (digits.parse::<u64>(), unit) {
        return Some(number).filter(|number| *number > 0).ok_or_else(expected);
    }
    let number = digits.parse::<f64>().map_err(|_| expected())? * scale;
    if unit.is_empty() || !(1.0..=1e15).contains(&number) {
        return Err(expected());
    }
    Ok(number.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_models_are_numbers_with_or_without_a_unit() {
        for (text, count) in [("1", 1), ("124439808", 124_439_808), ("25.6M", 25_600_000), ("7G", 7_000_000_000)] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for wrong in ["", "0", "0M", "1.5", "M", "1.2.3M", "5B", "-1", "9999999G", "1e6"] {
            assert!(parse_count(wrong).is_err(), "{wrong}");
        }
    }
}
