//! A whole server in a process: listens, takes its part in the job, and ends in good order.

mod elected;
mod life;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use halflife_discovery::Campaign;
use halflife_proto::ids::Step;
use halflife_proto::placement::ServerAddress;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::v1::control_server::ControlServer;
use halflife_proto::v1::data_server::DataServer;
use halflife_proto::{DESCRIPTORS, MESSAGE_BYTES_MAX};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tonic::service::Routes;
use tracing::info;

use crate::config::{ConfigError, JobSpec};
use crate::connections::{self, Listeners, UnixSocket};
use crate::data_service::DataService;
use crate::follower::FollowError;
use crate::lead::control_service::{ControlService, LeadPlace, leads_elsewhere};
use crate::lead::{InitialWeightsError, Lead};
use crate::node::NodeEnd;
use crate::recovery::BeginError;
use crate::shard::{ShardCompute, ShardPlace};
use crate::step_edge::StepEdge;
use crate::telemetry::{Meter, ServerReadings, Telemetry};
use life::{Ground, Life, LifeEnd};

/// How long open connections may take to end once the server does.
const GOODBYE: Duration = Duration::from_secs(1);

/// A server's part in the job.
#[derive(Debug)]
pub enum Part {
    /// Server 0: owns the job.
    Lead {
        /// The job.
        spec: Box<JobSpec>,
        /// Where the newest checkpoint is damaged, go on from the newest one that is whole.
        latest_valid: bool,
    },
    /// Takes the job from a lead.
    Follower {
        /// The lead's URL.
        lead: String,
        /// The job it is expected to be, if the user gave one.
        expected: Option<Box<JobSpec>>,
    },
    /// Either, in each generation as an election decides.
    Elected {
        /// The job.
        spec: Box<JobSpec>,
        /// As of a lead, in its first generation.
        latest_valid: bool,
        /// Where leads are elected.
        campaign: Campaign,
    },
}

/// How to start a server.
#[derive(Debug)]
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The URL others reach it by, if that is not the listening address.
    pub advertise: Option<String>,
    /// A Unix socket to listen at as well, for workers on this host.
    pub unix_socket: Option<PathBuf>,
    /// Its part.
    pub part: Part,
    /// Threads for large updates; 0: one per core.
    pub compute_threads: usize,
    /// Bytes it may use; `None`: no bound.
    pub memory_max: Option<NonZeroU64>,
    /// How long to try to reach the lead.
    pub patience: Duration,
    /// What it is observed through.
    pub telemetry: Telemetry,
}

/// Why a server cannot start or go on.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The Unix socket cannot be listened at.
    #[error("cannot listen at the Unix socket {}: {source}", path.display())]
    UnixSocket {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Registered through a Unix socket, the lead cannot tell which address this server is reached by; nor can etcd.
    #[error("expected --advertise URL with --listen {listen} and {why}: nobody knows how this server is reached")]
    NoAddress {
        /// Where it listens.
        listen: SocketAddr,
        /// Why nobody knows.
        why: &'static str,
    },
    /// Another server could not go on with the job.
    #[error(
        "--etcd: expected a job file with [checkpoint], found one without: a server that takes a dead lead's place goes on \
         from its last checkpoint"
    )]
    TakeoverNeedsCheckpoints,
    /// No election.
    #[error("no server leads, {} s long: {reason}", waited.as_secs())]
    NobodyElected {
        /// How long.
        waited: Duration,
        /// What is known.
        reason: String,
    },
    /// The system gives no threads.
    #[error("cannot start compute threads: {0}")]
    Threads(std::io::Error),
    /// The initial weights cannot be used.
    #[error(transparent)]
    InitialWeights(#[from] InitialWeightsError),
    /// The lead cannot be followed.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The job cannot begin, or go on.
    #[error(transparent)]
    Begin(#[from] Box<BeginError>),
    /// The lead's job is not the expected one.
    #[error("the lead at {url} runs another job than --config says: {differences}")]
    OtherJob {
        /// The lead.
        url: String,
        /// Lines that differ.
        differences: String,
    },
    /// The lead sent a job this build cannot read.
    #[error("the lead's job: {0}")]
    LeadsJob(ConfigError),
    /// The lead is gone.
    #[error("the lead is gone; stopped at {}", at(.step))]
    LeadLost {
        /// Newest step complete here.
        step: Option<Step>,
    },
    /// The checkpoint store cannot be read.
    #[error("this server holds no blocks: {reason}")]
    StoreFailed {
        /// What was tried, and the last reason.
        reason: String,
    },
    /// A bug.
    #[error("a bug: {part} ended, which only a panic does: {reason}")]
    Panicked {
        /// What the server cannot go on without.
        part: &'static str,
        /// What is known.
        reason: String,
    },
    /// The job had stopped before its end when the server was asked to go.
    #[error("the job stopped at {}: {refusal}", at(.step))]
    JobStopped {
        /// Newest step complete here.
        step: Option<Step>,
        /// Why.
        refusal: Refusal,
    },
}

fn at(step: &Option<Step>) -> String {
    step.map_or("no step yet".to_owned(), |step| step.to_string())
}

/// How a server ended in good order.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEnd {
    /// The job is finished and every worker has left.
    Finished {
        /// Its last step.
        step: Step,
    },
    /// It was asked to stop.
    Stopped {
        /// Newest step complete here.
        step: Option<Step>,
        /// Steps in the run.
        steps: Option<Step>,
    },
}

