//! `halflife-server status | pause | resume | drain | stop`: how a person looks at a job and acts on it.
//!
//! Each is one call to the lead. `view` turns a status into text or JSON. Nothing here decides: the lead
//! does (`lead/state/operate.rs`).

mod checkpoint_view;
mod mode_view;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use halflife_proto::membership::Operation;
use halflife_proto::refusal::Refusal;
use halflife_proto::v1::{self, control_client::ControlClient};
use halflife_proto::{MESSAGE_BYTES_MAX, check_scheme};
use thiserror::Error;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// One attempt to connect, and one call.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Whom to ask.
#[derive(Clone, Debug, Args)]
pub struct LeadArguments {
    /// The URL of the server that leads the job, or of another of its servers, which names the lead.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7070", env = "HALFLIFE_LEAD")]
    pub(crate) lead: String,
}

/// Say how a job stands: step, lr, workers with their slots, servers with what waits on them, promises.
#[derive(Clone, Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    lead: LeadArguments,
    /// Ask again every second until the job has ended.
    #[arg(long)]
    watch: bool,
    /// One JSON object, or one a line with --watch.
    #[arg(long)]
    json: bool,
}

/// Let the job rest: no further step is started.
#[derive(Clone, Debug, Args)]
pub struct PauseArguments {
    #[command(flatten)]
    lead: LeadArguments,
}

/// Let a paused job go on.
#[derive(Clone, Debug, Args)]
pub struct ResumeArguments {
    #[command(flatten)]
    lead: LeadArguments,
}

/// Give a worker's slots to the others and ask it to leave.
#[derive(Clone, Debug, Args)]
pub struct DrainArguments {
    /// The worker's number, as `status` shows it.
    #[arg(value_name = "WORKER")]
    worker: u32,
    #[command(flatten)]
    lead: LeadArguments,
}

/// End the job in good order, before its last step.
///
/// The step under way is completed if there are workers; every worker gets the last weights, reports and leaves, then
/// the servers end.
#[derive(Clone, Debug, Args)]
pub struct StopArguments {
    #[command(flatten)]
    lead: LeadArguments,
}

/// What a person wants.
#[derive(Clone, Debug)]
pub enum Wish {
    /// To see.
    Status(StatusArguments),
    /// To let it rest.
    Pause(PauseArguments),
    /// To let it go on.
    Resume(ResumeArguments),
    /// To be rid of a worker.
    Drain(DrainArguments),
    /// To end it.
    Stop(StopArguments),
}

/// Why it could not be done.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// Not a URL.
    #[error("--lead {url}: expected a URL such as http://10.0.0.1:7070: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// The parser's reason.
        reason: String,
    },
    /// Nobody answers.
    #[error("no lead answers at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The lead said no.
    #[error("the lead at {url} refused: {refusal}")]
    Refused {
        /// Where.
        url: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Does what is wished; results go to standard output.
///
/// # Errors
/// [`OperatorError`].
pub async fn run(wish: Wish) -> Result<(), OperatorError> {
    match wish {
        Wish::Status(arguments) => status(&arguments).await,
        Wish::Pause(PauseArguments { lead }) => {
            let step = Connection::open(&lead.lead).await?.operate(Operation::Pause).await?;
            say(&format!("the job rests after step {step}; `halflife-server resume` lets it go on"));
            Ok(())
        }
        Wish::Resume(ResumeArguments { lead }) => {
            let step = Connection::open(&lead.lead).await?.operate(Operation::Resume).await?;
            say(&format!("the job goes on with step {step}"));
            Ok(())
        }
        Wish::Drain(DrainArguments { worker, lead }) => {
            Connection::open(&lead.lead).await?.operate(Operation::Drain(worker)).await?;
            say(&format!("worker {worker} is asked to leave; its slots are others' now"));
            Ok(())
        }
        Wish::Stop(StopArguments { lead }) => {
            let step = Connection::open(&lead.lead).await?.operate(Operation::Stop).await?;
            say(&format!("the job ends with the step under way ({step}), or with the first that no server is past"));
            Ok(())
        }
    }
}

async fn status(arguments: &StatusArguments) -> Result<(), OperatorError> {
    let mut connection = Connection::open(&arguments.lead.lead).await?;
    let clear = arguments.watch && !arguments.json && io::stdout().is_terminal();
    loop {
        let status = connection.status().await?;
        let text = if arguments.json { view::json(&status) } else { view::text(&status) };
        say(&format!("{}{text}", if clear { CLEAR } else { "" }));
        let ended = matches!(status.phase(), v1::Phase::Finished | v1::Phase::Stopped);
        if !arguments.watch || ended {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn say(text: &str) {
    // Standard output may be closed; there is nobody left to tell.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Where a URL leads, or why it is none.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint, String> {
    check_scheme(url)?;
    Endpoint::from_shared(url.to_owned()).map_err(|error| format!("found an {error}"))
}

/// A connection to the lead, or to a server that says where the lead is.
pub(crate) struct Connection {
    url: String,
    control: ControlClient<Channel>,
}

impl Connection {
    pub(crate) async fn open(url: &str) -> Result<Connection, OperatorError> {
        let endpoint = endpoint(url).map_err(|reason| OperatorError::BadUrl { url: url.to_owned(), reason })?;
        let channel = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect().await.map_err(|error| {
            let reason = halflife_proto::causes(&error);
            OperatorError::Unreachable { url: url.to_owned(), reason }
        })?;
        let control = ControlClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Connection { url: url.to_owned(), control })
    }

    pub(crate) async fn operate(&mut self, operation: Operation) -> Result<u64, OperatorError> {
        let request = v1::OperateRequest::from(operation);
        let answer = match self.control.operate(request).await {
            Err(status) if self.follow(&status).await? => self.control.operate(request).await,
            answer => answer,
        };
        Ok(answer.map_err(|status| self.failed(&status))?.into_inner().step)
    }

    pub(crate) async fn status(&mut self) -> Result<v1::JobStatus, OperatorError> {
        let answer = match self.control.status(v1::StatusRequest {}).await {
            Err(status) if self.follow(&status).await? => self.control.status(v1::StatusRequest {}).await,
            answer => answer,
        };
        Ok(answer.map_err(|status| self.failed(&status))?.into_inner())
    }

    /// Goes to the lead if `status` says that it is elsewhere.
    async fn follow(&mut self, status: &Status) -> Result<bool, OperatorError> {
        let refusal = Refusal::from_status(status);
        let Some(lead) = refusal.as_ref().and_then(Refusal::lead_url) else { return Ok(false) };
        *self = Connection::open(lead).await?;
        Ok(true)
    }

    fn failed(&self, status: &Status) -> OperatorError {
        let url = self.url.clone();
        match Refusal::from_status(status) {
            Some(refusal) => OperatorError::Refused { url, refusal },
            None => OperatorError::Unreachable { url, reason: format!("{:?}: {}", status.code(), status.message()) },
        }
    }
}
