//! The control service: an edge that parses, asks the lead, and answers.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::membership::{Order, Report};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::trace::{TRACEPARENT, TraceContext};
use halflife_proto::v1::{self, control_server::Control};
use halflife_proto::wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, info};

use super::Lead;
use super::state::LeadState;
use crate::node::CHANNEL_CAPACITY;
use crate::telemetry::Meter;

/// Serves the lead's side of the contract; on other servers it refuses with `NOT_LEAD`.
#[derive(Debug, Clone)]
pub struct ControlService {
    place: Arc<LeadPlace>,
    meter: Arc<Meter>,
}

/// Where the service finds the lead: another one in each generation, and none in between.
#[derive(Debug)]
pub struct LeadPlace(RwLock<Result<Arc<Lead>, Refusal>>);

impl LeadPlace {
    /// A lead, or why there is none here.
    #[must_use]
    pub fn new(lead: Result<Arc<Lead>, Refusal>) -> LeadPlace {
        LeadPlace(RwLock::new(lead))
    }

    /// Puts another in place.
    pub fn set(&self, lead: Result<Arc<Lead>, Refusal>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = lead;
    }

    /// The lead, or why there is none here.
    pub(crate) fn get(&self) -> Result<Arc<Lead>, Refusal> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends askers to the lead at `url`.
#[must_use]
pub fn leads_elsewhere(url: &str) -> Refusal {
    Refusal::mismatch(RefusalCause::NotLead, "this server does not lead", url, "another server")
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ControlService {
    /// Speaks for the lead in `place`; what streams refuse is counted in `meter`, as calls are by whoever serves them.
    #[must_use]
    pub fn new(place: Arc<LeadPlace>, meter: Arc<Meter>) -> ControlService {
        ControlService { place, meter }
    }

    fn lead(&self) -> Result<Arc<Lead>, Refusal> {
        self.place.get()
    }
}

/// Reads a worker's hello: it may leave out the job and generation, but not name others.
fn check_worker(lead: &Lead, hello: Option<v1::Hello>) -> Result<halflife_proto::hello::Hello, Refusal> {
    let mut hello = wire::read_hello(hello)?;
    let own = lead.identity().hello();
    if hello.job.is_none() {
        hello.job = own.job.clone();
        hello.generation = own.generation;
    }
    own.check(&hello)?;
    Ok(hello)
}

#[tonic::async_trait]
impl Control for ControlService {
    type HeartbeatStream = Responses<v1::Notice>;
    type RegisterStream = Responses<v1::ServerOrder>;

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::JobDescription>, Status> {
        Ok(Response::new((&self.lead()?.description()).into()))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let lead = self.lead()?;
        let (begin, parent) = (SystemTime::now(), parent(request.metadata()));
        let request = request.into_inner();
        let join_as = request.join_as();
        let hello = check_worker(&lead, request.hello)?;
        let manifest = wire::read_manifest(request.manifest)?;
        let mut response = v1::JoinResponse {
            job: Some((&lead.description()).into()),
            heartbeat_ms: lead.spec().membership.heartbeat_ms,
            lease_ms: lead.spec().membership.lease_ms,
            ..v1::JoinResponse::default()
        };
        match join_as {
            v1::JoinAs::Worker => {
                let joined =
                    lead.decide(|state, now| state.join(now, hello.incarnation, hello.fingerprint.clone(), manifest))?;
                info!(number = joined.number, %hello.incarnation, "a worker has joined");
                response.placement = Some((&joined.placement).into());
                response.worker_number = joined.number;
                response.assignment = Some((&joined.assignment).into());
                response.step = joined.step.map(|step| step.0);
                lead.spans.record_join(parent, begin, joined.number);
            }
            v1::JoinAs::Client => {
                let placement = lead.decide(|state, _| state.admit_model(manifest))?;
                response.placement = Some((&placement).into());
                response.step = lead.read(LeadState::complete_step).map(|step| step.0);
            }
            v1::JoinAs::Unspecified => {
                return Err(Refusal::mismatch(RefusalCause::Malformed, "join_as", "WORKER or CLIENT", "none").into());
            }
        }
        Ok(Response::new(response))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Responses<v1::Notice>>, Status> {
        let lead = self.lead()?;
        let mut beats = request.into_inner();
        let malformed =
            || Refusal::mismatch(RefusalCause::Malformed, "heartbeats", "a first one", "the end of the stream");
        let first = beats.message().await?.ok_or_else(malformed)?;
        let incarnation = take_beat(&lead, first)?;
        let (reader, meter) = (lead.clone(), self.meter.clone());
        let (fenced, fence) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(beat)) = beats.message().await {
                if let Err(refusal) = take_beat(&reader, beat) {
                    meter.refused(&refusal);
                    let _ = fenced.send(Err(refusal.into())).await; // the worker may be gone already
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(
            lead.notices(incarnation).map(|notice| Ok(notice.into())).merge(ReceiverStream::new(fence)),
        )))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::JobStatus>, Status> {
        Ok(Response::new(self.lead()?.status()))
    }

    async fn ticket(&self, request: Request<v1::TicketRequest>) -> Result<Response<v1::TicketResponse>, Status> {
        let lead = self.lead()?;
        let v1::TicketRequest { hello, sequence } = request.into_inner();
        let hello = check_worker(&lead, hello)?;
        Ok(Response::new(lead.ticket(hello.incarnation, sequence).await?.into()))
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        let lead = self.lead()?;
        let hello = check_worker(&lead, request.into_inner().hello)?;
        info!(%hello.incarnation, "a worker has left");
        lead.decide(|state, _| ((), state.leave(hello.incarnation)));
        Ok(Response::new(v1::LeaveResponse {}))
    }

    async fn operate(&self, request: Request<v1::OperateRequest>) -> Result<Response<v1::OperateResponse>, Status> {
        let lead = self.lead()?;
        let operation = wire::read_operation(request.into_inner())?;
        info!(?operation, "the operator acts");
        let step = lead.decide(|state, _| state.operate(operation))?;
        Ok(Response::new(v1::OperateResponse { step: step.0 }))
    }

    async fn register(
        &self,
        request: Request<Streaming<v1::ServerReport>>,
    ) -> Result<Response<Responses<v1::ServerOrder>>, Status> {
        let lead = self.lead()?;
        let from = request.remote_addr();
        let mut incoming = request.into_inner();
        let expected =
            |found: &str| Refusal::mismatch(RefusalCause::Malformed, "first report", "a registration", found);
        let first = incoming.message().await?.ok_or_else(|| expected("the end of the stream"))?;
        let Report::Register { hello, mut address, memory_max } = wire::read_report(first)? else {
            return Err(expected("another report").into());
        };
        address.url = reachable_url(&address.url, from);
        let (index, orders) = lead.admit_server(hello.incarnation, address, memory_max)?;
        let admission =
            Order::Admit { lead: lead.identity().hello(), index, job_toml: lead.spec().for_followers().to_toml() };
        let (reports, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        tokio::spawn(lead.clone().follow_server(index, receiver));
        let meter = self.meter.clone();
        tokio::spawn(async move {
            // The end of the stream, or a report that makes no sense, is the loss of the server. Why is known only here.
            loop {
                let report = match incoming.message().await {
                    Ok(Some(report)) => wire::read_report(report),
                    Ok(None) => return,
                    Err(status) => return info!(%index, %status, "the link to a server ended"),
                };
                match report {
                    Ok(report) => {
                        if reports.send(report).await.is_err() {
                            return;
                        }
                    }
                    Err(refusal) => {
                        meter.refused(&refusal);
                        return error!(%index, %refusal, "a report of a server makes no sense; the link to it is cut");
                    }
                }
            }
        });
        let orders = tokio_stream::once(admission).chain(ReceiverStream::new(orders)).map(|order| Ok(order.into()));
        Ok(Response::new(Box::pin(orders)))
    }
}

/// What a call is part of, if it says so.
fn parent(metadata: &MetadataMap) -> Option<TraceContext> {
    TraceContext::parse(metadata.get(TRACEPARENT)?.to_str().ok()?)
}

fn take_beat(lead: &Arc<Lead>, beat: v1::HeartbeatRequest) -> Result<Incarnation, Refusal> {
    let hello = check_worker(lead, beat.hello)?;
    let unreachable = beat.unreachable.into_iter().map(ServerIndex).collect();
    lead.decide(|state, now| {
        let heard = state.heartbeat(now, hello.incarnation, Step(beat.step), unreachable, beat.ready);
        (heard.map(|()| hello.incarnation), Vec::new())
    })
}

/// A server that listens on every address does not know which one it is reached by; its
/// registration came from it.
fn reachable_url(url: &str, from: Option<SocketAddr>) -> String {
    let Some(from) = from else { return url.to_owned() };
    let host = match from {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    url.replacen("//0.0.0.0:", &format!("//{host}:"), 1).replacen("//[::]:", &format!("//{host}:"), 1)
}
