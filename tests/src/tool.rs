//! A client of the bare contract: the generated code and nothing else of ours.

use std::time::Duration;

use halflife_proto::v1::control_client::ControlClient;
use halflife_proto::v1::data_client::DataClient;
use halflife_proto::{MESSAGE_BYTES_MAX, PROTOCOL_VERSION, v1};
use tonic::Status;
use tonic::transport::Channel;

/// One tensor as the tool declares it.
#[derive(Clone, Debug)]
pub struct ToolTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its role.
    pub role: v1::TensorRole,
}

impl ToolTensor {
    /// A trainable tensor.
    #[must_use]
    pub fn trainable(name: &str, shape: &[u64]) -> ToolTensor {
        ToolTensor { name: name.to_owned(), shape: shape.to_vec(), role: v1::TensorRole::Trainable }
    }

    fn elements(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }
}

/// A joined client.
#[derive(Debug)]
pub struct Tool {
    /// What it introduces itself with.
    pub hello: v1::Hello,
    /// The control service of the lead.
    pub control: ControlClient<Channel>,
    /// The data service of each server.
    pub servers: Vec<DataClient<Channel>>,
    /// The placement.
    pub placement: v1::Placement,
    tensors: Vec<ToolTensor>,
}

/// The manifest of some tensors.
#[must_use]
pub fn manifest(tensors: &[ToolTensor]) -> v1::Manifest {
    let tensor = |tensor: &ToolTensor| v1::Tensor {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        dtype: v1::Dtype::F32.into(),
        role: tensor.role.into(),
        tied_to: String::new(),
    };
    v1::Manifest { tensors: tensors.iter().map(tensor).collect() }
}

/// Little-endian bytes.
#[must_use]
pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// bf16, from the definition: of the two bf16 around a value the nearer one, of equals the even one.
///
/// # Panics
/// For NaN and infinity.
#[must_use]
pub fn bf16(values: &[f32]) -> Vec<u8> {
    let nearest = |value: &f32| {
        assert!(value.is_finite());
        let below = (value.to_bits() >> 16) as u16; // towards zero
        let widened = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
        let (down, up) = (f64::from(*value) - widened(below), widened(below + 1) - f64::from(*value));
        let up_is_nearer = up.abs() < down.abs() || (up.abs() == down.abs() && below % 2 == 1);
        if up_is_nearer { below + 1 } else { below }
    };
    values.iter().flat_map(|value| nearest(value).to_le_bytes()).collect()
}

/// f32 values of little-endian bytes.
#[must_use]
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// Connects to a control service.
///
/// # Errors
/// When nobody listens.
pub async fn control(url: &str) -> Result<ControlClient<Channel>, tonic::transport::Error> {
    Ok(ControlClient::connect(url.to_owned()).await?.max_decoding_message_size(MESSAGE_BYTES_MAX))
}

