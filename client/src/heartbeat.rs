//! The heartbeat stream to the lead, on a connection of its own so that no gradient delays it:
//! signs of life up, notices down.

use std::time::Duration;

use halflife_proto::hello::Hello;
use halflife_proto::membership::Notice;
use halflife_proto::refusal::Refusal;
use halflife_proto::v1;
use halflife_proto::wire::read_notice;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connection::{call, connect, control_client};
use crate::error::{ClientError, status_cause};
use crate::session::SessionHandle;

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

/// Opens the stream, once. The first heartbeat goes with it.
pub(crate) async fn open(
    url: &str,
    hello: &Hello,
    every: Duration,
    session: &SessionHandle,
) -> Result<(Heart, NoticeReader), ClientError> {
    let mut client = control_client(connect(url).await?);
    let (heartbeats, queue) = mpsc::channel(1);
    let heart = Heart { hello: hello.into(), every, session: session.clone(), heartbeats };
    let first = tokio_stream::once(heart.beat());
    let notices = call(url, client.heartbeat(first.chain(ReceiverStream::new(queue)))).await?;
    Ok((heart, NoticeReader { url: url.to_owned(), notices, session: session.clone() }))
}

impl Heart {
    /// Beats until the connection ends.
    pub(crate) async fn run(self) {
        let mut interval = tokio::time::interval_at(Instant::now() + self.every, self.every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if self.heartbeats.send(self.beat()).await.is_err() {
                return; // the reader says why
            }
        }
    }

    fn beat(&self) -> v1::HeartbeatRequest {
        let session = self.session.look();
        v1::HeartbeatRequest {
            hello: Some(self.hello.clone()),
            step: session.work.current_step().0,
            unreachable: session.unreachable.iter().map(|server| server.0).collect(),
        }
    }
}

impl NoticeReader {
    /// Reads notices until the stream ends.
    pub(crate) async fn run(mut self) {
        let mut finished = false;
        let cause = loop {
            match self.notices.message().await {
                Ok(Some(notice)) => match self.take_in(notice, &mut finished) {
                    Ok(()) => {}
                    Err(refusal) => return self.session.fail(ClientError::bad_message(&self.url, refusal)),
                },
                Ok(None) => break "the lead closed the stream".to_owned(),
                Err(status) => {
                    if let Some(refusal) = Refusal::from_status(&status) {
                        return self.session.fail(ClientError::refused(&self.url, refusal));
                    }
                    break format!("{:?}: {}", status.code(), status_cause(&status));
                }
            }
        };
        if !finished {
            self.session.fail(ClientError::LeadLost { url: self.url, cause });
        }
    }

    fn take_in(&self, notice: v1::Notice, finished: &mut bool) -> Result<(), Refusal> {
        match read_notice(notice)? {
            Notice::Assignment(assignment) => {
                tracing::debug!(?assignment, "assigned");
                let mut assigned = Ok(());
                self.session.change(|session| assigned = session.work.assign(assignment));
                assigned?;
            }
            Notice::Finished(step) => {
                *finished = true;
                self.session.change(|session| session.work.finish(step));
            }
            Notice::Fenced(refusal) => self.session.fail(ClientError::Fenced(refusal)),
            Notice::Stopped(refusal) => self.session.fail(ClientError::JobStopped(refusal)),
        }
        Ok(())
    }
}
