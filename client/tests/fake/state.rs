//! What the fake job knows, and how it applies a step.

use std::collections::BTreeMap;

use bytes::Bytes;
use halflife_proto::blocks::{BlockId, all_blocks, block_count};
use halflife_proto::contribution::{BlockWeights, Contribution, Payload};
use halflife_proto::ids::{Generation, JobId, ServerIndex, Step, TensorIndex};
use halflife_proto::job::{Combine, Consistency, JobDescription, Wire};
use halflife_proto::manifest::{Manifest, Role};
use halflife_proto::placement::Placement;
use halflife_proto::tensor_codec::{Dtype, encode};
use halflife_proto::v1;
use tokio::sync::mpsc::UnboundedSender;
use tonic::Status;

use super::{SERVERS, SLOTS};

pub const GENERATION: Generation = Generation(7);
const BLOCK_ELEMENTS: u64 = 2;

/// Misbehaviour on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Weight blocks from this server lack their last byte.
    TruncatedWeights(u32),
    /// The first two requests to join are answered with `NOT_READY`.
    NotReadyTwice,
    /// The first consistent read finds its step gone.
    StepGoneOnce,
    /// The step that a joiner asks to begin with is gone.
    BaselineGone,
}

pub struct Block {
    pub server: u32,
    role: Role,
    elements: usize,
    /// The newest two versions, newest last.
    versions: Vec<(Step, Vec<f32>)>,
    /// What the step after the newest has got: first slot -> (end, sum).
    held: BTreeMap<u32, (u32, Vec<f32>)>,
}

pub type Responses<T> = UnboundedSender<Result<T, Status>>;

pub struct State {
    pub manifest: Manifest,
    pub placement: Placement,
    pub steps: u64,
    pub wire: Wire,
    pub assignment: v1::Assignment,
    pub faults: Vec<Fault>,
    pub joins: u32,
    pub leaves: u32,
    pub heartbeats: Vec<v1::HeartbeatRequest>,
    pub contributions: Vec<Contribution>,
    pub blocks: BTreeMap<BlockId, Block>,
    pub streams: Vec<(u32, Responses<v1::StepResponse>)>,
    pub notices: Vec<Responses<v1::Notice>>,
}

impl State {
    pub fn new(manifest: Manifest, urls: Vec<String>, steps: u64, assignment: v1::Assignment) -> State {
        let mut dealt = 0;
        let mut owner = |_| {
            dealt += 1;
            vec![ServerIndex((dealt - 1) % SERVERS)]
        };
        let owners =
            manifest.tensors().iter().map(|tensor| (0..block_count(tensor, BLOCK_ELEMENTS)).map(&mut owner).collect());
        let owners = owners.collect();
        // The lead does not know its own URL.
        let urls = urls.into_iter().enumerate().map(|(index, url)| if index == 0 { String::new() } else { url }.into());
        let placement = Placement::new(&manifest, 1, BLOCK_ELEMENTS, urls.collect(), owners).unwrap();
        let blocks = all_blocks(&manifest, BLOCK_ELEMENTS).map(|(id, range)| {
            let elements = (range.end - range.start) as usize;
            let role = manifest.get(id.tensor).unwrap().role.clone();
            let server = placement.server_of(id).unwrap().0;
            (id, Block { server, role, elements, versions: Vec::new(), held: BTreeMap::new() })
        });
        State {
            blocks: blocks.collect(),
            manifest,
            placement,
            steps,
            wire: Wire::default(),
            assignment,
            faults: Vec::new(),
            joins: 0,
            leaves: 0,
            heartbeats: Vec::new(),
            contributions: Vec::new(),
            streams: Vec::new(),
            notices: Vec::new(),
        }
    }

