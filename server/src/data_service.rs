//! The data service: gradients in, weights out. An edge: it parses, calls the shard, and answers.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use halflife_proto::contribution::{Contribution, Outcome, Payload};
use halflife_proto::framing::{IncomingMessages, OutgoingMessages, TensorData};
use halflife_proto::hello::Hello;
use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::Encoded;
use halflife_proto::trace::{Span, Spans, TraceContext};
use halflife_proto::v1::{self, data_server::Data, step_request, step_response::Message};
use halflife_proto::{PULL_BLOCKS_MAX, wire};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::outbox::{Outbox, Outgoing};
use crate::registry::SessionId;
use crate::shard::{Shard, ShardPlace};
use crate::telemetry::Meter;

/// Serves the blocks of the shard in `place`.
#[derive(Debug, Clone)]
pub struct DataService {
    place: Arc<ShardPlace>,
}

impl DataService {
    /// Serves whatever shard is put in `place`.
    #[must_use]
    pub fn new(place: Arc<ShardPlace>) -> DataService {
        DataService { place }
    }

    /// The shard, for a peer that has introduced itself properly.
    fn shard_for(&self, hello: Option<v1::Hello>) -> Result<(Arc<Shard>, Hello), Refusal> {
        let hello = wire::read_hello(hello)?;
        let not_ready =
            || Refusal::new(RefusalCause::NotReady, "this server has no blocks yet: the job waits for its model");
        let shard = self.place.get().ok_or_else(not_ready)?;
        shard.identity().hello().check(&hello)?;
        Ok((shard, hello))
    }
}

#[tonic::async_trait]
impl Data for DataService {
    type StepStream = Pin<Box<dyn Stream<Item = Result<v1::StepResponse, Status>> + Send>>;

    async fn step(&self, _: Request<Streaming<v1::StepRequest>>) -> Result<Response<Self::StepStream>, Status> {
        // `StepEdge` answers this path before the generated code sees it.
        Err(Status::internal("step streams are served by their own edge"))
    }

    async fn initialize(
        &self,
        request: Request<v1::InitializeRequest>,
    ) -> Result<Response<v1::Acknowledgement>, Status> {
        let request = request.into_inner();
        let (shard, hello) = self.shard_for(request.hello)?;
        let data = Encoded { dtype: wire::read_dtype(request.dtype)?, bytes: request.data };
        let acknowledgement = shard.contribute(Contribution {
            block: wire::read_block_id(request.block)?,
            generation: hello.generation,
            step: Step::ZERO,
            slots: SlotRange { begin: 0, end: 1 },
            weight: 1.0,
            payload: Payload::Dense(data),
            push: None,
        })?;
        Ok(Response::new(acknowledgement.into()))
    }

    async fn push(&self, request: Request<v1::PushRequest>) -> Result<Response<v1::Acknowledgement>, Status> {
        let request = request.into_inner();
        let (shard, _) = self.shard_for(request.hello)?;
        let contribution = wire::read_contribution(wire::required(request.contribution, "contribution")?)?;
        // As the reader of a stream does: what is taken must not come faster than it is computed.
        shard.has_room().await;
        Ok(Response::new(shard.contribute(contribution)?.into()))
    }

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<v1::PullResponse>, Status> {
        let request = request.into_inner();
        let (shard, _) = self.shard_for(request.hello)?;
        if request.blocks.len() > PULL_BLOCKS_MAX {
            let (expected, found) = (format!("at most {PULL_BLOCKS_MAX} blocks"), request.blocks.len());
            return Err(Refusal::mismatch(RefusalCause::TooLarge, "pull", expected, format!("{found} blocks")).into());
        }
        let ids = request.blocks.into_iter().map(|id| wire::read_block_id(Some(id))).collect::<Result<Vec<_>, _>>()?;
        let plane = (!request.plane.is_empty()).then_some(request.plane.as_str());
        let (step, blocks) = shard.pull(&ids, plane, request.step.map(Step))?;
        Ok(Response::new(v1::PullResponse { step: step.0, blocks: blocks.into_iter().map(Into::into).collect() }))
    }
}

fn hello_expected(found: &str) -> Refusal {
    Refusal::mismatch(RefusalCause::Malformed, "first message of a step stream", "hello", found)
}

