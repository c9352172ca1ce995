//! `halflife-worker bench`: its command line, and its edge to files, signals and the terminal.

use std::error::Error;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use halflife_server::signals::Signal;
use halflife_server::whole_number::{self, SECONDS_MAX, THREADS_MAX};
use halflife_worker::bench::child::Running;
use halflife_worker::bench::controller;
use halflife_worker::bench::settings::Settings;
use halflife_worker::bench::shape::ModelShape;
use halflife_worker::bench::sweep;
use halflife_worker::bench::wire::{Wire, WireDtype};
use tokio::sync::watch;

use crate::{Outcome, first, stopped};

/// Measures servers with a synthetic model, and verifies the weights they send.
///
/// Without --server it starts servers and workers on this machine, each in a process of its own; with it,
/// workers only, which join a cluster that runs deploy/examples/bench.toml. Every worker sends whole
/// gradients and gets whole weights at each step, over the same wire as in training; gradients cost
/// nothing to compute. Weights are compared with what the optimizer must make of those gradients, so a
/// step that is lost, doubled or mixed up fails the run. docs/bench.md says what the numbers mean.
#[derive(Clone, Debug, Args)]
pub(crate) struct Bench {
    /// URL of the lead of a cluster to measure. Without it, own servers.
    // Not from the environment: a forgotten variable would load a cluster.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Size of the model: so many elements in four tensors. 4,194,304 unless a model is named.
    #[arg(long, value_name = "N", group = "model")]
    params: Option<u64>,
    /// A known model's tensors.
    #[arg(long, value_name = "MODEL", group = "model")]
    shape: Option<Known>,
    /// One tensor of 1,024 elements: the latency of a step.
    #[arg(long, group = "model")]
    small: bool,
    /// Worker processes.
    #[arg(long, value_name = "M", default_value_t = 1)]
    workers: u32,
    /// Own server processes [default: 1].
    #[arg(long, value_name = "S")]
    servers: Option<u32>,
    /// What gradients are sent as; the job's wire.gradients.
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    gradients: WireDtype,
    /// What weights are sent as; the job's wire.weights.
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    weights: WireDtype,
    /// Both ways.
    #[arg(long, value_name = "DTYPE", conflicts_with_all = ["gradients", "weights"])]
    dtype: Option<WireDtype>,
    /// Measured steps. From 30 for the largest models to 5,000 for the smallest unless given.
    #[arg(long, value_name = "K")]
    steps: Option<u64>,
    /// Steps before the measured ones. A tenth of those unless given, at least 2.
    #[arg(long, value_name = "W")]
    warmup: Option<u64>,
    /// Also measure the floor of a step on this machine, in turns with the job: the same bytes over raw
    /// TCP and the same kernel, without anything else.
    #[arg(long)]
    bound: bool,
    /// Elements per block, instead of the job's.
    #[arg(long, value_name = "B")]
    block_elements: Option<u64>,
    /// Overrides one setting of the job, such as --set optimizer.weight_decay.mode=none. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Also measure a second job that differs by this, in turns with the first, and the ratio of both.
    /// May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    compare: Vec<String>,
    /// Threads that move data, of each process. 0: one per four cores.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_number::within::<usize>(0..=THREADS_MAX))]
    io_threads: usize,
    /// How long a worker tries to reach and join the job, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = whole_number::within::<u64>(0..=SECONDS_MAX))]
    patience: u64,
    /// Write everything that was found as JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "sweep")]
    json: Option<PathBuf>,
    /// Measure one size, block size and dtype after the other, and write sweep.csv and sweep.svg there.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["server", "model", "block_elements", "gradients", "weights", "dtype", "compare"])]
    sweep: Option<PathBuf>,
    /// Sizes of a sweep, in elements [default: 1024 65536 1048576 4194304 25000000].
    #[arg(long, value_name = "N,...", requires = "sweep", value_delimiter = ',')]
    sweep_params: Vec<u64>,
    /// Block sizes of a sweep, in elements [default: 16384 65536 262144 1048576].
    #[arg(long, value_name = "B,...", requires = "sweep", value_delimiter = ',')]
    sweep_blocks: Vec<u64>,
    /// Dtypes of a sweep [default: f32 and bf16, as far as jobs know them].
    #[arg(long, value_name = "DTYPE,...", requires = "sweep", value_delimiter = ',')]
    sweep_dtypes: Vec<WireDtype>,
}

