//! The job file: one strict TOML that says everything about a job.
//!
//! Read by the lead (and by `halflife-worker local`); the other servers get the resolved text from
//! the lead, workers the part that concerns them. A [`JobSpec`] is valid by construction.

use std::fs;
use std::path::{Path, PathBuf};

use halflife_optim::{Optimizer, OptimizerConfig};
use halflife_proto::blocks::{BLOCK_ELEMENTS_DEFAULT, BLOCK_ELEMENTS_MAX};
use halflife_proto::job::{Combine, Mode, Wire};
use halflife_proto::strict_toml;
use halflife_proto::wire::SLOTS_MAX;
use halflife_proto::workload::{DataSettings, ModelSettings, TrainingSettings, Workload};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most servers a job may have.
pub const SERVERS_MAX: u32 = 4096;

/// What to do with a step in which some slot's gradient held NaN or infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum NonfinitePolicy {
    /// End the job with an error that names step and slots; nothing is applied.
    #[default]
    Stop,
    /// Let the step pass: it counts, weights and moments stay as they are.
    Skip,
}

/// `[job]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSection {
    /// For people; part of the job's id.
    pub name: String,
    /// Everything random follows from it: initialization, sampling, splits.
    #[serde(default)]
    pub seed: u64,
    /// Steps in the whole run.
    pub steps: u64,
    /// Gradient contributions that make up a step. Any number of workers shares them.
    #[serde(default = "default_slots")]
    pub slots: u32,
    /// Servers that form the job.
    #[serde(default = "default_servers")]
    pub servers: u32,
    /// When a step is applied.
    #[serde(default)]
    pub mode: Mode,
    /// How slots combine.
    #[serde(default)]
    pub combine: Combine,
    /// What a NaN or infinity does.
    #[serde(default)]
    pub nonfinite: NonfinitePolicy,
    /// Elements per block, a power of two. Below 4,096 only tests want it: the overhead per block
    /// outweighs the arithmetic.
    #[serde(default = "default_block_elements")]
    pub block_elements: u64,
    /// A safetensors file with the initial weights, on the lead's disk, relative to the job file.
    /// Without it the first worker initializes by seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

fn default_slots() -> u32 {
    8
}

fn default_servers() -> u32 {
    1
}

fn default_block_elements() -> u64 {
    BLOCK_ELEMENTS_DEFAULT
}

/// `[membership]`: how soon a silent worker is taken for dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MembershipSection {
    /// Time between a worker's heartbeats.
    pub heartbeat_ms: u64,
    /// A worker not heard of for so long loses its slots to the others.
    pub lease_ms: u64,
}

impl Default for MembershipSection {
    fn default() -> MembershipSection {
        MembershipSection { heartbeat_ms: 1_000, lease_ms: 5_000 }
    }
}

/// The job file as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    job: JobSection,
    #[serde(default)]
    membership: MembershipSection,
    #[serde(default)]
    wire: Wire,
    optimizer: OptimizerConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<DataSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<TrainingSettings>,
}

/// A job file that has been read and found valid.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    /// `[job]`.
    pub job: JobSection,
    /// `[membership]`.
    pub membership: MembershipSection,
    /// `[wire]`: how tensor data travels.
    pub wire: Wire,
    /// `[optimizer]`.
    pub optimizer: OptimizerConfig,
    /// `[model]`, `[data]`, `[training]`; `None` for a job whose workers are the user's own.
    pub workload: Option<Workload>,
}

