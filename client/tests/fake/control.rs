//! The fake lead.

use std::sync::{Arc, Mutex};

use halflife_proto::refusal::RefusalCause;
use halflife_proto::v1::control_server::Control;
use halflife_proto::{v1, wire};
use tokio::sync::mpsc::unbounded_channel;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::refusal;
use super::state::{Fault, State};

pub struct FakeControl {
    pub state: Arc<Mutex<State>>,
}

#[tonic::async_trait]
impl Control for FakeControl {
    type HeartbeatStream = UnboundedReceiverStream<Result<v1::Notice, Status>>;
    type RegisterStream = UnboundedReceiverStream<Result<v1::ServerOrder, Status>>;

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::JobDescription>, Status> {
        Ok(Response::new((&self.state.lock().unwrap().job()).into()))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let manifest = wire::read_manifest(request.into_inner().manifest)?;
        let mut state = self.state.lock().unwrap();
        state.joins += 1;
        if state.has(Fault::NotReadyTwice) && state.joins <= 2 {
            return Err(refusal(RefusalCause::NotReady).into());
        }
        if manifest != state.manifest {
            return Err(refusal(RefusalCause::ManifestMismatch).into());
        }
        Ok(Response::new(v1::JoinResponse {
            job: Some((&state.job()).into()),
            placement: Some((&state.placement).into()),
            worker_number: 3,
            assignment: Some(state.assignment.clone()),
            heartbeat_ms: 10,
            lease_ms: 1000,
            step: state.complete(|_| true).map(|step| step.0),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let mut heartbeats = request.into_inner();
        let (notices, responses) = unbounded_channel();
        self.state.lock().unwrap().notices.push(notices);
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            while let Ok(Some(heartbeat)) = heartbeats.message().await {
                state.lock().unwrap().heartbeats.push(heartbeat);
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(responses)))
    }

    async fn ticket(&self, _: Request<v1::TicketRequest>) -> Result<Response<v1::TicketResponse>, Status> {
        Err(refusal(RefusalCause::Unimplemented).into())
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::JobStatus>, Status> {
        let state = self.state.lock().unwrap();
        let step = state.complete(|_| true).map_or(0, |step| step.0);
        Ok(Response::new(v1::JobStatus { step, ..v1::JobStatus::default() }))
    }

    async fn operate(&self, _: Request<v1::OperateRequest>) -> Result<Response<v1::OperateResponse>, Status> {
        Err(refusal(RefusalCause::Unimplemented).into())
    }

    async fn leave(&self, _: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        self.state.lock().unwrap().leaves += 1;
        Ok(Response::new(v1::LeaveResponse {}))
    }

    async fn register(
        &self,
        _: Request<Streaming<v1::ServerReport>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        Err(refusal(RefusalCause::JobFull).into())
    }
}
