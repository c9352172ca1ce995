//! The heartbeat stream to the lead, on a connection of its own so that no gradient delays it:
//! signs of life up, notices down.

use std::time::Duration;

use halflife_discovery::Places;
use halflife_proto::hello::Hello;
use halflife_proto::membership::Notice;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::trace::TRACEPARENT;
use halflife_proto::v1;
use halflife_proto::wire::read_notice;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use crate::connection::{call, connect, control_client};
use crate::error::{ClientError, status_cause};
use crate::observer::Observer;
use crate::retry::Backoff;
use crate::search::{Found, search};
use crate::session::SessionHandle;
use halflife_proto::fault_point::{self, FaultPoint};

/// Between two looks for another lead, while the one that was is lost.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// The writing half of the heartbeat stream. The lease lasts as long as this runs: the transport
/// would go on by itself with a stream whose answers nobody reads.
pub(crate) struct Heart {
    hello: v1::Hello,
    every: Duration,
    session: SessionHandle,
    heartbeats: mpsc::Sender<v1::HeartbeatRequest>,
}

/// The reading half of the heartbeat stream.
pub(crate) struct NoticeReader {
    url: String,
    notices: Streaming<v1::Notice>,
    session: SessionHandle,
}

/// How the reading half ended.
enum End {
    /// Nothing more is to come: the job is done, or the session knows the reason.
    Over,
    /// The connection is lost; the job may go on without it.
    Broken(String),
}

/// Keeps a heartbeat stream open: opens it again whenever it breaks, until `give_up_after` has passed
/// without one, the lead refuses, or another server leads the job's next generation.
pub(crate) async fn keep(
    mut halves: (Heart, NoticeReader),
    hello: Hello,
    places: Places,
    give_up_after: Duration,
    observer: Observer,
) {
    loop {
        let (heart, reader) = halves;
        let (every, session, url) = (heart.every, heart.session.clone(), reader.url.clone());
        let cause = match beat_and_read(heart, reader).await {
            End::Over => return,
            End::Broken(cause) => cause,
        };
        let seconds = give_up_after.as_secs();
        tracing::warn!(url, cause, "lost the lead; trying to reach it again for {seconds} s");
        let reopened = async {
            let mut backoff = Backoff::new(give_up_after);
            loop {
                match open(&url, &hello, every, &session, &observer).await {
                    Ok(halves) => return Ok::<_, ClientError>(halves),
                    Err(failure) => backoff.pause(&url, failure).await?,
                }
            }
        };
        let reopened = tokio::select! {
            reopened = reopened => reopened,
            refusal = led_elsewhere(&places, &hello) => Err(ClientError::RolledBack(refusal)),
        };
        halves = match reopened {
            Ok(halves) => halves,
            Err(failure) => return session.fail(failure),
        };
        // The lead tells a new stream of a hold if there is one, and says nothing if there is none any more.
        session.change(|session| session.work.hold(None));
        tracing::info!(url, "the lead is reached again");
    }
}

/// Resolves when another generation of the job has begun, as its lead says: no server of the old one may be left to tell.
async fn led_elsewhere(places: &Places, hello: &Hello) -> Refusal {
    loop {
        tokio::time::sleep(SEARCH_INTERVAL).await;
        if let Ok(Found { url, job, .. }) = search(places).await
            && Some(&job.id) == hello.job.as_ref()
            && job.generation > hello.generation
        {
            let (what, found) = (format!("the lead at {url}"), job.generation);
            return Refusal::mismatch(RefusalCause::WrongGeneration, what, hello.generation, found);
        }
    }
}

async fn beat_and_read(heart: Heart, reader: NoticeReader) -> End {
    let beating = async {
        heart.run().await;
        std::future::pending().await // the reader says why
    };
    tokio::select! {
        end = reader.run() => end,
        end = beating => end,
    }
}

/// Opens the stream, once. The first heartbeat goes with it.
pub(crate) async fn open(
    url: &str,
    hello: &Hello,
    every: Duration,
    session: &SessionHandle,
    observer: &Observer,
) -> Result<(Heart, NoticeReader), ClientError> {
    let mut client = control_client(connect(url).await?);
    let (heartbeats, queue) = mpsc::channel(1);
    let heart = Heart { hello: hello.into(), every, session: session.clone(), heartbeats };
    let first = tokio_stream::once(heart.beat());
    let mut request = Request::new(first.chain(ReceiverStream::new(queue)));
    if let Some(parent) = observer.traceparent(hello) {
        request.metadata_mut().insert(TRACEPARENT, parent);
    }
    let notices = call(url, client.heartbeat(request)).await?;
    Ok((heart, NoticeReader { url: url.to_owned(), notices, session: session.clone() }))
}

impl Heart {
    /// Beats until the connection ends.
    async fn run(self) {
        let mut interval = tokio::time::interval_at(Instant::now() + self.every, self.every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.session.subscribe();
        let mut waits = !self.session.look().is_ready();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                // The lead waits for this to assign slots. The sender lives as long as `self`.
                _ = changes.wait_for(|session| session.is_ready()), if waits => waits = false,
            }
            if self.heartbeats.send(self.beat()).await.is_err() {
                return;
            }
        }
    }

    fn beat(&self) -> v1::HeartbeatRequest {
        let session = self.session.look();
        v1::HeartbeatRequest {
            hello: Some(self.hello.clone()),
            step: session.work.current_step().0,
            unreachable: session.unreachable.iter().map(|server| server.0).collect(),
            ready: session.is_ready(),
        }
    }
}

impl NoticeReader {
    /// Reads notices until the stream ends.
    async fn run(mut self) -> End {
        let mut over = false;
        let cause = loop {
            match self.notices.message().await {
                Ok(Some(notice)) => {
                    if let Err(refusal) = self.take_in(notice, &mut over) {
                        self.session.fail(ClientError::bad_message(&self.url, refusal));
                        return End::Over;
                    }
                }
                Ok(None) => break "the lead closed the stream".to_owned(),
                Err(status) => {
                    if let Some(refusal) = Refusal::from_status(&status) {
                        self.session.fail(ClientError::refused(&self.url, refusal));
                        return End::Over;
                    }
                    break format!("{:?}: {}", status.code(), status_cause(&status));
                }
            }
        };
        if over { End::Over } else { End::Broken(cause) }
    }

    fn take_in(&self, notice: v1::Notice, over: &mut bool) -> Result<(), Refusal> {
        match read_notice(notice)? {
            Notice::Assignment(assignment) => {
                tracing::debug!(?assignment, "assigned");
                fault_point::reach(FaultPoint::Assigned);
                let mut assigned = Ok(());
                self.session.change(|session| assigned = session.work.assign(assignment));
                assigned?;
            }
            Notice::Finished(step) => {
                *over = true;
                self.session.change(|session| session.work.finish(step));
            }
            Notice::Fenced(refusal) => {
                *over = true;
                self.session.fail(ClientError::Fenced(refusal));
            }
            Notice::Stopped(refusal) => {
                *over = true;
                self.session.fail(ClientError::JobStopped(refusal));
            }
            Notice::Hold(after) => self.session.change(|session| session.work.hold(after)),
            Notice::Drained => self.session.change(|session| session.drained = true),
        }
        Ok(())
    }
}