/// Why a job file cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read job file {path}: {source}")]
    Unreadable {
        /// Its path.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The text is not a job file.
    #[error("{origin}: {message}")]
    Malformed {
        /// Where the text came from.
        origin: String,
        /// Line, expected and found.
        message: String,
    },
    /// A `--set` that is not `key=value`, or whose key leads through a value.
    #[error("--set {given}: {message}")]
    Override {
        /// What was given.
        given: String,
        /// What is wrong with it.
        message: String,
    },
    /// A value out of its range.
    #[error("{origin}: {key}: expected {expected}, found {found}")]
    OutOfRange {
        /// Where the text came from.
        origin: String,
        /// The key.
        key: &'static str,
        /// What would be right.
        expected: String,
        /// What came.
        found: String,
    },
    /// A section that does not hold together.
    #[error("{origin}: {message}")]
    Invalid {
        /// Where the text came from.
        origin: String,
        /// What is wrong.
        message: String,
    },
}

impl JobSpec {
    /// Reads a job file and applies overrides of the form `section.key=value` (TOML values; a bare
    /// word is taken as a string).
    ///
    /// # Errors
    /// [`ConfigError`], naming the file, the place, what was expected and what came.
    pub fn load(path: &Path, overrides: &[String]) -> Result<JobSpec, ConfigError> {
        let origin = path.display().to_string();
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: origin.clone(), source })?;
        let mut spec = JobSpec::parse(&origin, &text, overrides)?;
        if let (Some(init_from), Some(directory)) = (&mut spec.job.init_from, path.parent()) {
            *init_from = directory.join(&*init_from);
            if init_from.to_str().is_none() {
                let message = format!("job.init_from: expected a path in UTF-8, found {}", init_from.display());
                return Err(ConfigError::Invalid { origin, message });
            }
        }
        Ok(spec)
    }

    /// Reads the text of a job file; `origin` names it in errors.
    ///
    /// # Errors
    /// [`ConfigError`], as [`JobSpec::load`].
    pub fn parse(origin: &str, text: &str, overrides: &[String]) -> Result<JobSpec, ConfigError> {
        let malformed = |message: String| ConfigError::Malformed { origin: origin.to_owned(), message };
        // Without overrides the text is parsed as it stands, so that errors show its lines.
        let file: JobFile = if overrides.is_empty() {
            strict_toml::from_str(text).map_err(|error| malformed(error.to_string()))?
        } else {
            let mut table: toml::Table = strict_toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
            for given in overrides {
                apply_override(&mut table, given)?;
            }
            strict_toml::from_str(&table.to_string()).map_err(|error| malformed(error.to_string()))?
        };
        JobSpec::from_file(origin, file)
    }

    fn from_file(origin: &str, file: JobFile) -> Result<JobSpec, ConfigError> {
        let invalid = |message: String| ConfigError::Invalid { origin: origin.to_owned(), message };
        let workload = match (file.model, file.data, file.training) {
            (None, None, None) => None,
            (Some(model), Some(data), Some(training)) => {
                let workload = Workload { model, data, training };
                workload.validate().map_err(|error| invalid(error.to_string()))?;
                Some(workload)
            }
            _ => return Err(invalid("expected all of [model], [data] and [training], or none".to_owned())),
        };
        check_ranges(origin, &file.job, &file.membership)?;
        check_wire(origin, file.wire)?;
        Optimizer::new(&file.optimizer, file.job.steps).map_err(|error| invalid(format!("[optimizer]: {error}")))?;
        let JobFile { job, membership, wire, optimizer, .. } = file;
        Ok(JobSpec { job, membership, wire, optimizer, workload })
    }

    /// The whole job, resolved, as a job file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let (model, data, training) = match self.workload.clone() {
            Some(workload) => (Some(workload.model), Some(workload.data), Some(workload.training)),
            None => (None, None, None),
        };
        let file = JobFile {
            job: self.job.clone(),
            membership: self.membership.clone(),
            wire: self.wire,
            optimizer: self.optimizer.clone(),
            model,
            data,
            training,
        };
        toml::to_string(&file).expect("a job spec came from TOML and can be written as TOML")
    }

    /// The job as the other servers see it: only the lead reads `init_from`, from its own disk.
    #[must_use]
    pub fn for_followers(&self) -> JobSpec {
        let mut spec = self.clone();
        spec.job.init_from = None;
        spec
    }

    /// `[optimizer]`, as TOML.
    #[must_use]
    pub fn optimizer_toml(&self) -> String {
        toml::to_string(&self.optimizer).expect("optimizer settings came from TOML and can be written as TOML")
    }

    /// The part of the job file that concerns the built-in worker, as TOML; empty without one.
    #[must_use]
    pub fn workload_toml(&self) -> String {
        self.workload.as_ref().map_or(String::new(), |workload| {
            toml::to_string(workload).expect("a workload came from TOML and can be written as TOML")
        })
    }
}

