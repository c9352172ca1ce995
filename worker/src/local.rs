//! A whole job in one process: servers and workers on loopback, over the same wire as anywhere.
//!
//! Promises: the same weights as any other set-up of the same job; nothing outlives the call. Does
//! not: take short cuts past the wire.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use halflife_client::{ClientOptions, Observer, Places};
use halflife_server::telemetry::Telemetry;
use halflife_server::{JobSpec, Part, RunningServer, ServerEnd, ServerError, ServerOptions, start};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::meter::Meter;
use crate::progress::Progress;
use crate::training::{End, Evaluate, TrainError, TrainOptions, Trainer, train};

/// How long a follower tries to reach a lead that is in the same process.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long servers may take to end after the workers have: a server cuts connections off after 1 s.
const SERVERS_END_WITHIN: Duration = Duration::from_millis(1200);

/// Why a local job failed.
#[derive(Debug, Error)]
pub enum LocalError {
    /// A server could not start or go on.
    #[error("server {index}: {source}")]
    Server {
        /// Its number; 0 leads.
        index: usize,
        /// Its reason.
        source: ServerError,
    },
    /// A worker could not go on.
    #[error("worker {index}: {source}")]
    Worker {
        /// Its number.
        index: u32,
        /// Its reason.
        source: Box<TrainError>,
    },
}

/// Runs `spec` on its number of servers and `workers` workers until it is done or `stop` turns true.
/// `latest_valid`: pass over damaged checkpoints. The last worker waits for `delay` after each gradient. All tell `telemetry`
/// of themselves. The end is that of worker 0, which also shows progress and evaluates.
///
/// # Errors
/// [`LocalError`]: the first server or worker that failed.
pub async fn run(
    spec: JobSpec,
    workers: NonZeroU32,
    latest_valid: bool,
    delay: Duration,
    telemetry: &Telemetry,
    progress: &mut Progress,
    stop: watch::Receiver<bool>,
) -> Result<End, LocalError> {
    let servers = start_servers(spec, latest_valid, telemetry).await?;
    let url = servers[0].url().to_owned();
    let (servers_stop, servers_stopping) = watch::channel(false);
    let mut ends = JoinSet::new();
    for (index, server) in servers.into_iter().enumerate() {
        ends.spawn(end_of_server(index, server, servers_stopping.clone()));
    }
    let end = tokio::select! {
        end = work(&url, workers, delay, telemetry, progress, stop) => end,
        error = first_failure(&mut ends) => Err(error),
    };
    servers_stop.send_replace(true);
    // Servers end by themselves once every worker has left; whoever hangs dies with the process.
    let _ = tokio::time::timeout(SERVERS_END_WITHIN, async { while ends.join_next().await.is_some() {} }).await;
    end
}

async fn start_servers(
    spec: JobSpec,
    latest_valid: bool,
    telemetry: &Telemetry,
) -> Result<Vec<RunningServer>, LocalError> {
    let count = spec.job.servers as usize;
    let mut servers: Vec<RunningServer> = Vec::with_capacity(count);
    let mut leads = Some(Box::new(spec));
    for index in 0..count {
        let part = match (leads.take(), servers.first()) {
            (Some(spec), _) => Part::Lead { spec, latest_valid },
            (None, lead) => {
                let lead = lead.map_or(String::new(), |lead| lead.url().to_owned());
                Part::Follower { lead, expected: None }
            }
        };
        let options = ServerOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            unix_socket: None,
            part,
            compute_threads: compute_threads(count),
            memory_max: None,
            patience: PATIENCE,
            telemetry: telemetry.clone(),
        };
        servers.push(start(options).await.map_err(|source| LocalError::Server { index, source })?);
    }
    Ok(servers)
}

/// The servers share the cores.
fn compute_threads(servers: usize) -> usize {
    available_parallelism().map_or(1, |cores| (cores.get() / servers).max(1))
}

async fn end_of_server(
    index: usize,
    server: RunningServer,
    stop: watch::Receiver<bool>,
) -> Result<ServerEnd, LocalError> {
    server.run(turned_true(stop)).await.map_err(|source| LocalError::Server { index, source })
}

/// Resolves when a server fails; servers that end in good order are none.
async fn first_failure(ends: &mut JoinSet<Result<ServerEnd, LocalError>>) -> LocalError {
    while let Some(end) = ends.join_next().await {
        match end {
            Ok(Err(error)) => return error,
            Ok(Ok(_)) => {}
            Err(error) => resume(error),
        }
    }
    std::future::pending().await
}

/// Runs the workers; the first failure of any ends all, since they differ in nothing but their slots.
/// Worker 0 joins first, so that it sees every step.
async fn work(
    url: &str,
    workers: NonZeroU32,
    delay: Duration,
    telemetry: &Telemetry,
    progress: &mut Progress,
    stop: watch::Receiver<bool>,
) -> Result<End, LocalError> {
    // The last worker is the slow one, which alone is the first.
    let delay_of = |index: u32| if index + 1 == workers.get() { delay } else { Duration::ZERO };
    let failed = |source| failure(0, source);
    let places = Places::at(url);
    let joined = tokio::select! {
        joined = Trainer::join(&places, options(Evaluate::Always, delay_of(0), telemetry)) => joined.map_err(failed)?,
        () = turned_true(stop.clone()) => return Ok(End::Stopped { step: None, steps: None }),
    };
    let mut others = JoinSet::new();
    for index in 1..workers.get() {
        let (url, stop) = (url.to_owned(), turned_true(stop.clone()));
        let options = options(Evaluate::Never, delay_of(index), telemetry);
        others.spawn(async move {
            let end = train(&Places::at(&url), options, &mut Progress::silent(), stop).await;
            end.map(drop).map_err(|source| failure(index, source))
        });
    }
    let mut first = pin!(joined.run(progress, turned_true(stop)));
    let mut end = None;
    while end.is_none() || !others.is_empty() {
        tokio::select! {
            ended = &mut first, if end.is_none() => end = Some(ended.map_err(failed)?),
            Some(other) = others.join_next() => other.unwrap_or_else(|error| resume(error))?,
        }
    }
    Ok(end.expect("the loop ends only after worker 0 has"))
}

fn options(evaluate: Evaluate, delay: Duration, telemetry: &Telemetry) -> TrainOptions {
    let observer = Observer::new(telemetry.spans().clone());
    let client = ClientOptions { observer, ..ClientOptions::new(crate::fingerprint()) };
    let meter = Arc::new(Meter::new(client.observer.clone()));
    telemetry.add(meter.clone());
    TrainOptions { client, evaluate, delay, meter }
}

fn failure(index: u32, source: TrainError) -> LocalError {
    LocalError::Worker { index, source: Box::new(source) }
}

/// Resolves when the flag turns true or whoever could turn it is gone.
async fn turned_true(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}

/// A task of ours that panicked takes the job with it.
fn resume(error: tokio::task::JoinError) -> ! {
    std::panic::resume_unwind(error.into_panic())
}
