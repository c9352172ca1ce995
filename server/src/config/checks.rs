//! What TOML's types do not say of a job file: ranges, and settings that must or must not stand together.

use halflife_optim::{Optimizer, Reduction};
use halflife_proto::blocks::BLOCK_ELEMENTS_MAX;
use halflife_proto::job::{Mode, Wire};
use halflife_proto::wire::SLOTS_MAX;

use super::{CheckpointSection, ConfigError, JobFile, JobSection, MembershipSection, SERVERS_MAX};

/// Longest name of a job.
const NAME_BYTES_MAX: usize = 100;
/// Shortest lease: the lead looks every 50 ms who is silent.
const LEASE_MS_MIN: u64 = 100;
/// Longest lease, an hour: so long a dead worker's slots would wait.
const LEASE_MS_MAX: u64 = 60 * 60 * 1000;
/// Longest wait for servers, a day.
const SERVER_WAIT_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// All that can be said before the optimizer is made.
pub(super) fn check(origin: &str, file: &JobFile) -> Result<(), ConfigError> {
    check_ranges(origin, &file.job, &file.membership)?;
    check_consistency(origin, &file.job)?;
    check_wire(origin, file.wire)?;
    check_checkpoint(origin, file.checkpoint.as_ref())?;
    check_forming(origin, &file.job, &file.membership, file.checkpoint.is_some())
}

fn check_ranges(origin: &str, job: &JobSection, membership: &MembershipSection) -> Result<(), ConfigError> {
    let out_of_range = |key, expected: String, found: String| {
        Err(ConfigError::OutOfRange { origin: origin.to_owned(), key, expected, found })
    };
    if !is_name(&job.name) {
        let expected = "1 to 100 of the characters a-z, A-Z, 0-9, '-', '_' and '.', the first not '.'".to_owned();
        return out_of_range("job.name", expected, format!("{:?}", job.name));
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
    check_membership(membership).or_else(|(key, expected, found)| out_of_range(key, expected, found.to_string()))
}

/// The key that is out of its range, what was expected and what came.
fn check_membership(membership: &MembershipSection) -> Result<(), (&'static str, String, u64)> {
    let MembershipSection { heartbeat_ms, lease_ms, servers_min, server_wait_ms } = *membership;
    if !(1..=LEASE_MS_MAX / 2).contains(&heartbeat_ms) {
        return Err(("membership.heartbeat_ms", format!("1 to {}", LEASE_MS_MAX / 2), heartbeat_ms));
    }
    if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&lease_ms) {
        return Err(("membership.lease_ms", format!("{LEASE_MS_MIN} to {LEASE_MS_MAX}"), lease_ms));
    }
    if lease_ms < 2 * heartbeat_ms {
        return Err(("membership.lease_ms", format!("at least twice heartbeat_ms ({})", 2 * heartbeat_ms), lease_ms));
    }
    // Its default says nothing, and stands in every job that is stored with a checkpoint.
    if servers_min.is_none() && server_wait_ms != MembershipSection::default().server_wait_ms {
        return Err(("membership.server_wait_ms", "none without servers_min".to_owned(), server_wait_ms));
    }
    if server_wait_ms > SERVER_WAIT_MS_MAX {
        return Err(("membership.server_wait_ms", format!("0 to {SERVER_WAIT_MS_MAX}"), server_wait_ms));
    }
    Ok(())
}

/// Safe as it is in a path, a key of etcd and a metric's label.
fn is_name(name: &str) -> bool {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_fit) && !name.starts_with('.')
}

/// Fewer servers will do only where what they hold can be read again.
fn check_forming(
    origin: &str,
    job: &JobSection,
    membership: &MembershipSection,
    has_checkpoints: bool,
) -> Result<(), ConfigError> {
    let Some(servers_min) = membership.servers_min else { return Ok(()) };
    if servers_min == 0 || servers_min > job.servers {
        let (key, expected) = ("membership.servers_min", format!("1 to job.servers ({})", job.servers));
        let origin = origin.to_owned();
        return Err(ConfigError::OutOfRange { origin, key, expected, found: servers_min.to_string() });
    }
    if !has_checkpoints {
        let message = "membership.servers_min: expected a [checkpoint] section too: a generation begins with other servers \
                       than the one before by reading what those have kept; found none";
        return Err(ConfigError::Invalid { origin: origin.to_owned(), message: message.to_owned() });
    }
    Ok(())
}

/// What does not belong to the mode is refused: a setting that nobody reads would mislead.
fn check_consistency(origin: &str, job: &JobSection) -> Result<(), ConfigError> {
    let out_of_range = |key, expected: String, found: String| {
        Err(ConfigError::OutOfRange { origin: origin.to_owned(), key, expected, found })
    };
    match (job.mode, job.quorum, job.staleness) {
        (Mode::Sync, Some(quorum), _) if quorum == 0 || quorum > job.slots => {
            out_of_range("job.quorum", format!("1 to {} (job.slots)", job.slots), quorum.to_string())
        }
        (Mode::Bounded | Mode::Async, Some(quorum), _) => {
            out_of_range("job.quorum", format!("none with mode = {:?}", job.mode.name()), quorum.to_string())
        }
        (Mode::Bounded, _, None) => out_of_range(
            "job.staleness",
            "a number of pushes, from 0, with mode = \"bounded\"".to_owned(),
            "none".to_owned(),
        ),
        (Mode::Sync | Mode::Async, _, Some(staleness)) => {
            out_of_range("job.staleness", format!("none with mode = {:?}", job.mode.name()), staleness.to_string())
        }
        _ => Ok(()),
    }
}

/// Norms need every block of one step, which the asynchronous modes do not have.
pub(super) fn check_applies_by_block(origin: &str, mode: Mode, optimizer: &Optimizer) -> Result<(), ConfigError> {
    let found = match optimizer.reductions().first() {
        _ if !mode.has_tickets() => return Ok(()),
        _ if optimizer.needs_whole_tensors() => "one that needs whole tensors",
        Some(Reduction::GlobalNorm) => "a norm over the model",
        Some(Reduction::TensorNorm) => "a norm over each tensor",
        Some(Reduction::TrustRatio) => "a trust ratio for each tensor",
        None => return Ok(()),
    };
    Err(ConfigError::NeedsNorms { origin: origin.to_owned(), mode: mode.name(), found })
}

fn check_checkpoint(origin: &str, checkpoint: Option<&CheckpointSection>) -> Result<(), ConfigError> {
    let Some(CheckpointSection { location, every, keep_last, keep_every }) = checkpoint else { return Ok(()) };
    let out_of_range = |key, expected: &str, found: &str| {
        let (expected, found) = (expected.to_owned(), found.to_owned());
        Err(ConfigError::OutOfRange { origin: origin.to_owned(), key, expected, found })
    };
    if location.is_empty() || (location.contains("://") && !location.starts_with("s3://")) {
        return out_of_range("checkpoint.location", "a directory or s3://bucket/prefix", &format!("{location:?}"));
    }
    if *every == 0 {
        return out_of_range("checkpoint.every", "at least 1 step", "0");
    }
    if *keep_last == 0 {
        return out_of_range("checkpoint.keep_last", "at least 1", "0");
    }
    if *keep_every == Some(0) {
        return out_of_range("checkpoint.keep_every", "at least 1 step", "0");
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
