//! `halflife-server`: the command line.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use halflife_server::checkpoint_command::{self, CheckpointArguments};
use halflife_server::explain::{self, ExplainArguments};
use halflife_server::healthcheck::{self, HealthcheckArguments, HealthcheckError};
use halflife_server::operator::{
    self, DrainArguments, PauseArguments, ResumeArguments, StatusArguments, StopArguments, Wish,
};
use halflife_server::plan::{self, PlanArguments};
use halflife_server::signals::{HeldSignals, Signal, first_signal};
use halflife_server::startup::StartupArguments;
use halflife_server::telemetry::TelemetryArguments;
use halflife_server::whole_number::{SECONDS_MAX, THREADS_MAX};
use halflife_server::{JobSpec, ServerOptions, byte_amount, io_threads, socket_address, start, whole_number};
use tracing_subscriber::EnvFilter;

/// A server of a halflife job.
///
/// The server with --config alone leads the job: it reads the job file, waits for the other servers
/// (job.servers of them in all) and for workers. The others follow it with --lead. With --servers or
/// --etcd all have the same command line.
/// Ctrl-C or SIGTERM ends it within 2 seconds. Logs go to standard error; RUST_LOG chooses what.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    Checkpoint(CheckpointArguments),
    Explain(ExplainArguments),
    Healthcheck(HealthcheckArguments),
    Plan(PlanArguments),
    Status(StatusArguments),
    Pause(PauseArguments),
    Resume(ResumeArguments),
    Drain(DrainArguments),
    Stop(StopArguments),
}

/// What a server is started with.
#[derive(Debug, clap::Args)]
struct Arguments {
    /// The job file. Needed to lead; with --lead it is checked against the lead's job.
    #[arg(long, value_name = "FILE", required_unless_present = "lead")]
    config: Option<PathBuf>,
    /// Overrides one setting of the job file, such as --set job.steps=100. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Where to listen. Port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070", value_parser = socket_address::parse, env = "HALFLIFE_LISTEN")]
    listen: SocketAddr,
    #[command(flatten)]
    startup: StartupArguments,
    /// The URL workers reach this server by, when it is not the one it listens on.
    #[arg(long, value_name = "URL", env = "HALFLIFE_ADVERTISE")]
    advertise: Option<String>,
    /// A Unix socket to listen at as well. Workers on this host find and use it by themselves;
    /// --server unix:///PATH names it to them.
    #[arg(long, value_name = "PATH", env = "HALFLIFE_UNIX_SOCKET")]
    unix_socket: Option<PathBuf>,
    /// Threads for large updates. 0: one per core.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_number::within::<usize>(0..=THREADS_MAX))]
    compute_threads: usize,
    /// Threads that move data. 0: one per four cores.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_number::within::<usize>(0..=THREADS_MAX))]
    io_threads: usize,
    /// Bytes this server may use, such as 8G (K, M, G: powers of 1,024). A model or a worker that might take more is
    /// refused when it joins. 0: no bound.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = byte_amount::parse, env = "HALFLIFE_MEMORY_MAX")]
    memory_max: u64,
    /// Where the newest checkpoint is damaged, go on from the newest one that is whole.
    #[arg(long, requires = "config", conflicts_with = "lead")]
    latest_valid: bool,
    /// How long a server tries to reach its lead, in seconds: at its start, and in a job with checkpoints whenever the
    /// lead is lost. With --etcd, how long it waits until one is elected.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = whole_number::within::<u64>(0..=SECONDS_MAX))]
    patience: u64,
    #[command(flatten)]
    telemetry: TelemetryArguments,
}

fn main() -> ExitCode {
    let held = HeldSignals::hold();
    halflife_server::allocator::keep_freed_memory();
    let line = CommandLine::parse();
    match line.command {
        Some(Command::Checkpoint(arguments)) => on_runtime(held, checkpoint_command::run(arguments)),
        Some(Command::Explain(arguments)) => explain(held, &arguments),
        Some(Command::Healthcheck(arguments)) => on_runtime(held, healthcheck(arguments)),
        Some(Command::Plan(arguments)) => plan(held, &arguments),
        Some(Command::Status(arguments)) => on_runtime(held, operator::run(Wish::Status(arguments))),
        Some(Command::Pause(arguments)) => on_runtime(held, operator::run(Wish::Pause(arguments))),
        Some(Command::Resume(arguments)) => on_runtime(held, operator::run(Wish::Resume(arguments))),
        Some(Command::Drain(arguments)) => on_runtime(held, operator::run(Wish::Drain(arguments))),
        Some(Command::Stop(arguments)) => on_runtime(held, operator::run(Wish::Stop(arguments))),
        None => serve(held, line.serve),
    }
}

