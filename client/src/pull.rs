//! A consistent read by unary calls: every block of one step, from all servers; always the f32 masters.

use std::sync::Arc;

use halflife_proto::hello::Hello;
use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::tensor_codec::Dtype;
use halflife_proto::v1::data_client::DataClient;
use halflife_proto::wire::read_weights;
use halflife_proto::{PULL_BLOCKS_MAX, PULL_BYTES_MAX, v1};
use tonic::transport::Channel;

use crate::assembly::check_fit;
use crate::block_plan::BlockPlan;
use crate::connection::{call, connect, data_client};
use crate::error::{ClientError, WeightsViolation};
use crate::weights::WeightsVersion;

/// Connections to all servers, for unary reads.
pub(crate) struct Puller {
    hello: Hello,
    plan: Arc<BlockPlan>,
    elements: usize,
    servers: Vec<(String, DataClient<Channel>)>,
}

impl Puller {
    /// Connects to every server, once.
    pub(crate) async fn connect(
        hello: Hello,
        plan: Arc<BlockPlan>,
        elements: usize,
        urls: &[String],
    ) -> Result<Puller, ClientError> {
        let mut servers = Vec::with_capacity(urls.len());
        for url in urls {
            servers.push((url.clone(), data_client(connect(url).await?)));
        }
        Ok(Puller { hello, plan, elements, servers })
    }

    /// The newest step that every server has complete.
    pub(crate) async fn newest_common_step(&mut self) -> Result<Step, ClientError> {
        let plan = Arc::clone(&self.plan);
        let mut newest: Option<Step> = None;
        for server in (0..self.servers.len() as u32).map(ServerIndex) {
            let Some(number) = plan.numbers_of_server(server).first() else { continue };
            let response = self.ask(server, &[*number], None).await?;
            newest = Some(newest.map_or(Step(response.step), |step| step.min(Step(response.step))));
        }
        Ok(newest.unwrap_or_default())
    }

    /// All weights of `step`.
    pub(crate) async fn pull(&mut self, step: Step) -> Result<WeightsVersion, ClientError> {
        let plan = Arc::clone(&self.plan);
        let mut version = WeightsVersion { step, values: vec![0.0; self.elements], lr: 0.0, decay: 0.0 };
        for server in (0..self.servers.len() as u32).map(ServerIndex) {
            for numbers in chunks(&plan, plan.numbers_of_server(server)) {
                let response = self.ask(server, numbers, Some(step)).await?;
                self.take_in(server, numbers, response, Some(step), &mut version)?;
            }
        }
        Ok(version)
    }

    /// The newest weights of every block, in the asynchronous modes: consistent once every ticket is done
    /// or void. The step is the newest version of any block.
    pub(crate) async fn pull_newest(&mut self) -> Result<WeightsVersion, ClientError> {
        let plan = Arc::clone(&self.plan);
        let mut newest = WeightsVersion { step: Step::ZERO, values: vec![0.0; self.elements], lr: 0.0, decay: 0.0 };
        for server in (0..self.servers.len() as u32).map(ServerIndex) {
            for numbers in chunks(&plan, plan.numbers_of_server(server)) {
                let response = self.ask(server, numbers, None).await?;
                self.take_in(server, numbers, response, None, &mut newest)?;
            }
        }
        Ok(newest)
    }

    async fn ask(
        &mut self,
        server: ServerIndex,
        numbers: &[usize],
        step: Option<Step>,
    ) -> Result<v1::PullResponse, ClientError> {
        let blocks = numbers.iter().map(|number| self.plan.blocks()[*number].id.into()).collect();
        let request = v1::PullRequest {
            hello: Some((&self.hello).into()),
            blocks,
            step: step.map(|step| step.0),
            plane: String::new(),
        };
        let (url, client) = &mut self.servers[server.0 as usize];
        call(url, client.pull(request)).await
    }

    fn take_in(
        &self,
        server: ServerIndex,
        numbers: &[usize],
        response: v1::PullResponse,
        step: Option<Step>,
        version: &mut WeightsVersion,
    ) -> Result<(), ClientError> {
        let url = &self.servers[server.0 as usize].0;
        let malformed = |expected: String, found: String| {
            let refusal = Refusal::mismatch(RefusalCause::Malformed, "answer to a pull", expected, found);
            ClientError::bad_message(url, refusal)
        };
        let other_step = step.is_some_and(|step| response.step != step.0);
        if other_step || response.blocks.len() != numbers.len() {
            let describe = |blocks: usize, step: Step| format!("{blocks} blocks of {step}");
            let found = describe(response.blocks.len(), Step(response.step));
            return Err(malformed(describe(numbers.len(), version.step), found));
        }
        for (number, weights) in numbers.iter().zip(response.blocks) {
            let weights = read_weights(weights).map_err(|refusal| ClientError::bad_message(url, refusal))?;
            let planned = &self.plan.blocks()[*number];
            if weights.block != planned.id {
                return Err(malformed(planned.id.to_string(), weights.block.to_string()));
            }
            check_fit(&self.plan, self.hello.generation, server, Dtype::F32, &weights)
                .map_err(|violation| ClientError::bad_weights(url, violation))?;
            match step {
                Some(step) if weights.step != step && !planned.frozen => {
                    let (block, expected, found) = (planned.id, step, weights.step);
                    let violation = WeightsViolation::StepBeyond { block, expected, found };
                    return Err(ClientError::bad_weights(url, violation));
                }
                Some(_) => {}
                None => version.step = version.step.max(weights.step),
            }
            weights.data.decode_to(Dtype::F32, &mut version.values[planned.arena.clone()]);
            if self.plan.first_trainable() == Some(*number) {
                (version.lr, version.decay) = (weights.lr, weights.decay);
            }
        }
        Ok(())
    }
}

/// Whether another step, asked for again, may be there: the servers moved on in between.
pub(crate) fn is_other_step_worth_asking(failure: &ClientError) -> bool {
    let moved = |cause| matches!(cause, RefusalCause::StepGone | RefusalCause::StepAhead);
    matches!(failure, ClientError::Refused { refusal, .. } if moved(refusal.cause))
}

/// Cuts a server's blocks into runs that one answer may hold.
fn chunks<'a>(plan: &BlockPlan, numbers: &'a [usize]) -> Vec<&'a [usize]> {
    let mut chunks = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, number) in numbers.iter().enumerate() {
        let block_bytes = plan.blocks()[*number].arena_bytes().len();
        let is_full = bytes + block_bytes > PULL_BYTES_MAX || index - begin == PULL_BLOCKS_MAX;
        if is_full && index > begin {
            chunks.push(&numbers[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += block_bytes;
    }
    if begin < numbers.len() {
        chunks.push(&numbers[begin..]);
    }
    chunks
}
