//! `halflife-worker`: the edge where arguments come in, and results, errors and exit codes go out.

mod arguments;
mod bench_command;
mod signals;
mod summary;

use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use halflife_client::{ClientOptions, Observer};
use halflife_server::signals::{HeldSignals, Signal};
use halflife_server::{JobSpec, io_threads};
use halflife_worker::meter::Meter;
use halflife_worker::progress::Progress;
use halflife_worker::training::{End, Evaluate, Finished, TrainOptions, train};
use halflife_worker::{local, threads, weights_file};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use arguments::{Arguments, Command, Local, Outputs, Train};
use summary::{Standing, Summary};

/// The job of `local` without `--config`.
const DEFAULT_JOB: &str = include_str!("../../deploy/examples/digits.toml");
/// What errors call it.
const DEFAULT_JOB_NAME: &str = "the built-in digits.toml";
/// How long ending in good order may take after a signal.
const END_WITHIN: Duration = Duration::from_millis(1700);

/// What is logged where RUST_LOG says nothing: warnings, and where metrics are served.
const LOG_DEFAULT: &str = "warn,halflife_server::telemetry=info";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let held = HeldSignals::hold();
    halflife_server::allocator::keep_freed_memory();
    use_one_thread_per_gradient();
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .init();
    let runtime = match io_threads::runtime(arguments.command.io_threads()) {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let code = runtime.block_on(run(held, arguments)).unwrap_or_else(|error| fail(&*error));
    // A gradient under way would hold the process up; nobody waits for it.
    runtime.shutdown_background();
    code
}

/// See [`threads`].
fn use_one_thread_per_gradient() {
    if let Some(threads) = threads::wanted() {
        // SAFETY: the process has no other thread yet: this is the first thing `main` does.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var(threads::VARIABLE, threads);
        }
    }
}

fn fail(error: &dyn Error) -> ExitCode {
    // Standard error may be closed; the exit code still tells.
    let _ = writeln!(stderr(), "halflife-worker: error: {error}");
    ExitCode::FAILURE
}

async fn run(held: HeldSignals, arguments: Arguments) -> Outcome<ExitCode> {
    let signal = signals::listen()?;
    drop(held);
    match &arguments.command {
        Command::Train(train) => see_through(run_train(train, signal.clone()), &train.outputs, signal).await,
        Command::Local(local) => see_through(run_local(local, signal.clone()), &local.outputs, signal).await,
        Command::Bench(bench) => bench_command::run(bench, signal).await,
        // Signals are for the process that started it: a terminal sends Ctrl-C to both.
        Command::BenchProcess(_) => Ok(halflife_worker::bench::run_process().await),
    }
}

/// Trains to the end, or to one in good time after a signal.
async fn see_through(
    training: impl Future<Output = Outcome<End>>,
    outputs: &Outputs,
    mut signal: watch::Receiver<Option<Signal>>,
) -> Outcome<ExitCode> {
    check_writable(outputs)?;
    let end = tokio::select! {
        end = training => end?,
        by = overdue(signal.clone()) => return Ok(stopped(by, &"connections were still open")),
    };
    match end {
        End::Finished(finished) => write_outcome(&finished, outputs),
        End::Drained { step, steps } => {
            let standing = Standing { step, steps: Some(steps) };
            writeln!(stdout(), "halflife-worker: drained by the job's operator; {standing}")?;
            Ok(ExitCode::SUCCESS)
        }
        End::Stopped { step, steps } => Ok(stopped(first(&mut signal).await, &Standing { step, steps })),
    }
}

async fn run_train(arguments: &Train, mut signal: watch::Receiver<Option<Signal>>) -> Outcome<End> {
    let telemetry = arguments.telemetry.begin("halflife-worker").await?;
    let client = ClientOptions {
        give_up_after: arguments.patience(),
        observer: Observer::new(telemetry.spans().clone()),
        ..ClientOptions::new(halflife_worker::fingerprint())
    };
    let meter = Arc::new(Meter::new(client.observer.clone()));
    telemetry.add(meter.clone());
    let evaluate = if arguments.outputs.report.is_some() { Evaluate::Always } else { Evaluate::IfFirst };
    let mut progress = Progress::on_stderr();
    let stop = async move {
        first(&mut signal).await;
    };
    let places = arguments.places()?;
    let options = TrainOptions { client, evaluate, delay: arguments.delay(), meter };
    let end = train(&places, options, &mut progress, stop).await;
    progress.finish();
    telemetry.flush().await;
    Ok(end?)
}

async fn run_local(arguments: &Local, signal: watch::Receiver<Option<Signal>>) -> Outcome<End> {
    let overrides = arguments.overrides();
    let spec = match &arguments.config {
        Some(path) => JobSpec::load(path, &overrides)?,
        None => JobSpec::parse(DEFAULT_JOB_NAME, DEFAULT_JOB, &overrides)?,
    };
    let telemetry = arguments.telemetry.begin("halflife-local").await?;
    let mut progress = Progress::on_stderr();
    let end = local::run(
        spec,
        arguments.workers,
        arguments.latest_valid,
        arguments.delay(),
        &telemetry,
        &mut progress,
        stop_flag(signal),
    )
    .await;
    progress.finish();
    telemetry.flush().await;
    Ok(end?)
}

/// Turns true at the first signal.
fn stop_flag(mut signal: watch::Receiver<Option<Signal>>) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        first(&mut signal).await;
        sender.send_replace(true);
        sender.closed().await;
    });
    receiver
}

/// Resolves when ending takes too long after a signal.
async fn overdue(mut signal: watch::Receiver<Option<Signal>>) -> Signal {
    let by = first(&mut signal).await;
    tokio::time::sleep(END_WITHIN).await;
    by
}

/// The signal, once there is one.
async fn first(signal: &mut watch::Receiver<Option<Signal>>) -> Signal {
    match signal.wait_for(Option::is_some).await.map(|signal| *signal) {
        Ok(Some(by)) => by,
        // Nobody listens any more: the runtime is shutting down.
        _ => std::future::pending().await,
    }
}

/// Finds out before the training, not after it.
fn check_writable(outputs: &Outputs) -> Outcome<()> {
    [&outputs.report, &outputs.weights].into_iter().flatten().try_for_each(|path| check_file_writable(path))
}

fn check_file_writable(path: &Path) -> Outcome<()> {
    let probe = path.with_added_extension("partial");
    let opened = fs::File::create(&probe).and_then(|_| fs::remove_file(&probe));
    let opened = if path.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { opened };
    Ok(opened.map_err(|error| format!("cannot write {}: {error}", path.display()))?)
}

fn write_outcome(finished: &Finished, outputs: &Outputs) -> Outcome<ExitCode> {
    let Finished { report, manifest, weights } = finished;
    let mut text = Summary(report).to_string();
    let mut note = |what: &str, path: &Path| text.push_str(&format!("\n  {what} written to {}", path.display()));
    if let Some(path) = &outputs.weights {
        weights_file::write(path, manifest, &weights.values)?;
        note("weights", path);
    }
    if let Some(path) = &outputs.report {
        report.write(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        note("report", path);
    }
    writeln!(stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}

fn stopped(by: Signal, standing: &dyn Display) -> ExitCode {
    let _ = writeln!(stdout(), "halflife-worker: stopped by {}; {standing}", by.name());
    ExitCode::from(by.exit_code())
}