fn explain(held: HeldSignals, arguments: &ExplainArguments) -> ExitCode {
    drop(held);
    let run = match arguments.run() {
        Ok(run) => run,
        Err(error) => return fail(&error.to_string()),
    };
    // Standard output may be closed, as by `| head`; there is nobody left to tell.
    let _ = std::io::stdout().write_all(explain::explain(&run).as_bytes());
    ExitCode::SUCCESS
}

async fn healthcheck(arguments: HealthcheckArguments) -> Result<(), HealthcheckError> {
    let line = healthcheck::run(arguments).await?;
    // Standard output may be closed; the exit code still tells.
    let _ = writeln!(std::io::stdout(), "halflife-server: {line}");
    Ok(())
}

fn plan(held: HeldSignals, arguments: &PlanArguments) -> ExitCode {
    drop(held);
    match plan::run(arguments) {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn on_runtime<E: Display>(held: HeldSignals, doing: impl Future<Output = Result<(), E>>) -> ExitCode {
    let runtime = match io_threads::runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    let code = runtime.block_on(async {
        let asked_to_stop = match last_resort() {
            Ok(asked_to_stop) => asked_to_stop,
            Err(error) => return fail(&no_signals(&error)),
        };
        drop(held);
        tokio::select! {
            done = doing => done.map_or_else(|error| fail(&error.to_string()), |()| ExitCode::SUCCESS),
            signal = asked_to_stop => ExitCode::from(signal.exit_code()),
        }
    });
    // What was given up may be on its way for a while; nobody waits for it.
    runtime.shutdown_background();
    code
}

/// What these commands do at a signal is what any process does: end. Only the first of a container has to be made to.
fn last_resort() -> std::io::Result<impl Future<Output = Signal>> {
    let first = if std::process::id() == 1 { Some(first_signal()?) } else { None };
    Ok(async move {
        match first {
            Some(first) => first.await,
            None => std::future::pending().await,
        }
    })
}

fn no_signals(error: &std::io::Error) -> String {
    format!("cannot listen for signals: {error}")
}

fn serve(held: HeldSignals, arguments: Arguments) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let runtime = match io_threads::runtime(arguments.io_threads) {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    let code = match runtime.block_on(run(held, arguments)) {
        Ok(last_line) => {
            // Standard output may be closed; there is nobody left to tell.
            let _ = writeln!(std::io::stdout(), "halflife-server: {last_line}");
            ExitCode::SUCCESS
        }
        Err(message) => fail(&message),
    };
    // Tasks still open belong to peers that did not hang up in time.
    runtime.shutdown_background();
    code
}

fn fail(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "halflife-server: error: {message}");
    ExitCode::FAILURE
}

async fn run(held: HeldSignals, arguments: Arguments) -> Result<String, String> {
    let Arguments {
        config,
        set,
        listen,
        startup,
        advertise,
        unix_socket,
        compute_threads,
        io_threads: _,
        memory_max,
        latest_valid,
        patience,
        telemetry,
    } = arguments;
    let asked_to_stop = first_signal().map_err(|error| no_signals(&error))?;
    drop(held);
    let spec = config.map(|path| JobSpec::load(&path, &set)).transpose().map_err(|error| error.to_string())?;
    let spec = spec.map(Box::new);
    let (part, own) = startup.part(spec, latest_valid).map_err(|error| error.to_string())?;
    let advertise = advertise.or(own);
    let telemetry = telemetry.begin("halflife-server").await.map_err(|error| error.to_string())?;
    let (patience, memory_max) = (Duration::from_secs(patience), NonZeroU64::new(memory_max));
    let options = ServerOptions {
        listen,
        advertise,
        unix_socket,
        part,
        compute_threads,
        memory_max,
        patience,
        telemetry: telemetry.clone(),
    };
    tokio::pin!(asked_to_stop);
    let server = tokio::select! {
        server = start(options) => server.map_err(|error| error.to_string())?,
        signal = &mut asked_to_stop => {
            return Ok(format!("stopped by {} before it had joined a job", signal.name()));
        }
    };
    let mut by = None;
    let end = server.run(async { by = Some(asked_to_stop.await) }).await;
    telemetry.flush().await;
    let end = end.map_err(|error| error.to_string())?;
    Ok(by.map_or_else(|| end.to_string(), |signal| format!("{end} ({})", signal.name())))
}
