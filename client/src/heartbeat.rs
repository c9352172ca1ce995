//! The heartbeat stream to the lead, on a connection of its own so that no gradient delays it:
//! signs of life up, notices down.

use std::time::Duration;

use halflife_proto::hello::Hello;
use halflife_proto::membership::Notice;
use halflife_proto::refusal::Refusal;
use halflife_proto::v1;
use halflife_proto::wire::read_notice;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Streaming;

use crate::connection::{call, connect, control_client};
use crate::error::{ClientError, status_cause};
use crate::session::SessionHandle;

/// The reading half of the heartbeat stream.
pub(crate) struct NoticeReader {
    url: String,
    notices: Streaming<v1::Notice>,
}

/// Opens the stream, once. Heartbeats go up by themselves from then on.
pub(crate) async fn open(
    url: &str,
    hello: &Hello,
    every: Duration,
    session: &SessionHandle,
) -> Result<NoticeReader, ClientError> {
    let mut client = control_client(connect(url).await?);
    let notices = call(url, client.heartbeat(heartbeats(hello, every, session.clone()))).await?;
    Ok(NoticeReader { url: url.to_owned(), notices })
}

fn heartbeats(
    hello: &Hello,
    every: Duration,
    session: SessionHandle,
) -> impl Stream<Item = v1::HeartbeatRequest> + Send + use<> {
    let hello = v1::Hello::from(hello);
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    IntervalStream::new(interval).map(move |_| {
        let session = session.look();
        v1::HeartbeatRequest {
            hello: Some(hello.clone()),
            step: session.work.current_step().0,
            unreachable: session.unreachable.iter().map(|server| server.0).collect(),
        }
    })
}

impl NoticeReader {
    /// Reads notices until the stream ends.
    pub(crate) async fn run(mut self, session: SessionHandle) {
        let mut finished = false;
        let cause = loop {
            match self.notices.message().await {
                Ok(Some(notice)) => match self.take_in(notice, &session, &mut finished) {
                    Ok(()) => {}
                    Err(refusal) => return session.fail(ClientError::bad_message(&self.url, refusal)),
                },
                Ok(None) => break "the lead closed the stream".to_owned(),
                Err(status) => {
                    if let Some(refusal) = Refusal::from_status(&status) {
                        return session.fail(ClientError::refused(&self.url, refusal));
                    }
                    break format!("{:?}: {}", status.code(), status_cause(&status));
                }
            }
        };
        if !finished {
            session.fail(ClientError::LeadLost { url: self.url, cause });
        }
    }

    fn take_in(&self, notice: v1::Notice, session: &SessionHandle, finished: &mut bool) -> Result<(), Refusal> {
        match read_notice(notice)? {
            Notice::Assignment(assignment) => {
                tracing::debug!(?assignment, "assigned");
                let mut assigned = Ok(());
                session.change(|session| assigned = session.work.assign(assignment));
                assigned?;
            }
            Notice::Finished(step) => {
                *finished = true;
                session.change(|session| session.work.finish(step));
            }
            Notice::Fenced(refusal) => session.fail(ClientError::Fenced(refusal)),
            Notice::Stopped(refusal) => session.fail(ClientError::JobStopped(refusal)),
        }
        Ok(())
    }
}
