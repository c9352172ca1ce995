//! The job file: one strict TOML that says everything about a job.
//!
//! Read by the lead (and by `halflife-worker local`); the other servers get the resolved text from
//! the lead, workers the part that concerns them. A [`JobSpec`] is valid by construction.

mod checks;
mod overrides;
mod resumption;

use std::fs;
use std::path::{Path, PathBuf};

use halflife_optim::{Optimizer, OptimizerConfig};
use halflife_proto::blocks::BLOCK_ELEMENTS_DEFAULT;
use halflife_proto::job::{Combine, Consistency, Mode, Wire};
use halflife_proto::strict_toml;
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
    /// For people; part of the job's id and of its keys in etcd: 1 to 100 of the characters a-z, A-Z, 0-9, `-`, `_` and `.`,
    /// the first not `.`.
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
    /// With `sync`: slots that make a step, the first so many that every server has; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// With `bounded`, and needed there: how many of its own pushes a worker may start ahead of the slowest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness: Option<u64>,
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

impl JobSection {
    /// When steps are applied.
    #[must_use]
    pub fn consistency(&self) -> Consistency {
        Consistency { mode: self.mode, quorum: self.quorum, staleness: self.staleness }
    }
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
    /// Time between a worker's heartbeats: from 1 to half the lease.
    pub heartbeat_ms: u64,
    /// A worker not heard of for so long loses its slots to the others: 100 to 3,600,000.
    pub lease_ms: u64,
    /// In a job with checkpoints: how many servers will do for a generation, where not all come. All of them without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers_min: Option<u32>,
    /// With `servers_min`, and only there: how long all servers are waited for, from when the lead begins a generation; 0 to
    /// 86,400,000.
    pub server_wait_ms: u64,
}

impl Default for MembershipSection {
    fn default() -> MembershipSection {
        MembershipSection { heartbeat_ms: 1_000, lease_ms: 5_000, servers_min: None, server_wait_ms: 30_000 }
    }
}

/// `[checkpoint]`: where the job's state is kept, so that no crash loses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSection {
    /// A directory that every server sees, relative to the job file, or `s3://bucket/prefix`.
    pub location: String,
    /// Steps from one checkpoint to the next. Step 0 and the last step have one in any case.
    pub every: u64,
    /// The newest so many are kept.
    #[serde(default = "default_keep_last")]
    pub keep_last: u32,
    /// Besides those, every checkpoint whose step is a multiple of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
}

fn default_keep_last() -> u32 {
    3
}