    pub fn job(&self) -> JobDescription {
        JobDescription {
            id: JobId("fake".to_owned()),
            generation: GENERATION,
            seed: 1,
            slots: SLOTS,
            steps: self.steps,
            block_elements: BLOCK_ELEMENTS,
            combine: Combine::Mean,
            consistency: Consistency::default(),
            workload_toml: String::new(),
            spec_revision: 0,
            optimizer_toml: String::new(),
            wire: self.wire,
            keeps_checkpoints: false,
        }
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Newest step complete on the blocks that `of` selects.
    pub fn complete(&self, of: impl Fn(&Block) -> bool) -> Option<Step> {
        self.blocks.values().filter(|block| of(block)).map(Block::newest).min().flatten()
    }

    /// Tells every worker.
    pub fn notify(&mut self, notice: v1::notice::Notice) {
        let notice = v1::Notice { notice: Some(notice) };
        self.notices.retain(|notices| notices.send(Ok(notice.clone())).is_ok());
    }

    pub fn end_streams(&mut self) {
        self.streams.clear();
        self.notices.clear();
    }

    pub fn take_in(&mut self, contribution: Contribution) {
        let id = contribution.block;
        self.contributions.push(contribution.clone());
        let block = self.blocks.get_mut(&id).unwrap();
        let next = block.versions.last().map_or(Step::ZERO, |version| version.0.next());
        let Payload::Dense(data) = contribution.payload else { return };
        if contribution.step != next {
            return;
        }
        let expected = if next == Step::ZERO { Dtype::F32 } else { self.wire.contributions(&block.role) };
        assert_eq!(data.dtype, expected, "{id}");
        let mut values = vec![0.0; block.elements];
        assert_eq!(data.bytes.len(), data.dtype.encoded_bytes(values.len()), "{id}");
        data.load(0, &mut values);
        if next == Step::ZERO {
            return self.install(id, Step::ZERO, values);
        }
        block.held.insert(contribution.slots.begin, (contribution.slots.end, values));
        if let Some(sum) = block.complete_sum() {
            let values = block.apply(&sum);
            self.install(id, next, values);
        }
    }

    /// Makes `values` the block's newest weights and tells every stream.
    pub fn install(&mut self, id: BlockId, step: Step, values: Vec<f32>) {
        let block = self.blocks.get_mut(&id).unwrap();
        block.held.clear();
        block.versions.push((step, values));
        if block.versions.len() > 2 {
            block.versions.remove(0);
        }
        let (server, message) = (block.server, self.weights(id, None, self.wire.weights).unwrap());
        for (_, responses) in self.streams.iter().filter(|stream| stream.0 == server) {
            let _ = responses.send(Ok(respond(v1::step_response::Message::Weights(message.clone()))));
        }
    }

    /// The weights of a block at a step (`None`: the newest); those of a frozen block are of any step.
    pub fn weights(&self, id: BlockId, step: Option<Step>, dtype: Dtype) -> Option<v1::WeightBlock> {
        let block = &self.blocks[&id];
        let wanted =
            |version: &&(Step, Vec<f32>)| step.is_none_or(|step| version.0 == step) || block.role == Role::Frozen;
        let (step, values) = block.versions.iter().rev().find(wanted)?;
        let mut data = vec![0; dtype.encoded_bytes(values.len())];
        encode(dtype, values, &mut data);
        let mut data = Bytes::from(data);
        if self.has(Fault::TruncatedWeights(block.server)) {
            data.truncate(data.len() - 1);
        }
        let (lr, decay) = (step.0 as f64, 10.0 * step.0 as f64);
        Some(
            BlockWeights { block: id, generation: GENERATION, step: *step, dtype, data: data.into(), lr, decay }.into(),
        )
    }

    /// The newest weights of a tensor.
    pub fn tensor(&self, index: u32) -> Vec<f32> {
        let tensor = TensorIndex(index);
        let blocks = self.blocks.iter().filter(|(id, _)| id.tensor == tensor);
        blocks.flat_map(|(_, block)| block.versions.last().unwrap().1.clone()).collect()
    }
}

impl Block {
    /// The step of the newest weights; a frozen block's are as new as can be.
    pub fn newest(&self) -> Option<Step> {
        let newest = self.versions.last().map(|version| version.0);
        if self.role == Role::Frozen { newest.map(|_| Step(u64::MAX)) } else { newest }
    }

    /// The sum over all slots, once held nodes cover them.
    fn complete_sum(&self) -> Option<Vec<f32>> {
        let (mut covered, mut sum) = (0, Vec::new());
        for (begin, (end, values)) in &self.held {
            if *begin != covered {
                return None;
            }
            covered = *end;
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        (covered == SLOTS).then_some(sum)
    }

    fn apply(&self, sum: &[f32]) -> Vec<f32> {
        let (_, before) = self.versions.last().unwrap();
        let mean = sum.iter().map(|sum| sum / SLOTS as f32);
        match self.role {
            Role::Buffer => mean.collect(),
            _ => before.iter().zip(mean).map(|(weight, mean)| weight - mean).collect(),
        }
    }
}

pub fn respond(message: v1::step_response::Message) -> v1::StepResponse {
    v1::StepResponse { message: Some(message) }
}
