//! A server that does not lead: registers with the lead and keeps the link to it.
//!
//! A job that has its servers already keeps a surplus one waiting: it stands by, for as long as the lead lives, and takes the place
//! of a server that is lost.

use std::num::NonZeroU64;
use std::time::Duration;

use halflife_proto::causes;
use halflife_proto::ids::ServerIndex;
use halflife_proto::membership::{Order, Report};
use halflife_proto::placement::ServerAddress;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::v1::{self, control_client::ControlClient};
use halflife_proto::{HTTP2_WINDOW_BYTES, MESSAGE_BYTES_MAX, hello, wire};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tracing::{debug, info};

use crate::node::CHANNEL_CAPACITY;

/// First and longest pause between attempts to reach the lead.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// Why a server cannot take part.
#[derive(Debug, Error)]
pub enum FollowError {
    /// Not a URL.
    #[error("lead {url:?}: expected a URL such as http://10.0.0.1:7070: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// The parser's reason.
        reason: String,
    },
    /// Nobody answered in time.
    #[error("no lead answered at {url} within {} s: {reason}", waited.as_secs())]
    Unreachable {
        /// Where.
        url: String,
        /// How long.
        waited: Duration,
        /// The last reason.
        reason: String,
    },
    /// The lead said no.
    #[error("the lead at {url} refused this server: {refusal}")]
    Refused {
        /// Where.
        url: String,
        /// Why.
        refusal: Refusal,
    },
}

/// What the lead told a server it took in.
#[derive(Debug)]
pub struct Admitted {
    /// Who leads, and so which job and generation this is.
    pub lead: hello::Hello,
    /// The server's index.
    pub index: ServerIndex,
    /// The whole job file.
    pub job_toml: String,
    /// What to do.
    pub orders: mpsc::Receiver<Order>,
    /// What to tell the lead.
    pub reports: mpsc::Sender<Report>,
}

/// What a server asks to be taken in with.
#[derive(Debug)]
pub struct Application {
    /// Who it is.
    pub hello: hello::Hello,
    /// Where it is reached.
    pub own: ServerAddress,
    /// Bytes it may use.
    pub memory_max: Option<NonZeroU64>,
    /// How long to try while no lead answers.
    pub patience: Duration,
    /// Leads are elected: one that does not lead may not have heard of its election yet.
    pub elected: bool,
}

impl Application {
    fn is_worth_repeating(&self, cause: RefusalCause) -> bool {
        cause.is_transient() || (self.elected && cause == RefusalCause::NotLead)
    }
}

/// Registers with the lead at `url`, trying again until nobody has answered for as long as the server's patience lasts.
///
/// # Errors
/// [`FollowError`], naming the URL and the last reason.
pub async fn follow(url: &str, application: &Application) -> Result<Admitted, FollowError> {
    let patience = application.patience;
    let bad = |reason: String| FollowError::BadUrl { url: url.to_owned(), reason };
    halflife_proto::check_scheme(url).map_err(|why| bad(why.to_owned()))?;
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(format!("found an {error}")))?;
    if endpoint.uri().host().is_none() {
        return Err(bad("no host".to_owned()));
    }
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let mut heard_at = tokio::time::Instant::now();
    let mut pause = RETRY_FIRST;
    let mut told = None;
    loop {
        let reason = match register(&endpoint, application).await {
            Ok(admitted) => return Ok(admitted),
            Err(status) => match Refusal::from_status(&status) {
                Some(refusal) if !application.is_worth_repeating(refusal.cause) => {
                    return Err(FollowError::Refused { url: url.to_owned(), refusal });
                }
                Some(refusal) => {
                    // Somebody leads, and will take this server in when there is a place for it.
                    heard_at = tokio::time::Instant::now();
                    let reason = refusal.to_string();
                    if told.as_ref() != Some(&reason) {
                        info!(%url, reason, "this server waits for a place in the job");
                    }
                    told = Some(reason.clone());
                    reason
                }
                _ if !matches!(status.code(), Code::Unavailable | Code::Unknown) => {
                    let refusal = Refusal::new(RefusalCause::Malformed, status.to_string());
                    return Err(FollowError::Refused { url: url.to_owned(), refusal });
                }
                _ => status.message().to_owned(),
            },
        };
        if heard_at.elapsed() + pause > patience {
            return Err(FollowError::Unreachable { url: url.to_owned(), waited: patience, reason });
        }
        debug!(%url, reason, "the lead is not there yet");
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(RETRY_LONGEST);
    }
}

async fn register(endpoint: &Endpoint, application: &Application) -> Result<Admitted, Status> {
    let Application { hello, own, memory_max, .. } = application;
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(causes(&error)))?;
    let mut control = ControlClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (reports, outgoing) = mpsc::channel(CHANNEL_CAPACITY);
    let registration = Report::Register { hello: hello.clone(), address: own.clone(), memory_max: *memory_max };
    let outgoing = tokio_stream::once(registration).chain(ReceiverStream::new(outgoing)).map(v1::ServerReport::from);
    let mut incoming = control.register(outgoing).await?.into_inner();
    let first = incoming.message().await?.ok_or_else(|| Status::unavailable("the lead ended the registration"))?;
    let Order::Admit { lead, index, job_toml } = wire::read_order(first)? else {
        return Err(Status::internal("expected an admission, found another order"));
    };
    info!(%index, "the lead has taken this server in");
    let (orders, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    tokio::spawn(pump_orders(incoming, orders, control));
    Ok(Admitted { lead, index, job_toml, orders: receiver, reports })
}

/// Hands orders on until the lead, or the node, is gone. Keeps the connection by holding `_control`.
async fn pump_orders(
    mut incoming: tonic::Streaming<v1::ServerOrder>,
    orders: mpsc::Sender<Order>,
    _control: ControlClient<Channel>,
) {
    loop {
        let order = match incoming.message().await {
            Ok(Some(order)) => wire::read_order(order),
            Ok(None) => return,
            Err(status) => {
                debug!(%status, "the link to the lead ended");
                return;
            }
        };
        match order {
            Ok(order) => {
                if orders.send(order).await.is_err() {
                    return;
                }
            }
            Err(refusal) => {
                tracing::error!(%refusal, "an order from the lead makes no sense");
                return;
            }
        }
    }
}
