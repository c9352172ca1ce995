//! The stream to one server: shipments up, weights down.
//!
//! Reading and writing are independent: the reader is polled by the assembler, the writer by the
//! connection. Neither waits for the other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use halflife_proto::contribution::{BlockWeights, Contribution};
use halflife_proto::framing::{self, Framed, Heads, IncomingMessages, OutgoingMessages, TensorData};
use halflife_proto::hello::Hello;
use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::v1;
use halflife_proto::v1::step_request::Message as Up;
use halflife_proto::v1::step_response::Message as Down;
use halflife_proto::wire::{read_acknowledgement, read_hello, read_weights, required};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Response;

use crate::block_plan::BlockPlan;
use crate::bulk::Bulk;
use crate::connection::call;
use crate::encoder::BlockEncoder;
use crate::error::{ClientError, status_cause};
use crate::observer::Observer;
use crate::session::SessionHandle;
use crate::shipment::Shipment;
use halflife_proto::fault_point::{self, FaultPoint};

/// Shipments queued per stream at most: one being sent, one ready. In bytes: as many gradients.
const SHIPMENTS_QUEUED_MAX: usize = 2;

/// The reading half of a stream, after its welcome.
pub(crate) struct ServerReader {
    server: ServerIndex,
    url: String,
    responses: IncomingMessages,
    observer: Observer,
}

/// What [`open`] gives: where shipments are put in, the reading half, and the newest step that the server has
/// complete.
pub(crate) type Opened = (mpsc::Sender<Shipment>, ServerReader, Option<Step>);

/// Opens the stream to a server on a connection of its own, once; weights begin with `from_step`.
pub(crate) async fn open(
    url: &str,
    server: ServerIndex,
    hello: &Hello,
    from_step: Option<Step>,
    plan: &Arc<BlockPlan>,
    observer: &Observer,
) -> Result<Opened, ClientError> {
    let bulk = Bulk::connect(url).await?;
    let (shipments, queue) = mpsc::channel(SHIPMENTS_QUEUED_MAX);
    let first = v1::StepRequest { message: Some(Up::Hello(hello.into())), from_step: from_step.map(|step| step.0) };
    let outgoing = Outgoing {
        plan: Arc::clone(plan),
        server,
        hello: hello.clone(),
        queue,
        current: None,
        begun: None,
        observer: observer.clone(),
        heads: Heads::default(),
        encoder: BlockEncoder::default(),
    };
    let counting = observer.clone();
    let requests = tokio_stream::once(framing::message(&first)).chain(outgoing).map(move |message: Framed| {
        counting.sent(message.byte_count() as u64);
        Ok(message)
    });
    let body = OutgoingMessages::request(requests);
    let mut responses = IncomingMessages::new(
        call(url, async { bulk.step(body, observer.traceparent(hello)).await.map(Response::new) }).await?,
    );
    let welcome = call(url, async { responses.message().await.map(Response::new) }).await?;
    let welcome = welcome.map(|(response, _)| response);
    let step = read_welcome(welcome, server, hello, url)?;
    observer.stream_opened();
    let reader = ServerReader { server, url: url.to_owned(), responses, observer: observer.clone() };
    Ok((shipments, reader, step))
}

fn read_welcome(
    response: Option<v1::StepResponse>,
    server: ServerIndex,
    hello: &Hello,
    url: &str,
) -> Result<Option<Step>, ClientError> {
    let bad = |refusal| ClientError::bad_message(url, refusal);
    let welcome = match response.and_then(|response| response.message) {
        Some(Down::Welcome(welcome)) => welcome,
        Some(Down::Refusal(refusal)) => return Err(ClientError::refused(url, refusal.into())),
        _ => return Err(bad(Refusal::mismatch(RefusalCause::Malformed, "first response", "a welcome", "none"))),
    };
    hello.check(&read_hello(welcome.server).map_err(bad)?).map_err(bad)?;
    if welcome.server_index != server.0 {
        let found = ServerIndex(welcome.server_index);
        return Err(bad(Refusal::mismatch(RefusalCause::Malformed, "welcome", server, found)));
    }
    Ok(welcome.step.map(Step))
}

/// What a server sends.
pub(crate) enum Content {
    Weights(BlockWeights),
    /// A mark that was sent has come back.
    Mark(u64),
    /// The stream is at its end; nothing more comes from this server.
    End {
        cause: String,
    },
    /// Something that is no message of this stream.
    Malformed(Refusal),
}

impl ServerReader {
    /// The server.
    pub(crate) fn server(&self) -> ServerIndex {
        self.server
    }