impl fmt::Display for ServerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerEnd::Finished { step } => write!(f, "finished: {step} is complete and every worker has left"),
            ServerEnd::Stopped { step, steps: Some(steps) } => write!(f, "stopped at {} of {}", at(step), steps.0),
            ServerEnd::Stopped { step, steps: None } => write!(f, "stopped at {}", at(step)),
        }
    }
}

/// A server that runs.
#[derive(Debug)]
pub struct RunningServer {
    url: String,
    ground: Ground,
    life: Life,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Starts a server: it listens, and takes its part in the job as soon as there is one. Until then it answers that it has none.
///
/// # Errors
/// [`ServerError`].
pub async fn start(options: ServerOptions) -> Result<RunningServer, ServerError> {
    let ServerOptions { listen, advertise, unix_socket, part, compute_threads, memory_max, patience, telemetry } =
        options;
    if let Part::Elected { spec, .. } = &part
        && spec.checkpoint.is_none()
    {
        return Err(ServerError::TakeoverNeedsCheckpoints);
    }
    let unknown = match &part {
        Part::Follower { lead, .. } if lead.starts_with("unix:") => Some("a lead at a Unix socket"),
        Part::Elected { .. } => Some("--etcd"),
        _ => None,
    };
    if let Some(why) = unknown.filter(|_| listen.ip().is_unspecified() && advertise.is_none()) {
        return Err(ServerError::NoAddress { listen, why });
    }
    let compute = Arc::new(ShardCompute::new(compute_threads).map_err(ServerError::Threads)?);
    let cannot_listen = |source| ServerError::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(cannot_listen)?;
    let bound = listener.local_addr().map_err(cannot_listen)?;
    let (unix, unix_path) = listen_at_unix_socket(unix_socket)?;
    let own_url = advertise.unwrap_or_else(|| format!("http://{bound}"));
    let own = ServerAddress { url: own_url.clone(), unix_socket: unix_path };
    let control = match &part {
        Part::Lead { .. } | Part::Elected { .. } => {
            Err(Refusal::new(RefusalCause::NotReady, "the job is about to begin"))
        }
        Part::Follower { lead, .. } => Err(leads_elsewhere(lead)),
    };
    let candidacy = match &part {
        Part::Elected { campaign, .. } => Some(campaign.clone().start(&own_url)),
        Part::Lead { .. } | Part::Follower { .. } => None,
    };
    let leading = Arc::new(LeadPlace::new(control));
    let place = Arc::new(ShardPlace::new(Arc::new(Meter::new(telemetry.spans().clone()))));
    telemetry.add(Arc::new(ServerReadings { place: place.clone(), leading: leading.clone() }));
    let ground = Ground { part, own, bound, memory_max, patience, compute, place, leading, candidacy };
    let (stop, stopping) = watch::channel(false);
    let listeners = Listeners { tcp: listener, unix };
    let meter = ground.place.meter().clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_not_serving::<DataServer<DataService>>().await;
    let control = ControlService::new(ground.leading.clone(), meter.clone());
    let routes = routes(ground.place.clone(), control).add_service(health_service).prepare();
    // Before it has a part: a server that waits for one can say who leads.
    let serving = tokio::spawn(connections::serve(listeners, routes, meter, stopping));
    let life = match ground.live(None).await {
        Ok(life) => life,
        Err(error) => {
            serving.abort();
            return Err(error);
        }
    };
    health.set_serving::<DataServer<DataService>>().await;
    info!(url = own_url, at = %bound, "listening");
    Ok(RunningServer { url: own_url, ground, life, stop, serving })
}

/// Listens at the socket, if there is to be one; also its path as others are told it.
fn listen_at_unix_socket(path: Option<PathBuf>) -> Result<(Option<UnixSocket>, String), ServerError> {
    let Some(path) = path else { return Ok((None, String::new())) };
    let bound = std::path::absolute(&path).and_then(|whole| {
        // Others are told the path in a message, which is text.
        let text = whole.to_str().ok_or(std::io::ErrorKind::InvalidFilename)?.to_owned();
        Ok((Some(UnixSocket::bind(&whole)?), text))
    });
    bound.map_err(|source| ServerError::UnixSocket { path, source })
}

/// Everything a server answers but for its health.
fn routes(place: Arc<ShardPlace>, control: ControlService) -> Routes {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled into this binary");
    let control = ControlServer::new(control)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(reflection).add_service(StepEdge::new(DataService::new(place))).add_service(control)
}

impl RunningServer {
    /// The URL others reach it by.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The lead of the present generation, on the server that leads.
    #[must_use]
    pub fn lead(&self) -> Option<&Arc<Lead>> {
        self.life.lead.as_ref()
    }