impl Tool {
    /// Joins as a client, waiting until the servers are ready.
    ///
    /// # Errors
    /// What the lead answers.
    pub async fn join(lead_url: &str, tensors: Vec<ToolTensor>) -> Result<Tool, Status> {
        let mut control = control(lead_url).await.expect("the lead listens");
        let job = control.describe(v1::DescribeRequest {}).await?.into_inner();
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            job_id: job.job_id,
            generation: job.generation,
            incarnation: 77,
            fingerprint: None,
        };
        let request = v1::JoinRequest {
            hello: Some(hello.clone()),
            manifest: Some(manifest(&tensors)),
            join_as: v1::JoinAs::Client.into(),
        };
        let joined = loop {
            match control.join(request.clone()).await {
                Ok(joined) => break joined.into_inner(),
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(status) => return Err(status),
            }
        };
        let placement = joined.placement.expect("a placement");
        let mut servers = Vec::new();
        for url in &placement.servers {
            let client = DataClient::connect(url.clone()).await.expect("every server listens");
            servers
                .push(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX));
        }
        Ok(Tool { hello, control, servers, placement, tensors })
    }

    /// Blocks of a tensor: id, elements, server.
    #[must_use]
    pub fn blocks(&self, tensor: usize) -> Vec<(v1::BlockId, std::ops::Range<usize>, usize)> {
        let size = self.placement.block_elements as usize;
        let elements = self.tensors[tensor].elements();
        let owners = &self.placement.tensors[tensor].blocks;
        owners
            .iter()
            .enumerate()
            .map(|(index, owner)| {
                let dense = v1::DenseBlock { tensor: tensor as u32, index: index as u32 };
                let id = v1::BlockId { kind: Some(v1::block_id::Kind::Dense(dense)) };
                (id, index * size..elements.min((index + 1) * size), owner.servers[0] as usize)
            })
            .collect()
    }

    /// Sets the weights of one tensor.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn initialize(&mut self, tensor: usize, values: &[f32]) -> Result<(), Status> {
        for (block, range, server) in self.blocks(tensor) {
            let request = v1::InitializeRequest {
                hello: Some(self.hello.clone()),
                block: Some(block),
                dtype: v1::Dtype::F32.into(),
                data: bytes(&values[range]).into(),
            };
            self.servers[server].initialize(request).await?;
        }
        Ok(())
    }

    /// A contribution to one block, ready to be spoiled.
    #[must_use]
    pub fn contribution(
        &self,
        block: v1::BlockId,
        step: u64,
        slots: (u32, u32),
        values: Option<&[f32]>,
    ) -> v1::Contribution {
        let kind = if values.is_some() { v1::ContributionKind::Dense } else { v1::ContributionKind::Absent };
        v1::Contribution {
            block: Some(block),
            generation: self.hello.generation,
            step,
            slots: Some(v1::SlotRange { begin: slots.0, end: slots.1 }),
            kind: kind.into(),
            weight: f64::from(slots.1 - slots.0),
            dtype: v1::Dtype::F32.into(),
            data: values.map_or(Vec::new(), bytes).into(),
            ticket: 0,
            sequence: 0,
        }
    }

    /// Pushes one contribution as it is.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn push_raw(
        &mut self,
        server: usize,
        contribution: v1::Contribution,
    ) -> Result<v1::Acknowledgement, Status> {
        let request = v1::PushRequest { hello: Some(self.hello.clone()), contribution: Some(contribution) };
        Ok(self.servers[server].push(request).await?.into_inner())
    }

    /// Pushes a tensor's gradient for some slots; `None`: absent. `weight`: their sample weight.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn push(
        &mut self,
        step: u64,
        slots: (u32, u32),
        tensor: usize,
        values: Option<&[f32]>,
        weight: f64,
    ) -> Result<Vec<v1::Outcome>, Status> {
        let mut outcomes = Vec::new();
        for (block, range, server) in self.blocks(tensor) {
            let part = self.contribution(block, step, slots, values.map(|values| &values[range]));
            outcomes.push(self.push_raw(server, v1::Contribution { weight, ..part }).await?.outcome());
        }
        Ok(outcomes)
    }

    /// Waits until `step` is complete on every server.
    pub async fn wait_for(&mut self, step: u64) {
        loop {
            let status = self.control.status(v1::StatusRequest {}).await.expect("a status").into_inner();
            if status.step >= step && status.phase() != v1::Phase::Initializing {
                return;
            }
            assert_ne!(status.phase(), v1::Phase::Stopped, "{}", status.note);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A tensor's weights, or a plane of it, at exactly `step`.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn pull(&mut self, tensor: usize, plane: &str, step: u64) -> Result<Vec<f32>, Status> {
        let mut values = Vec::new();
        for (block, _, server) in self.blocks(tensor) {
            let request = v1::PullRequest {
                hello: Some(self.hello.clone()),
                blocks: vec![block],
                step: Some(step),
                plane: plane.to_owned(),
            };
            let response = self.servers[server].pull(request).await?.into_inner();
            assert_eq!(response.step, step);
            values.extend(floats(&response.blocks[0].data));
        }
        Ok(values)
    }

    /// Learning rate and decay reported with a tensor's first block at `step`.
    pub async fn factors(&mut self, tensor: usize, step: u64) -> (f64, f64) {
        let (block, _, server) = self.blocks(tensor).remove(0);
        let request = v1::PullRequest {
            hello: Some(self.hello.clone()),
            blocks: vec![block],
            step: Some(step),
            plane: String::new(),
        };
        let response = self.servers[server].pull(request).await.expect("weights").into_inner();
        (response.blocks[0].lr, response.blocks[0].decay)
    }
}