    /// How it was reached.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What comes next that concerns weights and marks; after an end or a malformed message it must not be
    /// asked again. Refusals go to the session.
    pub(crate) fn poll_content(&mut self, session: &SessionHandle, context: &mut Context<'_>) -> Poll<Content> {
        loop {
            let message = ready!(self.responses.poll_message(context));
            self.observer.received(self.responses.take_bytes());
            return Poll::Ready(match message {
                Ok(Some((response, data))) => match self.read(response, data, session) {
                    Ok(Some(content)) => content,
                    Ok(None) => continue,
                    Err(refusal) => Content::Malformed(refusal),
                },
                Ok(None) => Content::End { cause: "the server closed the stream".to_owned() },
                Err(status) => {
                    if let Some(refusal) = Refusal::from_status(&status) {
                        session.fail(ClientError::refused(&self.url, refusal));
                    }
                    Content::End { cause: format!("{:?}: {}", status.code(), status_cause(&status)) }
                }
            });
        }
    }

    fn read(
        &self,
        response: v1::StepResponse,
        data: TensorData,
        session: &SessionHandle,
    ) -> Result<Option<Content>, Refusal> {
        match required(response.message, "message")? {
            Down::Weights(weights) => Ok(Some(Content::Weights(BlockWeights { data, ..read_weights(weights)? }))),
            Down::Mark(v1::Mark { number }) => Ok(Some(Content::Mark(number))),
            Down::Acknowledgement(acknowledgement) => {
                let acknowledgement = read_acknowledgement(acknowledgement)?;
                tracing::trace!(server = self.server.0, ?acknowledgement, "acknowledged");
                Ok(None)
            }
            Down::Refusal(refusal) => {
                let refusal = Refusal::from(refusal);
                if refusal.cause == RefusalCause::StepAhead {
                    // A worker contributes at the weights that it has, so the step is the next. It is refused only
                    // where the operator ends the job before it, or while lead and servers still agree on the end.
                    tracing::debug!(url = self.url, %refusal, "waiting to hear of the end");
                    session.send_again_later();
                } else {
                    session.fail(ClientError::refused(&self.url, refusal));
                }
                Ok(None)
            }
            Down::Welcome(_) => {
                Err(Refusal::mismatch(RefusalCause::Malformed, "response", "one welcome", "a second one"))
            }
        }
    }
}

/// Cuts shipments into this server's contributions as fast as the connection takes them.
struct Outgoing {
    plan: Arc<BlockPlan>,
    server: ServerIndex,
    hello: Hello,
    queue: mpsc::Receiver<Shipment>,
    /// The shipment being sent, and which of the server's blocks is next.
    current: Option<(Shipment, usize)>,
    /// Since when it is being sent, where its step is sampled.
    begun: Option<SystemTime>,
    observer: Observer,
    heads: Heads,
    encoder: BlockEncoder,
}

impl Outgoing {
    fn next_contribution(&mut self) -> Option<Contribution> {
        let (shipment, next) = self.current.as_mut()?;
        let numbers = self.plan.numbers_of_server(self.server);
        while let Some(number) = numbers.get(*next) {
            *next += 1;
            let block = &self.plan.blocks()[*number];
            let contribution = shipment.contribution(*number, block, self.hello.generation, &mut self.encoder);
            if let Some(contribution) = &contribution {
                fault_point::reach(match (contribution.step, contribution.push) {
                    (Step::ZERO, None) => FaultPoint::InitialBlock,
                    _ if *next == 1 && self.server != ServerIndex(0) => FaultPoint::NextServer,
                    _ => FaultPoint::GradientBlock,
                });
            }
            if contribution.is_some() {
                return contribution;
            }
        }
        if let (Some((shipment, _)), Some(begun)) = (self.current.take(), self.begun.take()) {
            self.observer.pushed(&self.hello, shipment.step(), self.server, begun);
        }
        None
    }
}

fn mark(number: u64) -> v1::StepRequest {
    v1::StepRequest { message: Some(Up::Mark(v1::Mark { number })), from_step: None }
}

impl Stream for Outgoing {
    type Item = Framed;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Framed>> {
        loop {
            if let Some(contribution) = self.next_contribution() {
                return Poll::Ready(Some(framing::contribution(contribution, &mut self.heads)));
            }
            match ready!(self.queue.poll_recv(context)) {
                Some(shipment) => match shipment.mark_number() {
                    Some(number) => return Poll::Ready(Some(framing::message(&mark(number)))),
                    None => {
                        self.begun = self.observer.spans().samples(shipment.step()).then(SystemTime::now);
                        self.current = Some((shipment, 0));
                    }
                },
                None => return Poll::Ready(None),
            }
        }
    }
}
