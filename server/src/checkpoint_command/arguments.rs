//! The command line of `checkpoint`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::operator::LeadArguments;
use crate::whole_number::{self, SECONDS_MAX};

/// Make, list, inspect, verify, prune, export and import checkpoints.
#[derive(Clone, Debug, Args)]
pub struct CheckpointArguments {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Verb {
    Now(NowArguments),
    List(ListArguments),
    Inspect(InspectArguments),
    Verify(VerifyArguments),
    Prune(PruneArguments),
    Export(ExportArguments),
    Import(ImportArguments),
}

/// Make a checkpoint of a running job, and wait until it is committed.
#[derive(Clone, Debug, Args)]
pub(super) struct NowArguments {
    #[command(flatten)]
    pub lead: LeadArguments,
    /// How long to wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = whole_number::within::<u64>(0..=SECONDS_MAX))]
    pub timeout: u64,
}

/// Whose store.
#[derive(Clone, Debug, Args)]
pub(super) struct JobArguments {
    /// The job file whose checkpoint.location is meant, in place of LOCATION.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrides one setting of the job file. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
}

/// Where the checkpoints are.
#[derive(Clone, Debug, Args)]
pub(super) struct PlaceArguments {
    /// A directory, or s3://bucket/prefix with the usual AWS_* variables.
    #[arg(value_name = "LOCATION", required_unless_present = "config", conflicts_with = "config")]
    pub location: Option<String>,
    #[command(flatten)]
    pub job: JobArguments,
}

/// Where the checkpoints are, and which one.
#[derive(Clone, Debug, Args)]
pub(super) struct OneArguments {
    /// LOCATION (a directory, or s3://bucket/prefix with the usual AWS_* variables) unless --config says it; then ID, the
    /// checkpoint as `list` shows it, or its step. Without ID: the one that a restart goes on from.
    #[arg(value_name = "LOCATION] [ID", num_args = 0..=2)]
    pub place: Vec<String>,
    #[command(flatten)]
    pub job: JobArguments,
}

/// List the checkpoints: step, generation, when, size, and whether a restart could go on from it.
#[derive(Clone, Debug, Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    pub place: PlaceArguments,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Say what a checkpoint is: job, settings and when they changed, model, digests, decay so far, schedules.
#[derive(Clone, Debug, Args)]
pub(super) struct InspectArguments {
    #[command(flatten)]
    pub one: OneArguments,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Read every byte of a checkpoint and compare digests. Ends with 1 if anything is damaged.
#[derive(Clone, Debug, Args)]
pub(super) struct VerifyArguments {
    #[command(flatten)]
    pub one: OneArguments,
    /// Every checkpoint there is.
    #[arg(long)]
    pub all: bool,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Delete old checkpoints, undone ones, and what was never committed. Never the newest.
#[derive(Clone, Debug, Args)]
pub(super) struct PruneArguments {
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Keep the newest so many; the job file's when it is given.
    #[arg(long, value_name = "N", required_unless_present = "config")]
    pub keep_last: Option<u32>,
    /// Keep also those whose step is a multiple of this; the job file's when it is given.
    #[arg(long, value_name = "N")]
    pub keep_every: Option<u64>,
    /// Only say what would be deleted now.
    #[arg(long)]
    pub dry_run: bool,
}

/// Write a checkpoint's weights, and the state of the torch optimizer that computes the same, as safetensors files.
#[derive(Clone, Debug, Args)]
pub(super) struct ExportArguments {
    #[command(flatten)]
    pub one: OneArguments,
    /// The file for the weights.
    #[arg(long, value_name = "FILE", required_unless_present = "torch_state")]
    pub weights: Option<PathBuf>,
    /// The file for the state of torch.optim.AdamW, Adam or SGD.
    #[arg(long, value_name = "FILE")]
    pub torch_state: Option<PathBuf>,
}

/// Begin a job with the weights, and the torch optimizer's state, of safetensors files.
///
/// Writes the first checkpoint of the job's store, which must hold none; `halflife-server --config FILE` then goes on from it.
#[derive(Clone, Debug, Args)]
pub(super) struct ImportArguments {
    /// The job file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Overrides one setting of the job file. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The weights.
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// The optimizer's state; without it the moments begin at zero.
    #[arg(long, value_name = "FILE")]
    pub torch_state: Option<PathBuf>,
    /// The global step that is done: where every schedule goes on.
    #[arg(long, value_name = "N")]
    pub step: u64,
}
