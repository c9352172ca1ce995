//! A fake server's data service.

use std::sync::{Arc, Mutex};

use halflife_proto::hello::{Fingerprint, Hello};
use halflife_proto::ids::{Incarnation, Step};
use halflife_proto::refusal::RefusalCause;
use halflife_proto::tensor_codec::Dtype;
use halflife_proto::v1::data_server::Data;
use halflife_proto::v1::step_request::Message as Up;
use halflife_proto::v1::step_response::Message as Down;
use halflife_proto::{PROTOCOL_VERSION, v1, wire};
use tokio::sync::mpsc::unbounded_channel;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::refusal;
use super::state::{Fault, GENERATION, State, respond};

pub struct FakeData {
    pub index: u32,
    pub state: Arc<Mutex<State>>,
}

impl FakeData {
    fn hello(&self, state: &State) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            job: Some(state.job().id),
            generation: GENERATION,
            incarnation: Incarnation(u64::from(self.index)),
            fingerprint: Fingerprint::default(),
        }
    }

    /// Opens a session: the welcome, the weights it begins with, then whatever is installed.
    fn open(
        &self,
        from_step: Option<u64>,
    ) -> Result<UnboundedReceiverStream<Result<v1::StepResponse, Status>>, Status> {
        let mut state = self.state.lock().unwrap();
        if state.has(Fault::BaselineGone) && from_step.is_some() {
            return Err(refusal(RefusalCause::StepGone).into());
        }
        let step = state.complete(|block| block.server == self.index);
        let server = Some((&self.hello(&state)).into());
        let (responses, receiver) = unbounded_channel();
        let welcome = v1::Welcome { server, server_index: self.index, step: step.map(|step| step.0) };
        responses.send(Ok(respond(Down::Welcome(welcome)))).unwrap();
        let own = state.blocks.iter().filter(|(_, block)| block.server == self.index);
        for (id, block) in own {
            let begin = from_step.map(Step).or(step).filter(|begin| Some(*begin) <= block.newest());
            if let Some(begin) = begin {
                let weights = state.weights(*id, Some(begin), state.wire.weights);
                let weights = weights.ok_or_else(|| refusal(RefusalCause::StepGone))?;
                responses.send(Ok(respond(Down::Weights(weights)))).unwrap();
            }
            if let Some(weights) = state.weights(*id, None, state.wire.weights).filter(|_| begin < block.newest()) {
                responses.send(Ok(respond(Down::Weights(weights)))).unwrap();
            }
        }
        state.streams.push((self.index, responses));
        Ok(UnboundedReceiverStream::new(receiver))
    }
}

#[tonic::async_trait]
impl Data for FakeData {
    type StepStream = UnboundedReceiverStream<Result<v1::StepResponse, Status>>;

    async fn step(&self, request: Request<Streaming<v1::StepRequest>>) -> Result<Response<Self::StepStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("a stream begins with a hello");
        let Some(Up::Hello(hello)) = first.message else { panic!("expected a hello") };
        let hello = wire::read_hello(Some(hello))?;
        self.hello(&self.state.lock().unwrap()).check(&hello)?;
        let responses = self.open(first.from_step)?;
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let Some(Up::Contribution(contribution)) = request.message else { panic!("expected a contribution") };
                state.lock().unwrap().take_in(wire::read_contribution(contribution).unwrap());
            }
        });
        Ok(Response::new(responses))
    }

    async fn initialize(&self, _: Request<v1::InitializeRequest>) -> Result<Response<v1::Acknowledgement>, Status> {
        Err(refusal(RefusalCause::Unimplemented).into())
    }

    async fn push(&self, _: Request<v1::PushRequest>) -> Result<Response<v1::Acknowledgement>, Status> {
        Err(refusal(RefusalCause::Unimplemented).into())
    }

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<v1::PullResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        if request.step.is_some() && state.has(Fault::StepGoneOnce) {
            state.faults.retain(|fault| *fault != Fault::StepGoneOnce);
            return Err(refusal(RefusalCause::StepGone).into());
        }
        let newest = state.complete(|block| block.server == self.index);
        let step = request.step.map(Step).or(newest).ok_or_else(|| refusal(RefusalCause::NotInitialized))?;
        let mut blocks = Vec::new();
        for id in request.blocks {
            let id = wire::read_block_id(Some(id))?;
            let weights = state.weights(id, Some(step), Dtype::F32);
            blocks.push(weights.ok_or_else(|| refusal(RefusalCause::StepGone))?);
        }
        Ok(Response::new(v1::PullResponse { step: step.0, blocks }))
    }
}