fn check_ranges(origin: &str, job: &JobSection, membership: &MembershipSection) -> Result<(), ConfigError> {
    let out_of_range = |key, expected: String, found: String| {
        Err(ConfigError::OutOfRange { origin: origin.to_owned(), key, expected, found })
    };
    if job.name.is_empty() || job.name.len() > 100 {
        return out_of_range("job.name", "1 to 100 bytes".to_owned(), format!("{:?}", job.name));
    }
    if job.steps == 0 {
        return out_of_range("job.steps", "at least 1".to_owned(), job.steps.to_string());
    }
    if job.slots == 0 || job.slots > SLOTS_MAX {
        return out_of_range("job.slots", format!("1 to {SLOTS_MAX}"), job.slots.to_string());
    }
    if job.servers == 0 || job.servers > SERVERS_MAX {
        return out_of_range("job.servers", format!("1 to {SERVERS_MAX}"), job.servers.to_string());
    }
    if !job.block_elements.is_power_of_two() || job.block_elements > BLOCK_ELEMENTS_MAX {
        let expected = format!("a power of two up to {BLOCK_ELEMENTS_MAX}");
        return out_of_range("job.block_elements", expected, job.block_elements.to_string());
    }
    if membership.heartbeat_ms == 0 {
        return out_of_range("membership.heartbeat_ms", "at least 1".to_owned(), "0".to_owned());
    }
    if membership.lease_ms < 2 * membership.heartbeat_ms {
        let expected = format!("at least twice heartbeat_ms ({})", 2 * membership.heartbeat_ms);
        return out_of_range("membership.lease_ms", expected, membership.lease_ms.to_string());
    }
    Ok(())
}

fn check_wire(origin: &str, wire: Wire) -> Result<(), ConfigError> {
    if Wire::WEIGHT_DTYPES.contains(&wire.weights) {
        return Ok(());
    }
    let (expected, found) = ("f32 or bf16".to_owned(), wire.weights.to_string());
    Err(ConfigError::OutOfRange { origin: origin.to_owned(), key: "wire.weights", expected, found })
}

/// Sets `a.b.c=value` in a table, making the tables on the way.
fn apply_override(table: &mut toml::Table, given: &str) -> Result<(), ConfigError> {
    let refuse = |message: String| ConfigError::Override { given: given.to_owned(), message };
    let (key, value) = given.split_once('=').ok_or_else(|| refuse("expected key=value".to_owned()))?;
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().filter(|last| !last.is_empty()).ok_or_else(|| refuse("expected a key".to_owned()))?;
    let mut at = table;
    for part in parts {
        let entry = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = entry.as_table_mut().ok_or_else(|| refuse(format!("`{part}` is a value, not a table")))?;
    }
    at.insert(last.to_owned(), parse_value(value.trim()));
    Ok(())
}

fn parse_value(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_optimizer_that_workers_are_told_is_the_jobs() {
        for text in [
            include_str!("../../deploy/examples/bench.toml"),
            include_str!("../../deploy/examples/digits.toml"),
            include_str!("../../deploy/examples/reference.toml"),
        ] {
            let spec = JobSpec::parse("an example", text, &[]).unwrap();
            let told: OptimizerConfig = strict_toml::from_str(&spec.optimizer_toml()).unwrap();
            assert_eq!(told, spec.optimizer);
        }
    }
}