    /// Runs until the job is over, the lead is gone, or `asked_to_stop` resolves; then ends every
    /// connection within a second. A job that keeps checkpoints goes on after the loss of a server, and a
    /// server of it after the loss of the lead, for as long as its patience lasts.
    ///
    /// # Errors
    /// [`ServerError::LeadLost`] or [`ServerError::JobStopped`]; as [`start`] where the job cannot go on.
    pub async fn run(mut self, asked_to_stop: impl Future<Output = ()>) -> Result<ServerEnd, ServerError> {
        let mut asked_to_stop = pin!(asked_to_stop);
        let end = loop {
            let seat = self.life.seat.clone();
            let end = tokio::select! {
                end = self.life.end() => end,
                () = self.ground.unseated(&seat) => LifeEnd::GoesBack,
                served = &mut self.serving => break RunEnd::Serving(reason(served)),
                () = &mut asked_to_stop => break RunEnd::Asked,
            };
            match end {
                LifeEnd::GoesBack => {}
                LifeEnd::Node(NodeEnd::LeadLost) if self.life.checkpoint.is_some() => {}
                LifeEnd::Node(end) => break RunEnd::Node(end),
            }
            let lost_at = self.end_generation();
            self.ground.place.meter().recovers();
            self.life = tokio::select! {
                life = self.ground.live(Some((self.life.generation, lost_at))) => life?,
                served = &mut self.serving => break RunEnd::Serving(reason(served)),
                () = &mut asked_to_stop => {
                    self.hang_up().await;
                    return Ok(ServerEnd::Stopped { step: lost_at, steps: Some(self.life.steps) });
                }
            };
        };
        let shard = self.ground.place.get();
        let step = shard.as_ref().and_then(|shard| shard.complete());
        let halted = shard.as_ref().and_then(|shard| shard.standing().borrow().halted.clone());
        if let Some(shard) = shard {
            let finished = matches!(end, RunEnd::Node(NodeEnd::Finished(_)));
            let status = (!finished).then(|| tonic::Status::unavailable("the server is stopping"));
            shard.close_sessions(status);
        }
        self.life.node.abort();
        self.hang_up().await;
        RunningServer::ended(end, step, Some(self.life.steps), halted)
    }

    /// Nothing of this generation is served any more. Gives the newest step that was complete here.
    fn end_generation(&mut self) -> Option<Step> {
        self.life.node.abort();
        self.life.tasks.abort_all();
        let goes_back = "the job goes back to its last checkpoint";
        if let Some(lead) = &self.life.lead {
            self.ground.leading.set(Err(Refusal::new(RefusalCause::NotReady, goes_back)));
            lead.dissolve();
        }
        let shard = self.ground.place.clear()?;
        shard.close_sessions(Some(tonic::Status::unavailable(goes_back)));
        shard.complete()
    }

    async fn hang_up(&mut self) {
        self.stop.send_replace(true);
        let resign = async {
            if let Some(candidacy) = &self.ground.candidacy {
                candidacy.resign().await;
            }
        };
        let hang_up = async {
            // Where a panic has ended it, that was heard already; who listens again would panic, too.
            if !self.serving.is_finished() {
                let _ = tokio::time::timeout(GOODBYE, &mut self.serving).await;
            }
        };
        // Whoever does not hang up in time is cut off when the process ends.
        tokio::join!(hang_up, resign);
        self.serving.abort();
    }

    /// `halted`: why the job had stopped here, if it had.
    fn ended(
        end: RunEnd,
        step: Option<Step>,
        steps: Option<Step>,
        halted: Option<Refusal>,
    ) -> Result<ServerEnd, ServerError> {
        match (end, halted) {
            (RunEnd::Node(NodeEnd::Finished(step)), _) => Ok(ServerEnd::Finished { step }),
            (RunEnd::Node(NodeEnd::LeadLost), _) => Err(ServerError::LeadLost { step }),
            (RunEnd::Node(NodeEnd::StoreFailed(reason)), _) => Err(ServerError::StoreFailed { reason }),
            (RunEnd::Node(NodeEnd::Panicked(reason)), _) => {
                Err(ServerError::Panicked { part: "its part in the job", reason })
            }
            (RunEnd::Serving(reason), _) => Err(ServerError::Panicked { part: "what serves connections", reason }),
            (RunEnd::Asked, Some(refusal)) => Err(ServerError::JobStopped { step, refusal }),
            (RunEnd::Asked, None) => Ok(ServerEnd::Stopped { step, steps }),
        }
    }
}

/// Why a server's run is over.
enum RunEnd {
    /// By its part in the job.
    Node(NodeEnd),
    /// Nobody is served any more, although nobody was to stop.
    Serving(String),
    /// It was asked to stop.
    Asked,
}

fn reason(served: Result<(), JoinError>) -> String {
    served.err().map_or_else(|| "no panic is known".to_owned(), |error| error.to_string())
}

#[cfg(test)]
mod tests;