impl CheckpointSection {
    /// Whether the location is a directory, not an object store.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        !self.location.contains("://")
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckpointSection>,
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
    /// `[checkpoint]`; `None` for a job that keeps none.
    pub checkpoint: Option<CheckpointSection>,
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
    /// An optimizer that cannot be applied push by push.
    #[error(
        "{origin}: job.mode = \"{mode}\": expected an optimizer that needs no norm over more than a block, found {found}: \
         there each block of a push is applied by itself, as soon as it comes"
    )]
    NeedsNorms {
        /// Where the text came from.
        origin: String,
        /// The mode.
        mode: &'static str,
        /// What it needs.
        found: &'static str,
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
        if let (Some(checkpoint), Some(directory)) = (&mut spec.checkpoint, path.parent())
            && checkpoint.is_directory()
        {
            let whole = std::path::absolute(directory.join(&checkpoint.location));
            let Some(whole) = whole.ok().and_then(|whole| Some(whole.to_str()?.to_owned())) else {
                let message = format!("checkpoint.location: expected a path in UTF-8, found {}", checkpoint.location);
                return Err(ConfigError::Invalid { origin, message });
            };
            checkpoint.location = whole;
        }
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
        // Parsed as it stands, so that errors show its lines. Overrides may supply what it lacks.
        let as_it_stands = strict_toml::from_str::<JobFile>(text);
        if overrides.is_empty() || as_it_stands.as_ref().is_err_and(|error| !error.lacks_something()) {
            return JobSpec::from_file(origin, as_it_stands.map_err(|error| malformed(error.to_string()))?);
        }
        let mut table: toml::Table = strict_toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        for given in overrides {
            overrides::apply(&mut table, given)?;
        }
        let file = strict_toml::from_table(table).map_err(|error| {
            let origin = format!("{origin} with --set {}", overrides.join(" --set "));
            ConfigError::Malformed { origin, message: error.to_string() }
        })?;
        JobSpec::from_file(origin, file)
    }

    fn from_file(origin: &str, file: JobFile) -> Result<JobSpec, ConfigError> {
        let invalid = |message: String| ConfigError::Invalid { origin: origin.to_owned(), message };
        checks::check(origin, &file)?;
        let workload = match (file.model, file.data, file.training) {
            (None, None, None) => None,
            (Some(model), Some(data), Some(training)) => {
                let workload = Workload { model, data, training };
                workload.validate().map_err(|error| invalid(error.to_string()))?;
                Some(workload)
            }
            _ => return Err(invalid("expected all of [model], [data] and [training], or none".to_owned())),
        };
        let optimizer = Optimizer::new(&file.optimizer, file.job.steps)
            .map_err(|error| invalid(format!("[optimizer]: {error}")))?;
        checks::check_applies_by_block(origin, file.job.mode, &optimizer)?;
        let JobFile { job, membership, wire, checkpoint, optimizer, .. } = file;
        Ok(JobSpec { job, membership, wire, checkpoint, optimizer, workload })
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
            checkpoint: self.checkpoint.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    const ADAMW: &str = "preset = \"pytorch-adamw\"\nlr = 0.1";

    fn job(settings: &str, optimizer: &str) -> Result<JobSpec, ConfigError> {
        let text = format!("[job]\nname = \"j\"\nsteps = 9\nslots = 4\n{settings}\n[optimizer]\n{optimizer}\n");
        JobSpec::parse("a job", &text, &[])
    }

    #[test]
    fn a_wrong_file_shows_its_own_lines_whatever_is_set_and_a_wrong_override_is_blamed() {
        let parse = |steps: &str, set: &str| {
            let text = format!("[job]\nname = \"j\"\n{steps}\n[optimizer]\nlr = 0.1\n");
            JobSpec::parse("f", &text, &[set.to_owned()]).map_err(|error| error.to_string())
        };
        let error = parse("steps = 10\nstpes = 3", "job.seed=1").unwrap_err();
        assert!(error.contains("line 4") && error.contains("did you mean `steps`?"), "{error}");
        let error = parse("steps = 10", "job.stpes=3").unwrap_err();
        assert!(error.starts_with("f with --set job.stpes=3: ") && error.contains("did you mean `steps`?"), "{error}");
        assert!(!error.contains("line"), "{error}");
        assert_eq!(parse("", "job.steps=10").unwrap().job.steps, 10);
        assert!(parse("", "job.seed=1").unwrap_err().contains("missing field `steps`"));
    }

    #[test]
    fn a_mode_takes_its_own_settings_and_no_others() {
        let refused = |settings: &str| job(settings, ADAMW).unwrap_err().to_string();
        for (settings, expected, found) in [
            ("quorum = 0", "job.quorum: expected 1 to 4", "found 0"),
            ("quorum = 5", "job.quorum: expected 1 to 4", "found 5"),
            ("staleness = 1", "job.staleness: expected none with mode = \"sync\"", "found 1"),
            ("mode = \"bounded\"", "job.staleness: expected a number of pushes", "found none"),
            ("mode = \"bounded\"\nstaleness = 1\nquorum = 2", "job.quorum: expected none", "found 2"),
            ("mode = \"async\"\nstaleness = 1", "job.staleness: expected none with mode = \"async\"", "found 1"),
            ("mode = \"async\"\nquorum = 4", "job.quorum: expected none with mode = \"async\"", "found 4"),
        ] {
            let error = refused(settings);
            assert!(error.contains(expected) && error.contains(found), "{settings}: {error}");
        }
        for settings in ["quorum = 1", "quorum = 4", "mode = \"bounded\"\nstaleness = 0", "mode = \"async\""] {
            let spec = job(settings, ADAMW).unwrap();
            assert_eq!(JobSpec::parse("again", &spec.to_toml(), &[]).unwrap(), spec, "{settings}");
        }
    }

    #[test]
    fn checkpoints_take_a_place_and_numbers_from_1() {
        let with = |section: &str| {
            let text = format!("[job]\nname = \"j\"\nsteps = 9\n[checkpoint]\n{section}\n[optimizer]\n{ADAMW}\n");
            JobSpec::parse("a job", &text, &[])
        };
        for (section, expected) in [
            (
                "location = \"\"\nevery = 1",
                "checkpoint.location: expected a directory or s3://bucket/prefix, found \"\"",
            ),
            ("location = \"ftp://a\"\nevery = 1", "checkpoint.location: expected a directory or s3://"),
            ("location = \"a\"\nevery = 0", "checkpoint.every: expected at least 1 step, found 0"),
            ("location = \"a\"\nevery = 1\nkeep_last = 0", "checkpoint.keep_last: expected at least 1, found 0"),
            ("location = \"a\"\nevery = 1\nkeep_every = 0", "checkpoint.keep_every: expected at least 1 step, found 0"),
            ("location = \"a\"", "missing field `every`"),
            ("location = \"a\"\nevry = 1", "every"),
        ] {
            let error = with(section).unwrap_err().to_string();
            assert!(error.contains(expected), "{section}: {error}");
        }
        for section in
            ["location = \"a\"\nevery = 1", "location = \"s3://b/c\"\nevery = 2\nkeep_last = 1\nkeep_every = 4"]
        {
            let spec = with(section).unwrap();
            assert_eq!(JobSpec::parse("again", &spec.to_toml(), &[]).unwrap(), spec, "{section}");
        }
    }

    #[test]
    fn fewer_servers_will_do_only_in_a_job_with_checkpoints() {
        let parse = |servers_min: &str, checkpoint: &str| {
            let text = format!(
                "[job]\nname = \"j\"\nsteps = 1\nservers = 3\n[membership]\n{servers_min}\n{checkpoint}\n[optimizer]\nlr = 0.1"
            );
            JobSpec::parse("a job", &text, &[]).map(|spec| spec.membership).map_err(|error| error.to_string())
        };
        let kept = "[checkpoint]\nlocation = \"a\"\nevery = 1";
        let membership = parse("servers_min = 2\nserver_wait_ms = 5", kept).unwrap();
        assert_eq!((membership.servers_min, membership.server_wait_ms), (Some(2), 5));
        assert_eq!(parse("", "").unwrap().servers_min, None, "all are waited for");
        for (servers_min, checkpoint, why) in [
            ("servers_min = 0", kept, "expected 1 to job.servers (3), found 0"),
            ("servers_min = 4", kept, "expected 1 to job.servers (3), found 4"),
            ("servers_min = 2", "", "expected a [checkpoint] section too"),
        ] {
            let refused = parse(servers_min, checkpoint).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn names_and_times_have_their_ranges() {
        let parse = |name: &str, membership: &str| {
            let text = format!(
                "[job]\nname = \"{name}\"\nsteps = 1\n[membership]\n{membership}\n[checkpoint]\nlocation = \"a\"\nevery = 1\n[optimizer]\nlr = 0.1"
            );
            JobSpec::parse("a job", &text, &[]).map_err(|error| error.to_string())
        };
        let longest = "n".repeat(100);
        for name in ["j", "mxnet-0.7", "A_b.C-9", "-", &longest] {
            assert_eq!(parse(name, "").unwrap().job.name, name);
        }
        let too_long = "n".repeat(101);
        for name in
            ["", ".", ".hidden", "../up", "a/b", "a b", "a\\nb", "a\\u0000", "a\\\\b", "\u{e4}", "a=b", &too_long]
        {
            let refused = parse(name, "").unwrap_err();
            let expected = "job.name: expected 1 to 100 of the characters a-z, A-Z, 0-9, '-', '_' and '.', the first not '.', found \"";
            assert!(refused.contains(expected), "{refused}");
        }
        let stored = "server_wait_ms = 30000"; // as in every job that is stored with a checkpoint
        for membership in [
            "heartbeat_ms = 50\nlease_ms = 100",
            "heartbeat_ms = 1800000\nlease_ms = 3600000",
            stored,
            "servers_min = 1\nserver_wait_ms = 0",
            "servers_min = 1\nserver_wait_ms = 86400000",
        ] {
            let spec = parse("j", membership).unwrap();
            assert_eq!(JobSpec::parse("again", &spec.to_toml(), &[]).unwrap(), spec, "{membership}");
        }
        for (membership, why) in [
            ("heartbeat_ms = 0", "membership.heartbeat_ms: expected 1 to 1800000, found 0"),
            ("heartbeat_ms = 9223372036854775807", "expected 1 to 1800000, found 9223372036854775807"),
            ("heartbeat_ms = 10\nlease_ms = 99", "membership.lease_ms: expected 100 to 3600000, found 99"),
            ("lease_ms = 3600001", "membership.lease_ms: expected 100 to 3600000, found 3600001"),
            ("lease_ms = 1999", "membership.lease_ms: expected at least twice heartbeat_ms (2000), found 1999"),
            ("server_wait_ms = 5", "membership.server_wait_ms: expected none without servers_min, found 5"),
            ("servers_min = 1\nserver_wait_ms = 86400001", "server_wait_ms: expected 0 to 86400000, found 86400001"),
        ] {
            let refused = parse("j", membership).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn what_needs_norms_over_more_than_a_block_is_refused_where_pushes_are_applied_by_block() {
        let clip = "algorithm = \"adam\"\nlr = 0.1\ngradient = [{ op = \"clip_global_norm\", max_norm = 1.0, form = \"optax\" }]";
        for (optimizer, found) in [
            ("preset = \"optax-lamb\"\nlr = 0.1", "found a trust ratio"),
            ("preset = \"pytorch-adafactor\"\nlr = 0.1", "found one that needs whole tensors"),
            (clip, "found a norm over the model"),
        ] {
            job("quorum = 2", optimizer).unwrap();
            for mode in ["mode = \"async\"", "mode = \"bounded\"\nstaleness = 1"] {
                let error = job(mode, optimizer).unwrap_err();
                assert!(matches!(error, ConfigError::NeedsNorms { .. }), "{error}");
                assert!(error.to_string().contains(found), "{error}");
            }
        }
    }

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