impl DataService {
    /// Opens a step stream: what comes in goes to the shard, what comes out is the body. `parent`: what it is part of.
    pub(crate) async fn open_step_stream(&self, body: Body, parent: Option<TraceContext>) -> Result<Body, Status> {
        let mut incoming = IncomingMessages::new(body);
        let first = incoming.message::<v1::StepRequest>().await?;
        self.place.meter().received(incoming.take_bytes());
        let (first, _) = first.ok_or_else(|| hello_expected("the end of the stream"))?;
        let from_step = first.from_step.map(Step);
        let Some(step_request::Message::Hello(hello)) = first.message else {
            return Err(hello_expected("another message").into());
        };
        let (shard, peer) = self.shard_for(Some(hello))?;
        let outbox = Arc::new(Outbox::default());
        outbox.reply(Message::Welcome(v1::Welcome {
            server: Some((&shard.identity().hello()).into()),
            server_index: shard.identity().index.0,
            step: shard.complete().map(|step| step.0),
        }));
        let id = shard.open_session(peer.incarnation, from_step, &outbox)?;
        debug!(%peer.incarnation, "session opened");
        let meter = self.place.meter();
        let traced = parent.filter(|parent| parent.sampled).map(|parent| (meter.spans().clone(), parent));
        let (generation, spans) = (shard.identity().generation, shard.send_spans());
        let session = Session {
            shard: Arc::downgrade(&shard),
            generation,
            index: shard.identity().index,
            id,
            outbox: outbox.clone(),
            began: SystemTime::now(),
            traced,
        };
        // Reading never waits for writing: the reader is a task of its own, the writer is the
        // response body.
        tokio::spawn(read_contributions(incoming, shard, outbox.clone(), meter.clone()));
        let outgoing = Outgoing::new(outbox, generation, session).counted_in(meter.clone()).traced_by(spans);
        Ok(OutgoingMessages::response(outgoing))
    }
}

/// Closes its session when the connection lets go of the response stream. That may be long after the session is closed, where
/// the peer does not read: so it does not keep the shard, which may be that of a generation long past.
struct Session {
    shard: Weak<Shard>,
    generation: Generation,
    index: ServerIndex,
    id: SessionId,
    outbox: Arc<Outbox>,
    began: SystemTime,
    /// Where it is recorded, as part of what.
    traced: Option<(Spans, TraceContext)>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some((spans, parent)) = &self.traced {
            spans.record(Span {
                trace: parent.trace,
                id: None,
                parent: Some(parent.span),
                name: "server.session",
                begin: self.began,
                end: SystemTime::now(),
                attributes: vec![
                    ("halflife.generation", self.generation.0.into()),
                    ("halflife.server", u64::from(self.index.0).into()),
                ],
            });
        }
        if let Some(shard) = self.shard.upgrade() {
            shard.close_session(self.id);
        }
        self.outbox.close(None);
    }
}

async fn read_contributions(mut incoming: IncomingMessages, shard: Arc<Shard>, outbox: Arc<Outbox>, meter: Arc<Meter>) {
    loop {
        let message = tokio::select! {
            biased;
            // Not only between messages: a peer that says nothing would keep the shard.
            () = outbox.closed() => return,
            message = incoming.message::<v1::StepRequest>() => message,
        };
        match message {
            Ok(Some((request, data))) => {
                meter.received(incoming.take_bytes());
                if let Some(reply) = answer(&shard, &outbox, &meter, request, data) {
                    outbox.reply(reply);
                }
                shard.has_room().await;
            }
            // The peer has finished sending (or is gone): what it still has to receive goes on.
            Ok(None) => return,
            Err(status) => {
                debug!(%status, "session ended by its peer");
                outbox.close(Some(status));
                return;
            }
        }
    }
}

/// The reply a request needs, if any: contributions that count are answered by the step's weights.
fn answer(
    shard: &Arc<Shard>,
    outbox: &Outbox,
    meter: &Meter,
    request: v1::StepRequest,
    data: TensorData,
) -> Option<Message> {
    let contribution = match request.message {
        Some(step_request::Message::Mark(v1::Mark { number })) => {
            outbox.mark(number);
            return None;
        }
        Some(step_request::Message::Contribution(contribution)) => {
            wire::read_contribution(v1::Contribution { data: data.into_contiguous(), ..contribution })
        }
        Some(step_request::Message::Hello(_)) => {
            Err(Refusal::mismatch(RefusalCause::Malformed, "step stream", "one hello", "another"))
        }
        None => Err(Refusal::mismatch(RefusalCause::Malformed, "step stream", "a contribution", "an empty message")),
    };
    match contribution.and_then(|contribution| shard.contribute(contribution)) {
        Ok(acknowledgement) if acknowledgement.outcome == Outcome::Added => None,
        Ok(acknowledgement) => Some(Message::Acknowledgement(acknowledgement.into())),
        Err(refusal) => {
            meter.refused(&refusal);
            Some(Message::Refusal(refusal.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use halflife_proto::framing;

    use super::*;
    use crate::shard::sample;

    #[tokio::test]
    async fn a_peer_that_neither_reads_nor_sends_does_not_keep_a_shard_that_is_gone() {
        let place = Arc::new(ShardPlace::default());
        let shard = sample::shard("steps = 9\nslots = 2", &[&[2]]);
        place.set(shard.clone());
        let service = DataService::new(place.clone());
        let hello = Some(step_request::Message::Hello((&shard.identity().hello()).into()));
        let first = framing::message(&v1::StepRequest { message: hello, from_step: None });
        let silent = tokio_stream::StreamExt::chain(tokio_stream::once(Ok(first)), tokio_stream::pending());
        let unread = service.open_step_stream(OutgoingMessages::request(silent), None).await.expect("a stream");
        tokio::task::yield_now().await;

        // As when the job goes back to its last checkpoint.
        place.clear().expect("a shard").close_sessions(Some(Status::unavailable("the test")));
        let kept = Arc::downgrade(&shard);
        drop(shard);
        for _ in 0..1000 {
            if kept.strong_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(kept.strong_count(), 0);
        drop(unread);
    }
}