/// Models with a name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Known {
    /// 25,557,032 elements in 161 tensors.
    Resnet50,
    /// 124,439,808 elements in 148 tensors.
    Gpt2,
}

/// Elements of the model when none is named.
const PARAMETERS_DEFAULT: u64 = 1 << 22;

impl Bench {
    fn settings(&self) -> Settings {
        let both = self.dtype.map(|dtype| Wire { gradients: dtype, weights: dtype });
        Settings {
            server: self.server.clone(),
            shape: self.model(),
            workers: self.workers,
            servers: self.servers,
            wire: both.unwrap_or(Wire { gradients: self.gradients, weights: self.weights }),
            steps: self.steps,
            warmup: self.warmup,
            bound: self.bound,
            block_elements: self.block_elements,
            set: self.set.clone(),
            compare: self.compare.clone(),
            io_threads: self.io_threads,
            patience_s: self.patience,
        }
    }

    fn model(&self) -> ModelShape {
        match (self.shape, self.small) {
            (Some(Known::Resnet50), _) => ModelShape::Resnet50,
            (Some(Known::Gpt2), _) => ModelShape::Gpt2,
            (None, true) => ModelShape::Small,
            (None, false) => ModelShape::Parameters(self.params.unwrap_or(PARAMETERS_DEFAULT)),
        }
    }
}

/// Measures until done or told to stop; then no process is left.
pub(crate) async fn run(arguments: &Bench, mut signal: watch::Receiver<Option<Signal>>) -> Outcome<ExitCode> {
    if let Some(path) = &arguments.json {
        crate::check_file_writable(path)?;
    }
    let (arguments, running) = (arguments.clone(), Running::default());
    let measuring = tokio::task::spawn_blocking({
        let running = running.clone();
        move || match &arguments.sweep {
            Some(directory) => sweep(&arguments, directory, &running),
            None => measure(&arguments, running),
        }
    });
    tokio::select! {
        measured = measuring => match measured? {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(error),
        },
        by = first(&mut signal) => {
            running.end_all();
            Ok(stopped(by, &"every process of the benchmark has ended"))
        }
    }
}

/// What can go from a thread to another.
type Measured = Result<(), Box<dyn Error + Send + Sync>>;

fn measure(arguments: &Bench, running: Running) -> Measured {
    let report = controller::run(&arguments.settings(), running)?;
    let mut text = report.to_string();
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
        text.push_str(&format!("\n  report written to {}", path.display()));
    }
    writeln!(stdout(), "{text}")?;
    match report.verified.passed {
        true => Ok(()),
        false => Err("the weights are not what they must be".into()),
    }
}

fn sweep(arguments: &Bench, directory: &Path, running: &Running) -> Measured {
    let base = arguments.settings();
    base.check()?;
    let dtypes = match arguments.sweep_dtypes.as_slice() {
        [] => sweep::DTYPES.into_iter().filter(|dtype| sweep::is_known(&base, *dtype)).collect(),
        given => given.to_vec(),
    };
    let given_or = |given: &[u64], usual: &[u64]| if given.is_empty() { usual.to_vec() } else { given.to_vec() };
    let parameters = given_or(&arguments.sweep_params, &sweep::PARAMETERS);
    let blocks = given_or(&arguments.sweep_blocks, &sweep::BLOCKS);
    let points = sweep::points(&parameters, &blocks, &dtypes);
    // Standard output may be closed; the files tell the same.
    sweep::run(&base, &points, directory, running, |row| _ = writeln!(stdout(), "{row}"))?;
    writeln!(stdout(), "sweep.csv and sweep.svg written to {}", directory.display())?;
    Ok(())
}

fn write_json(path: &Path, report: &impl serde::Serialize) -> Measured {
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}
