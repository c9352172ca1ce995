//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use halflife_server::telemetry::TelemetryArguments;
use halflife_server::whole_number::{self, SECONDS_MAX, THREADS_MAX};

use halflife_client::{EtcdPlace, JobKeys, Places, PlacesError};

use crate::bench_command::Bench;

/// Longest that etcd may take to say who leads.
const ETCD_TIMEOUT: Duration = Duration::from_secs(2);
/// Most workers of `local`, which share one process: each holds a model of its own.
const LOCAL_WORKERS_MAX: u32 = 1024;

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
    #[arg(long, value_parser = whole_number::within::<usize>(0..=THREADS_MAX))]
    io_threads: usize,
}

/// Takes part in a job that servers run elsewhere.
///
/// What is trained comes from the lead. Any number of workers may take part, come and go. Ctrl-C or
/// SIGTERM leaves the job within 2 seconds; others take the slots over.
#[derive(Debug, Args)]
pub(crate) struct Train {
    /// A server of the job, whichever: http://HOST:PORT, unix:///PATH on this host, or dns:HOST:PORT for every address of a
    /// name. Several with commas between, or repeated; each is tried until one answers, and it names the lead.
    #[arg(long, value_name = "URL", value_delimiter = ',', env = "HALFLIFE_SERVER", required_unless_present = "etcd")]
    server: Vec<String>,
    /// The etcd that the servers elect their lead in: it tells who leads. Several URLs with commas between.
    #[arg(long, value_name = "URL", env = "HALFLIFE_ETCD", requires = "job")]
    etcd: Option<String>,
    /// The job's name, as in its job file: with --etcd, whose lead to look for.
    #[arg(long, value_name = "NAME", env = "HALFLIFE_JOB")]
    job: Option<String>,
    /// How long to try to reach and join the job, and to reach lead and servers again when they are lost, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = whole_number::within::<u64>(0..=SECONDS_MAX))]
    patience: u64,
    /// Threads that move data. 0: one per four cores.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_number::within::<usize>(0..=THREADS_MAX))]
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

    /// Where to look for the lead.
    pub(crate) fn places(&self) -> Result<Places, PlacesError> {
        let etcd = match (&self.etcd, &self.job) {
            (Some(etcd), Some(job)) => Some((EtcdPlace::parse(etcd, ETCD_TIMEOUT)?, JobKeys::of(job))),
            _ => None,
        };
        Places::new(&self.server, etcd)
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
    #[arg(long, value_name = "M", default_value = "1", value_parser = whole_number::count(LOCAL_WORKERS_MAX))]
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
    fn servers_may_be_repeated_or_listed_and_etcd_needs_the_jobs_name() {
        let train = |line: &str| match Arguments::try_parse_from(line.split(' ')).map(|parsed| parsed.command) {
            Ok(Command::Train(train)) => {
                train.places().map(|places| places.describe()).map_err(|error| error.to_string())
            }
            Ok(_) => panic!("not train"),
            Err(error) => Err(error.to_string()),
        };
        let several = train("halflife-worker train --server http://a:1,http://b:2 --server dns:c:3").unwrap();
        assert_eq!(several, "http://a:1, http://b:2, http://c:3");
        let elected = train("halflife-worker train --etcd http://e:2379 --job digits").unwrap();
        assert_eq!(elected, "/halflife/digits/lead in etcd");
        for bad in ["", " --etcd http://e:2379", " --server a:1", " --etcd e --job digits"] {
            assert!(train(&format!("halflife-worker train{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_local_setting_becomes_an_override() {
        let line = "halflife-worker local --set a.b=1 --servers 2 --steps 30 --seed 4 --set c=d";
        let Command::Local(local) = Arguments::parse_from(line.split(' ')).command else { panic!("not local") };
        assert_eq!(local.overrides(), ["a.b=1", "c=d", "job.servers=2", "job.steps=30", "job.seed=4"]);
        assert_eq!(local.workers.get(), 1);
    }
}
