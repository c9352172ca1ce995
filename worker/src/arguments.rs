//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use halflife_server::telemetry::TelemetryArguments;

use crate::bench_command::Bench;

/// Trains through halflife's servers.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(Train),
    Local(Local),
    Bench(Bench),
    /// A process of `bench`, which alone can speak to it.
    #[command(hide = true)]
    BenchProcess(BenchProcess),
}

impl Command {
    /// Threads that move data; 0: by the number of cores.
    pub(crate) fn io_threads(&self) -> usize {
        match self {
            Command::Train(train) => train.io_threads,
            // Servers and workers share the process, and gradients the cores.
            Command::Local(_) => 0,
            // The bench itself moves nothing.
            Command::Bench(_) => 1,
            Command::BenchProcess(process) => process.io_threads,
        }
    }
}

/// What a process of `bench` is started with; the rest comes as orders.
#[derive(Debug, Args)]
pub(crate) struct BenchProcess {
    #[arg(long)]
    io_threads: usize,
}

/// Takes part in a job that servers run elsewhere.
///
/// What is trained comes from the lead. Any number of workers may take part, come and go. Ctrl-C or
/// SIGTERM leaves the job within 2 seconds; others take the slots over.
#[derive(Debug, Args)]
pub(crate) struct Train {
    /// URL of the server that leads the job: http://HOST:PORT, or unix:///PATH on its host.
    #[arg(long, value_name = "URL", env = "HALFLIFE_SERVER")]
    pub(crate) server: String,
    /// How long to try to reach and join the job, and to reach lead and servers again when they are lost, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// Threads that move data. 0: one per four cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    io_threads: usize,
    #[command(flatten)]
    slowness: Slowness,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArguments,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

impl Train {
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    pub(crate) fn delay(&self) -> Duration {
        self.slowness.delay()
    }
}

/// Runs a whole job, servers and workers, in this process.
///
/// Without --config: learns the built-in handwritten digits. The number of servers and workers
/// changes no bit of the result.
#[derive(Debug, Args)]
pub(crate) struct Local {
    /// The job file; the built-in example if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Servers, instead of the job file's number.
    #[arg(long, value_name = "N")]
    servers: Option<u32>,
    /// Workers.
    #[arg(long, value_name = "M", default_value = "1")]
    pub(crate) workers: NonZeroU32,
    /// Steps of the whole run, instead of the job file's number.
    #[arg(long, value_name = "T")]
    steps: Option<u64>,
    /// Seed that everything random follows from, instead of the job file's.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Overrides one setting of the job file, such as --set optimizer.weight_decay.mode=l2. May be
    /// repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where the newest checkpoint is damaged, go on from the newest one that is whole.
    #[arg(long)]
    pub(crate) latest_valid: bool,
    #[command(flatten)]
    slowness: Slowness,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArguments,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

impl Local {
    /// Of the last worker.
    pub(crate) fn delay(&self) -> Duration {
        self.slowness.delay()
    }

    /// All overrides as `key=value`; --servers, --steps and --seed win over --set.
    pub(crate) fn overrides(&self) -> Vec<String> {
        let servers = self.servers.map(|servers| format!("job.servers={servers}"));
        let steps = self.steps.map(|steps| format!("job.steps={steps}"));
        let seed = self.seed.map(|seed| format!("job.seed={seed}"));
        self.set.iter().cloned().chain(servers).chain(steps).chain(seed).collect()
    }
}

/// A worker that is slow on purpose, to see what that does to a mode.
#[derive(Debug, Args)]
struct Slowness {
    /// Wait so many milliseconds after each gradient; of `local`, in the last worker.
    #[arg(long, value_name = "MS", default_value_t = 0, hide = true)]
    delay_ms: u64,
}

impl Slowness {
    fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}

/// What is written besides the summary.
#[derive(Debug, Args)]
pub(crate) struct Outputs {
    /// Write a report as JSON: scores, steps/s, weights_digest.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the final weights as safetensors.
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_local_setting_becomes_an_override() {
        let line = "halflife-worker local --set a.b=1 --servers 2 --steps 30 --seed 4 --set c=d";
        let Command::Local(local) = Arguments::parse_from(line.split(' ')).command else { panic!("not local") };
        assert_eq!(local.overrides(), ["a.b=1", "c=d", "job.servers=2", "job.steps=30", "job.seed=4"]);
        assert_eq!(local.workers.get(), 1);
    }
}
