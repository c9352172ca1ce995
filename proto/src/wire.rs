//! The only conversions between the wire and the domain, and the check of what arrives.
//!
//! `From` builds wire messages; the `read_*` functions build domain values or refuse. What only
//! the receiver can know (tensor sizes, slot trees, steps) is checked by the receiver.

use std::num::NonZeroU64;

use bytes::Bytes;

use crate::blocks::BlockId;
use crate::contribution::{Acknowledgement, BlockWeights, Contribution, Outcome, Payload, Push};
use crate::hello::{Fingerprint, Hello};
use crate::ids::{Generation, Incarnation, JobId, ServerIndex, Step, TensorIndex, Ticket};
use crate::job::{Combine, Consistency, JobDescription, Mode, Wire};
use crate::manifest::{Dtype, Manifest, Role, Tensor};
use crate::membership::{
    Assignment, Notice, Operation, Order, Partial, PushesReport, Report, ServerLoad, TicketAnswer, Total, VoidedTicket,
};
use crate::placement::{Placement, ServerAddress};
use crate::refusal::{Refusal, RefusalCause};
use crate::slots::SlotRange;
use crate::tensor_codec::Encoded;
use crate::v1;

/// The field of a message that must be there.
///
/// # Errors
/// `MALFORMED`, naming the field.
pub fn required<T>(field: Option<T>, name: &str) -> Result<T, Refusal> {
    field.ok_or_else(|| {
        Refusal::mismatch(RefusalCause::Malformed, "incomplete message", format!("field `{name}`"), "none")
    })
}

fn unimplemented(what: &str) -> Refusal {
    Refusal::new(RefusalCause::Unimplemented, format!("{what} is reserved in the contract and not built yet"))
}

// ---- blocks, slots, tensors ----

impl From<BlockId> for v1::BlockId {
    fn from(block: BlockId) -> v1::BlockId {
        let dense = v1::DenseBlock { tensor: block.tensor.0, index: block.index };
        v1::BlockId { kind: Some(v1::block_id::Kind::Dense(dense)) }
    }
}

/// Reads a block id.
///
/// # Errors
/// `MALFORMED` when it names nothing, `UNIMPLEMENTED` for a sparse block.
pub fn read_block_id(wire: Option<v1::BlockId>) -> Result<BlockId, Refusal> {
    match required(wire.and_then(|id| id.kind), "block")? {
        v1::block_id::Kind::Dense(dense) => Ok(BlockId { tensor: TensorIndex(dense.tensor), index: dense.index }),
        v1::block_id::Kind::Sparse(_) => Err(unimplemented("a sparse block")),
    }
}

impl From<SlotRange> for v1::SlotRange {
    fn from(range: SlotRange) -> v1::SlotRange {
        v1::SlotRange { begin: range.begin, end: range.end }
    }
}

/// Reads a slot range that is not empty; whether it is a node is the block's to check.
///
/// # Errors
/// `MISALIGNED_SLOTS` for an empty range.
pub fn read_slots(wire: Option<v1::SlotRange>) -> Result<SlotRange, Refusal> {
    let wire = required(wire, "slots")?;
    SlotRange::new(wire.begin, wire.end).ok_or_else(|| {
        let found = format!("[{}, {})", wire.begin, wire.end);
        Refusal::mismatch(RefusalCause::MisalignedSlots, "slot range", "begin < end", found)
    })
}

impl From<Dtype> for v1::Dtype {
    fn from(dtype: Dtype) -> v1::Dtype {
        match dtype {
            Dtype::F32 => v1::Dtype::F32,
            Dtype::Bf16 => v1::Dtype::Bf16,
            Dtype::I8Scaled => v1::Dtype::I8Scaled,
        }
    }
}

/// Reads a dtype.
///
/// # Errors
/// `WRONG_DTYPE` for an unknown one.
pub fn read_dtype(wire: i32) -> Result<Dtype, Refusal> {
    match v1::Dtype::try_from(wire) {
        Ok(v1::Dtype::F32) => Ok(Dtype::F32),
        Ok(v1::Dtype::Bf16) => Ok(Dtype::Bf16),
        Ok(v1::Dtype::I8Scaled) => Ok(Dtype::I8Scaled),
        Ok(v1::Dtype::Unspecified) | Err(_) => {
            let expected = "DTYPE_F32 (1), DTYPE_BF16 (2) or DTYPE_I8_SCALED (3)";
            Err(Refusal::mismatch(RefusalCause::WrongDtype, "dtype", expected, wire))
        }
    }
}

impl From<&Manifest> for v1::Manifest {
    fn from(manifest: &Manifest) -> v1::Manifest {
        v1::Manifest { tensors: manifest.tensors().iter().map(v1::Tensor::from).collect() }
    }
}

impl From<&Tensor> for v1::Tensor {
    fn from(tensor: &Tensor) -> v1::Tensor {
        let (role, tied_to) = match &tensor.role {
            Role::Trainable => (v1::TensorRole::Trainable, String::new()),
            Role::Frozen => (v1::TensorRole::Frozen, String::new()),
            Role::Buffer => (v1::TensorRole::Buffer, String::new()),
            Role::Tied(to) => (v1::TensorRole::Tied, to.clone()),
        };
        v1::Tensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: v1::Dtype::from(tensor.dtype).into(),
            role: role.into(),
            tied_to,
        }
    }
}

/// Reads a manifest.
///
/// # Errors
/// `MALFORMED` with what is wrong with it.
pub fn read_manifest(wire: Option<v1::Manifest>) -> Result<Manifest, Refusal> {
    let tensors = required(wire, "manifest")?.tensors.into_iter().map(read_tensor).collect::<Result<_, _>>()?;
    Manifest::new(tensors).map_err(|error| Refusal::new(RefusalCause::Malformed, format!("manifest: {error}")))
}

fn read_tensor(wire: v1::Tensor) -> Result<Tensor, Refusal> {
    let role = match wire.role() {
        v1::TensorRole::Trainable => Role::Trainable,
        v1::TensorRole::Frozen => Role::Frozen,
        v1::TensorRole::Buffer => Role::Buffer,
        v1::TensorRole::Tied => Role::Tied(wire.tied_to),
        v1::TensorRole::Unspecified => {
            let what = format!("role of tensor {:?}", wire.name);
            return Err(Refusal::mismatch(RefusalCause::Malformed, what, "a tensor role", wire.role));
        }
    };
    let dtype = read_dtype(wire.dtype)?;
    if dtype != Dtype::F32 {
        return Err(unimplemented(&format!("a tensor of dtype {dtype} (tensor {:?})", wire.name)));
    }
    Ok(Tensor { dtype, name: wire.name, shape: wire.shape, role })
}

impl From<&Placement> for v1::Placement {
    fn from(placement: &Placement) -> v1::Placement {
        let owners =
            |list: &Vec<ServerIndex>| v1::BlockOwners { servers: list.iter().map(|server| server.0).collect() };
        let tensors =
            placement.owners().iter().map(|blocks| v1::TensorPlacement { blocks: blocks.iter().map(owners).collect() });
        v1::Placement {
            version: placement.version(),
            block_elements: placement.block_elements(),
            servers: placement.servers().iter().map(|server| server.url.clone()).collect(),
            unix_sockets: placement.servers().iter().map(|server| server.unix_socket.clone()).collect(),
            tensors: tensors.collect(),
        }
    }
}

/// Reads a placement of `manifest`.
///
/// # Errors
/// `MALFORMED` when it does not fit the manifest.
pub fn read_placement(wire: Option<v1::Placement>, manifest: &Manifest) -> Result<Placement, Refusal> {
    let wire = required(wire, "placement")?;
    let owners = wire.tensors.into_iter().map(|tensor| {
        tensor.blocks.into_iter().map(|block| block.servers.into_iter().map(ServerIndex).collect()).collect()
    });
    // A peer that knows nothing of Unix sockets names none.
    let mut unix_sockets = wire.unix_sockets.into_iter();
    let servers = wire.servers.into_iter().map(|url| {
        let unix_socket = unix_sockets.next().unwrap_or_default();
        ServerAddress { url, unix_socket }
    });
    Placement::new(manifest, wire.version, wire.block_elements, servers.collect(), owners.collect())
        .map_err(|error| Refusal::new(RefusalCause::Malformed, error.to_string()))
}

// ---- contributions and weights ----

impl From<Contribution> for v1::Contribution {
    fn from(contribution: Contribution) -> v1::Contribution {
        let (kind, Encoded { dtype, bytes }) = match contribution.payload {
            Payload::Dense(data) => (v1::ContributionKind::Dense, data),
            Payload::Absent => (v1::ContributionKind::Absent, Encoded::f32(Bytes::new())),
            Payload::Nonfinite => (v1::ContributionKind::Nonfinite, Encoded::f32(Bytes::new())),
        };
        v1::Contribution {
            block: Some(contribution.block.into()),
            generation: contribution.generation.0,
            step: contribution.step.0,
            slots: Some(contribution.slots.into()),
            kind: kind.into(),
            weight: contribution.weight,
            dtype: v1::Dtype::from(dtype).into(),
            data: bytes,
            ticket: contribution.push.map_or(0, |push| push.ticket.0),
            sequence: contribution.push.map_or(0, |push| push.sequence),
        }
    }
}

/// Reads a contribution.
///
/// # Errors
/// A [`Refusal`] of what the message alone shows to be wrong.
pub fn read_contribution(wire: v1::Contribution) -> Result<Contribution, Refusal> {
    let push = match (wire.ticket, wire.sequence) {
        (0, 0) => None,
        (ticket, sequence) if ticket > 0 && sequence > 0 => Some(Push { ticket: Ticket(ticket), sequence }),
        (ticket, sequence) => {
            let found = format!("ticket {ticket}, sequence {sequence}");
            return Err(Refusal::mismatch(RefusalCause::Malformed, "push", "both from 1, or both 0", found));
        }
    };
    let kind = wire.kind();
    let payload = match kind {
        v1::ContributionKind::Dense => Payload::Dense(Encoded { dtype: read_dtype(wire.dtype)?, bytes: wire.data }),
        v1::ContributionKind::Absent | v1::ContributionKind::Nonfinite if !wire.data.is_empty() => {
            let found = format!("{} bytes", wire.data.len());
            return Err(Refusal::mismatch(
                RefusalCause::WrongSize,
                format!("{} contribution", kind.as_str_name()),
                "no data",
                found,
            ));
        }
        v1::ContributionKind::Absent => Payload::Absent,
        v1::ContributionKind::Nonfinite => Payload::Nonfinite,
        v1::ContributionKind::Rows => return Err(unimplemented("contribution kind `rows`")),
        v1::ContributionKind::Delta => return Err(unimplemented("contribution kind `delta`")),
        v1::ContributionKind::Unspecified => {
            return Err(Refusal::mismatch(
                RefusalCause::Malformed,
                "contribution kind",
                "dense, absent or nonfinite",
                wire.kind,
            ));
        }
    };
    if !(wire.weight.is_finite() && wire.weight > 0.0) {
        return Err(Refusal::mismatch(
            RefusalCause::InvalidWeight,
            "sample weight",
            "a positive finite number",
            wire.weight,
        ));
    }
    Ok(Contribution {
        block: read_block_id(wire.block)?,
        generation: Generation(wire.generation),
        step: Step(wire.step),
        slots: read_slots(wire.slots)?,
        weight: wire.weight,
        payload,
        push,
    })
}

impl From<BlockWeights> for v1::WeightBlock {
    fn from(weights: BlockWeights) -> v1::WeightBlock {
        v1::WeightBlock {
            block: Some(weights.block.into()),
            generation: weights.generation.0,
            step: weights.step.0,
            dtype: v1::Dtype::from(weights.dtype).into(),
            data: weights.data.into_contiguous(),
            lr: weights.lr,
            decay: weights.decay,
        }
    }
}

/// Reads a block's weights; dtype and size are the client's to check.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_weights(wire: v1::WeightBlock) -> Result<BlockWeights, Refusal> {
    Ok(BlockWeights {
        dtype: read_dtype(wire.dtype)?,
        block: read_block_id(wire.block)?,
        generation: Generation(wire.generation),
        step: Step(wire.step),
        data: wire.data.into(),
        lr: wire.lr,
        decay: wire.decay,
    })
}

impl From<Acknowledgement> for v1::Acknowledgement {
    fn from(ack: Acknowledgement) -> v1::Acknowledgement {
        let outcome = match ack.outcome {
            Outcome::Added => v1::Outcome::Added,
            Outcome::Replaced => v1::Outcome::Replaced,
            Outcome::Duplicate => v1::Outcome::Duplicate,
            Outcome::AlreadyApplied => v1::Outcome::AlreadyApplied,
        };
        v1::Acknowledgement {
            block: Some(ack.block.into()),
            generation: ack.generation.0,
            step: ack.step.0,
            slots: Some(ack.slots.into()),
            outcome: outcome.into(),
            durable_step: ack.durable_step.0,
            ticket: ack.ticket.map_or(0, |ticket| ticket.0),
        }
    }
}

/// Reads an acknowledgement.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_acknowledgement(wire: v1::Acknowledgement) -> Result<Acknowledgement, Refusal> {
    let outcome = match wire.outcome() {
        v1::Outcome::Added => Outcome::Added,
        v1::Outcome::Replaced => Outcome::Replaced,
        v1::Outcome::Duplicate => Outcome::Duplicate,
        v1::Outcome::AlreadyApplied => Outcome::AlreadyApplied,
        v1::Outcome::Unspecified => {
            return Err(Refusal::mismatch(RefusalCause::Malformed, "outcome", "a known outcome", wire.outcome));
        }
    };
    Ok(Acknowledgement {
        block: read_block_id(wire.block)?,
        generation: Generation(wire.generation),
        step: Step(wire.step),
        slots: read_slots(wire.slots)?,
        outcome,
        durable_step: Step(wire.durable_step),
        ticket: (wire.ticket > 0).then_some(Ticket(wire.ticket)),
    })
}

// ---- who speaks ----

impl From<&Fingerprint> for v1::Fingerprint {
    fn from(fingerprint: &Fingerprint) -> v1::Fingerprint {
        let Fingerprint { build, cpu_features, threads, device } = fingerprint.clone();
        v1::Fingerprint { build, cpu_features, threads, device }
    }
}

impl From<v1::Fingerprint> for Fingerprint {
    fn from(wire: v1::Fingerprint) -> Fingerprint {
        let v1::Fingerprint { build, cpu_features, threads, device } = wire;
        Fingerprint { build, cpu_features, threads, device }
    }
}

impl From<&Hello> for v1::Hello {
    fn from(hello: &Hello) -> v1::Hello {
        v1::Hello {
            protocol_version: hello.protocol_version,
            job_id: hello.job.as_ref().map_or(String::new(), |job| job.0.clone()),
            generation: hello.generation.0,
            incarnation: hello.incarnation.0,
            fingerprint: Some((&hello.fingerprint).into()),
        }
    }
}

/// Reads a hello and checks its protocol version, without which nothing else can be trusted.
///
/// # Errors
/// `MALFORMED` without one, `WRONG_PROTOCOL` from a peer of another version.
pub fn read_hello(wire: Option<v1::Hello>) -> Result<Hello, Refusal> {
    let wire = required(wire, "hello")?;
    crate::hello::check_protocol(wire.protocol_version)?;
    Ok(Hello {
        protocol_version: wire.protocol_version,
        job: (!wire.job_id.is_empty()).then_some(JobId(wire.job_id)),
        generation: Generation(wire.generation),
        incarnation: Incarnation(wire.incarnation),
        fingerprint: wire.fingerprint.unwrap_or_default().into(),
    })
}

// ---- the job ----

impl From<&JobDescription> for v1::JobDescription {
    fn from(job: &JobDescription) -> v1::JobDescription {
        let combine = match job.combine {
            Combine::Mean => v1::Combine::Mean,
            Combine::WeightedMean => v1::Combine::WeightedMean,
            Combine::Sum => v1::Combine::Sum,
        };
        let Consistency { mode, quorum, staleness } = job.consistency;
        let mode = match mode {
            Mode::Sync => v1::Mode::Sync,
            Mode::Bounded => v1::Mode::Bounded,
            Mode::Async => v1::Mode::Async,
        };
        v1::JobDescription {
            protocol_version: crate::PROTOCOL_VERSION,
            job_id: job.id.0.clone(),
            generation: job.generation.0,
            seed: job.seed,
            slots: job.slots,
            steps: job.steps,
            block_elements: job.block_elements,
            combine: combine.into(),
            mode: mode.into(),
            workload_toml: job.workload_toml.clone(),
            spec_revision: job.spec_revision,
            optimizer_toml: job.optimizer_toml.clone(),
            wire: Some((&job.wire).into()),
            quorum,
            staleness,
        }
    }
}

/// Reads a job description.
///
/// # Errors
/// `WRONG_PROTOCOL`, or `MALFORMED` / `UNIMPLEMENTED` for what this build cannot take part in.
pub fn read_job(wire: Option<v1::JobDescription>) -> Result<JobDescription, Refusal> {
    let wire = required(wire, "job")?;
    crate::hello::check_protocol(wire.protocol_version)?;
    let combine = match wire.combine() {
        v1::Combine::Mean => Combine::Mean,
        v1::Combine::WeightedMean => Combine::WeightedMean,
        v1::Combine::Sum => Combine::Sum,
        v1::Combine::Unspecified => {
            return Err(Refusal::mismatch(
                RefusalCause::Malformed,
                "combine",
                "mean, weighted_mean or sum",
                wire.combine,
            ));
        }
    };
    let consistency = read_consistency(&wire)?;
    if wire.slots == 0 || wire.slots > SLOTS_MAX {
        return Err(Refusal::mismatch(RefusalCause::Malformed, "slots", format!("1 to {SLOTS_MAX}"), wire.slots));
    }
    Ok(JobDescription {
        id: JobId(wire.job_id),
        generation: Generation(wire.generation),
        seed: wire.seed,
        slots: wire.slots,
        steps: wire.steps,
        block_elements: wire.block_elements,
        combine,
        consistency,
        workload_toml: wire.workload_toml,
        spec_revision: wire.spec_revision,
        optimizer_toml: wire.optimizer_toml,
        wire: read_wire(wire.wire)?,
    })
}

/// Reads when steps are applied. What does not belong to the mode is refused, not passed over.
fn read_consistency(wire: &v1::JobDescription) -> Result<Consistency, Refusal> {
    let malformed =
        |what, expected: String, found: String| Err(Refusal::mismatch(RefusalCause::Malformed, what, expected, found));
    let mode = match wire.mode() {
        v1::Mode::Sync => Mode::Sync,
        v1::Mode::Bounded => Mode::Bounded,
        v1::Mode::Async => Mode::Async,
        other => return Err(unimplemented(other.as_str_name())),
    };
    let consistency = Consistency { mode, quorum: wire.quorum, staleness: wire.staleness };
    match (mode, consistency.quorum, consistency.staleness) {
        (Mode::Sync, Some(quorum), None) if quorum == 0 || quorum > wire.slots => {
            malformed("quorum", format!("1 to {}", wire.slots), quorum.to_string())
        }
        (Mode::Sync, _, None) | (Mode::Bounded, None, Some(_)) | (Mode::Async, None, None) => Ok(consistency),
        (mode, quorum, staleness) => {
            let expected = "quorum with sync only, staleness with bounded and only there".to_owned();
            malformed("mode", expected, format!("{} with quorum {quorum:?}, staleness {staleness:?}", mode.name()))
        }
    }
}

impl From<&Wire> for v1::Wire {
    fn from(wire: &Wire) -> v1::Wire {
        v1::Wire { gradients: v1::Dtype::from(wire.gradients).into(), weights: v1::Dtype::from(wire.weights).into() }
    }
}

/// Reads how tensor data travels.
///
/// # Errors
/// `MALFORMED` without it, `WRONG_DTYPE` for a dtype that is unknown or not for this direction.
pub fn read_wire(wire: Option<v1::Wire>) -> Result<Wire, Refusal> {
    let wire = required(wire, "wire")?;
    let (gradients, weights) = (read_dtype(wire.gradients)?, read_dtype(wire.weights)?);
    if !Wire::WEIGHT_DTYPES.contains(&weights) {
        return Err(Refusal::mismatch(RefusalCause::WrongDtype, "dtype of weights", "f32 or bf16", weights));
    }
    Ok(Wire { gradients, weights })
}

// ---- membership ----

impl From<&Assignment> for v1::Assignment {
    fn from(assignment: &Assignment) -> v1::Assignment {
        v1::Assignment {
            epoch: assignment.epoch,
            from_step: assignment.from_step.0,
            nodes: assignment.nodes.iter().map(|node| (*node).into()).collect(),
            initialize: assignment.initialize,
        }
    }
}

/// Reads an assignment.
///
/// # Errors
/// `MALFORMED` without one, `MISALIGNED_SLOTS` for an empty range.
pub fn read_assignment(wire: Option<v1::Assignment>) -> Result<Assignment, Refusal> {
    let wire = required(wire, "assignment")?;
    Ok(Assignment {
        epoch: wire.epoch,
        from_step: Step(wire.from_step),
        nodes: wire.nodes.into_iter().map(|node| read_slots(Some(node))).collect::<Result<_, _>>()?,
        initialize: wire.initialize,
    })
}

impl From<Notice> for v1::Notice {
    fn from(notice: Notice) -> v1::Notice {
        use v1::notice::Notice as Wire;
        let notice = match notice {
            Notice::Assignment(assignment) => Wire::Assignment((&assignment).into()),
            Notice::Fenced(refusal) => Wire::Fenced(refusal.into()),
            Notice::Finished(step) => Wire::Finished(v1::Finished { step: step.0 }),
            Notice::Stopped(refusal) => Wire::Stopped(refusal.into()),
            Notice::Hold(after) => Wire::Hold(v1::Hold { after_step: after.map(|step| step.0) }),
            Notice::Drained => Wire::Drained(v1::Drained {}),
        };
        v1::Notice { notice: Some(notice) }
    }
}

/// Reads a notice.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_notice(wire: v1::Notice) -> Result<Notice, Refusal> {
    use v1::notice::Notice as Wire;
    Ok(match required(wire.notice, "notice")? {
        Wire::Assignment(assignment) => Notice::Assignment(read_assignment(Some(assignment))?),
        Wire::Fenced(refusal) => Notice::Fenced(refusal.into()),
        Wire::Finished(finished) => Notice::Finished(Step(finished.step)),
        Wire::Stopped(refusal) => Notice::Stopped(refusal.into()),
        Wire::Hold(hold) => Notice::Hold(hold.after_step.map(Step)),
        Wire::Drained(v1::Drained {}) => Notice::Drained,
    })
}

impl From<Order> for v1::ServerOrder {
    fn from(order: Order) -> v1::ServerOrder {
        use v1::server_order::Order as Wire;
        let order = match order {
            Order::Admit { lead, index, job_toml } => {
                Wire::Admission(v1::Admission { lead: Some((&lead).into()), server_index: index.0, job_toml })
            }
            Order::Place { manifest, placement } => {
                Wire::Place(v1::Place { manifest: Some((&manifest).into()), placement: Some((&placement).into()) })
            }
            Order::Initialize(contribution) => Wire::Initialize(contribution.into()),
            Order::Halt(refusal) => Wire::Halt(refusal.into()),
            Order::Finish(step) => Wire::Finish(v1::Finished { step: step.0 }),
            Order::Total(Total { step, stage, sums: [first, second] }) => {
                Wire::TotalSums(v1::TotalSums { step: step.0, stage, first, second })
            }
            Order::Close { step, slots } => Wire::CloseStep(v1::CloseStep { step: step.0, slots }),
            Order::Void(tickets) => {
                Wire::VoidTickets(v1::VoidTickets { tickets: tickets.into_iter().map(|ticket| ticket.0).collect() })
            }
            Order::AskMissing(step) => Wire::AskMissing(v1::AskMissing { step: step.0 }),
            Order::LastStep(step) => Wire::LastStep(v1::LastStep { step: step.0 }),
        };
        v1::ServerOrder { order: Some(order) }
    }
}

/// Reads an order.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_order(wire: v1::ServerOrder) -> Result<Order, Refusal> {
    use v1::server_order::Order as Wire;
    Ok(match required(wire.order, "order")? {
        Wire::Admission(admission) => Order::Admit {
            lead: read_hello(admission.lead)?,
            index: ServerIndex(admission.server_index),
            job_toml: admission.job_toml,
        },
        Wire::Place(place) => {
            let manifest = read_manifest(place.manifest)?;
            let placement = read_placement(place.placement, &manifest)?;
            Order::Place { manifest, placement }
        }
        Wire::Initialize(contribution) => Order::Initialize(read_contribution(contribution)?),
        Wire::Halt(refusal) => Order::Halt(refusal.into()),
        Wire::Finish(finished) => Order::Finish(Step(finished.step)),
        Wire::TotalSums(total) => {
            Order::Total(Total { step: Step(total.step), stage: total.stage, sums: [total.first, total.second] })
        }
        Wire::CloseStep(close) => Order::Close { step: Step(close.step), slots: close.slots },
        Wire::VoidTickets(void) => Order::Void(void.tickets.into_iter().map(Ticket).collect()),
        Wire::AskMissing(ask) => Order::AskMissing(Step(ask.step)),
        Wire::LastStep(last) => Order::LastStep(Step(last.step)),
    })
}

impl From<Report> for v1::ServerReport {
    fn from(report: Report) -> v1::ServerReport {
        use v1::server_report::Report as Wire;
        let report = match report {
            Report::Register { hello, address: ServerAddress { url, unix_socket }, memory_max } => {
                let memory_max = memory_max.map_or(0, NonZeroU64::get);
                Wire::Registration(v1::Registration { hello: Some((&hello).into()), url, unix_socket, memory_max })
            }
            Report::Missing(step, slots) => Wire::Missing(v1::MissingSlots {
                step: step.0,
                slots: slots.into_iter().map(v1::SlotRange::from).collect(),
            }),
            Report::LastStep(step) => Wire::LastStep(v1::LastStep { step: step.0 }),
            Report::Load(load) => Wire::Load(load.into()),
            Report::Placed(placement_version) => Wire::Placed(v1::Placed { placement_version }),
            Report::Complete(step) => Wire::StepComplete(v1::StepComplete { step: step.0 }),
            Report::Halted(refusal) => Wire::Halted(refusal.into()),
            Report::Partial(Partial { step, stage, blocks }) => {
                let sums = |(block, [first, second]): (BlockId, [f64; 2])| v1::BlockSums {
                    block: Some(block.into()),
                    first,
                    second,
                };
                Wire::PartialSums(v1::PartialSums {
                    step: step.0,
                    stage,
                    blocks: blocks.into_iter().map(sums).collect(),
                })
            }
            Report::Slots { step, slots } => Wire::SlotsComplete(v1::SlotsComplete { step: step.0, slots }),
            Report::Pushes(pushes) => Wire::Pushes(pushes.into()),
        };
        v1::ServerReport { report: Some(report) }
    }
}

/// Reads a report.
///
/// # Errors
/// A [`Refusal`] of what is malformed.
pub fn read_report(wire: v1::ServerReport) -> Result<Report, Refusal> {
    use v1::server_report::Report as Wire;
    Ok(match required(wire.report, "report")? {
        Wire::Registration(registration) => {
            let address = ServerAddress { url: registration.url, unix_socket: registration.unix_socket };
            let memory_max = NonZeroU64::new(registration.memory_max);
            Report::Register { hello: read_hello(registration.hello)?, address, memory_max }
        }
        Wire::Missing(missing) => {
            let slots = missing.slots.into_iter().map(|slots| read_slots(Some(slots))).collect::<Result<_, _>>()?;
            Report::Missing(Step(missing.step), slots)
        }
        Wire::LastStep(last) => Report::LastStep(Step(last.step)),
        Wire::Load(v1::ServerLoad { gathered_bytes, queued_work, sessions }) => {
            Report::Load(ServerLoad { gathered_bytes, queued_work, sessions })
        }
        Wire::Placed(placed) => Report::Placed(placed.placement_version),
        Wire::StepComplete(complete) => Report::Complete(Step(complete.step)),
        Wire::Halted(refusal) => Report::Halted(refusal.into()),
        Wire::PartialSums(partial) => {
            let sums = |wire: v1::BlockSums| Ok((read_block_id(wire.block)?, [wire.first, wire.second]));
            let blocks = partial.blocks.into_iter().map(sums).collect::<Result<_, Refusal>>()?;
            Report::Partial(Partial { step: Step(partial.step), stage: partial.stage, blocks })
        }
        Wire::SlotsComplete(complete) => Report::Slots { step: Step(complete.step), slots: complete.slots },
        Wire::Pushes(pushes) => Report::Pushes(pushes.into()),
    })
}

// ---- tickets ----

impl From<PushesReport> for v1::PushesReport {
    fn from(report: PushesReport) -> v1::PushesReport {
        let voided =
            |VoidedTicket { ticket, applied, missing }| v1::VoidedTicket { ticket: ticket.0, applied, missing };
        v1::PushesReport {
            done: report.done.into_iter().map(|ticket| ticket.0).collect(),
            voided: report.voided.into_iter().map(voided).collect(),
            update_staleness: report
                .update_staleness
                .into_iter()
                .map(|(staleness, updates)| v1::StalenessCount { staleness, updates })
                .collect(),
        }
    }
}

impl From<v1::PushesReport> for PushesReport {
    fn from(wire: v1::PushesReport) -> PushesReport {
        let voided =
            |v1::VoidedTicket { ticket, applied, missing }| VoidedTicket { ticket: Ticket(ticket), applied, missing };
        PushesReport {
            done: wire.done.into_iter().map(Ticket).collect(),
            voided: wire.voided.into_iter().map(voided).collect(),
            update_staleness: wire.update_staleness.into_iter().map(|count| (count.staleness, count.updates)).collect(),
        }
    }
}

impl From<TicketAnswer> for v1::TicketResponse {
    fn from(answer: TicketAnswer) -> v1::TicketResponse {
        use v1::ticket_response::Answer as Wire;
        let answer = match answer {
            TicketAnswer::Granted(ticket) => Wire::Granted(ticket.0),
            TicketAnswer::Wait => Wire::Wait(v1::TicketWait {}),
            TicketAnswer::Finished(step) => Wire::Finished(v1::Finished { step: step.0 }),
        };
        v1::TicketResponse { answer: Some(answer) }
    }
}

/// Reads the answer to a request for a ticket.
///
/// # Errors
/// `MALFORMED` for an empty one, or ticket 0.
pub fn read_ticket_answer(wire: v1::TicketResponse) -> Result<TicketAnswer, Refusal> {
    use v1::ticket_response::Answer as Wire;
    match required(wire.answer, "answer")? {
        Wire::Granted(0) => Err(Refusal::mismatch(RefusalCause::Malformed, "ticket", "from 1", 0)),
        Wire::Granted(ticket) => Ok(TicketAnswer::Granted(Ticket(ticket))),
        Wire::Wait(v1::TicketWait {}) => Ok(TicketAnswer::Wait),
        Wire::Finished(finished) => Ok(TicketAnswer::Finished(Step(finished.step))),
    }
}

impl From<ServerLoad> for v1::ServerLoad {
    fn from(load: ServerLoad) -> v1::ServerLoad {
        let ServerLoad { gathered_bytes, queued_work, sessions } = load;
        v1::ServerLoad { gathered_bytes, queued_work, sessions }
    }
}

impl From<Operation> for v1::OperateRequest {
    fn from(operation: Operation) -> v1::OperateRequest {
        use v1::operate_request::Operation as Wire;
        let operation = match operation {
            Operation::Pause => Wire::Pause(v1::Pause {}),
            Operation::Resume => Wire::Resume(v1::Resume {}),
            Operation::Drain(worker_number) => Wire::Drain(v1::Drain { worker_number }),
            Operation::Stop => Wire::Stop(v1::Stop {}),
        };
        v1::OperateRequest { operation: Some(operation) }
    }
}

/// Reads what a person does to a job.
///
/// # Errors
/// `MALFORMED` when it is nothing.
pub fn read_operation(wire: v1::OperateRequest) -> Result<Operation, Refusal> {
    use v1::operate_request::Operation as Wire;
    Ok(match required(wire.operation, "operation")? {
        Wire::Pause(v1::Pause {}) => Operation::Pause,
        Wire::Resume(v1::Resume {}) => Operation::Resume,
        Wire::Drain(drain) => Operation::Drain(drain.worker_number),
        Wire::Stop(v1::Stop {}) => Operation::Stop,
    })
}

/// Most slots a step may have.
pub const SLOTS_MAX: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contribution() -> Contribution {
        Contribution {
            block: BlockId { tensor: TensorIndex(3), index: 7 },
            generation: Generation(2),
            step: Step(11),
            slots: SlotRange { begin: 4, end: 8 },
            weight: 4.0,
            payload: Payload::Dense(Encoded::f32(&[1, 2, 3, 4][..])),
            push: None,
        }
    }

    #[test]
    fn contributions_survive_the_wire() {
        let dense = |dtype| Payload::Dense(Encoded { dtype, bytes: Bytes::from_static(&[0; 8]) });
        let [f32, bf16, i8] = [Dtype::F32, Dtype::Bf16, Dtype::I8Scaled].map(dense);
        for payload in [f32, bf16, i8, Payload::Absent, Payload::Nonfinite] {
            let sent = Contribution { payload, ..contribution() };
            assert_eq!(read_contribution(sent.clone().into()), Ok(sent));
        }
        let push = Some(Push { ticket: Ticket(5), sequence: 2 });
        let sent = Contribution { push, ..contribution() };
        assert_eq!(read_contribution(sent.clone().into()), Ok(sent));
    }

    #[test]
    fn what_is_reserved_is_refused_as_unimplemented() {
        let good = v1::Contribution::from(contribution());
        let sparse = v1::BlockId { kind: Some(v1::block_id::Kind::Sparse(v1::SparseBlock { table: 0, shard: 0 })) };
        for wire in [
            v1::Contribution { kind: v1::ContributionKind::Rows.into(), ..good.clone() },
            v1::Contribution { kind: v1::ContributionKind::Delta.into(), ..good.clone() },
            v1::Contribution { block: Some(sparse), ..good.clone() },
        ] {
            assert_eq!(read_contribution(wire).unwrap_err().cause, RefusalCause::Unimplemented);
        }
    }

    #[test]
    fn tensors_are_f32_and_weights_never_i8() {
        let tensor = v1::Tensor { dtype: v1::Dtype::Bf16.into(), ..(&Tensor::trainable("w", &[1])).into() };
        let refusal = read_manifest(Some(v1::Manifest { tensors: vec![tensor] })).unwrap_err();
        assert_eq!(refusal.cause, RefusalCause::Unimplemented);
        for gradients in [Dtype::F32, Dtype::Bf16, Dtype::I8Scaled] {
            for weights in Wire::WEIGHT_DTYPES {
                let wire = Wire { gradients, weights };
                assert_eq!(read_wire(Some((&wire).into())), Ok(wire));
            }
        }
        let wire = v1::Wire { gradients: v1::Dtype::F32.into(), weights: v1::Dtype::I8Scaled.into() };
        assert_eq!(read_wire(Some(wire)).unwrap_err().cause, RefusalCause::WrongDtype);
        assert_eq!(read_wire(Some(v1::Wire::default())).unwrap_err().cause, RefusalCause::WrongDtype);
    }

    #[test]
    fn malformed_contributions_are_refused_by_cause() {
        let good = v1::Contribution::from(contribution());
        for (wire, cause) in [
            (v1::Contribution { block: None, ..good.clone() }, RefusalCause::Malformed),
            (v1::Contribution { ticket: 1, ..good.clone() }, RefusalCause::Malformed),
            (v1::Contribution { sequence: 1, ..good.clone() }, RefusalCause::Malformed),
            (v1::Contribution { slots: None, ..good.clone() }, RefusalCause::Malformed),
            (
                v1::Contribution { slots: Some(v1::SlotRange { begin: 3, end: 3 }), ..good.clone() },
                RefusalCause::MisalignedSlots,
            ),
            (v1::Contribution { kind: 0, ..good.clone() }, RefusalCause::Malformed),
            (v1::Contribution { kind: 99, ..good.clone() }, RefusalCause::Malformed),
            (v1::Contribution { dtype: 0, ..good.clone() }, RefusalCause::WrongDtype),
            (v1::Contribution { dtype: 77, ..good.clone() }, RefusalCause::WrongDtype),
            (v1::Contribution { weight: 0.0, ..good.clone() }, RefusalCause::InvalidWeight),
            (v1::Contribution { weight: f64::NAN, ..good.clone() }, RefusalCause::InvalidWeight),
            (v1::Contribution { kind: v1::ContributionKind::Absent.into(), ..good.clone() }, RefusalCause::WrongSize),
        ] {
            assert_eq!(read_contribution(wire.clone()).unwrap_err().cause, cause, "{wire:?}");
        }
    }

    #[test]
    fn a_job_survives_the_wire() {
        let job = JobDescription {
            id: JobId("j".to_owned()),
            generation: Generation(2),
            seed: 3,
            slots: 4,
            steps: 5,
            block_elements: 64,
            combine: Combine::WeightedMean,
            consistency: Consistency { quorum: Some(3), ..Consistency::default() },
            workload_toml: "[model]".to_owned(),
            spec_revision: 6,
            optimizer_toml: "lr = 0.1".to_owned(),
            wire: Wire { gradients: Dtype::Bf16, weights: Dtype::F32 },
        };
        let bounded = Consistency { mode: Mode::Bounded, staleness: Some(0), quorum: None };
        let asynchronous = Consistency { mode: Mode::Async, ..Consistency::default() };
        for consistency in [job.consistency, bounded, asynchronous] {
            let job = JobDescription { consistency, ..job.clone() };
            assert_eq!(read_job(Some((&job).into())), Ok(job));
        }
        for (mode, quorum, staleness) in [
            (Mode::Sync, Some(5), None),
            (Mode::Sync, Some(0), None),
            (Mode::Sync, None, Some(1)),
            (Mode::Bounded, None, None),
            (Mode::Bounded, Some(4), Some(1)),
            (Mode::Async, Some(4), None),
            (Mode::Async, None, Some(1)),
        ] {
            let job = JobDescription { consistency: Consistency { mode, quorum, staleness }, ..job.clone() };
            assert_eq!(read_job(Some((&job).into())).unwrap_err().cause, RefusalCause::Malformed, "{job:?}");
        }
    }

    #[test]
    fn what_is_said_of_tickets_and_quorums_survives_the_wire() {
        let pushes = PushesReport {
            done: vec![Ticket(3), Ticket(9)],
            voided: vec![VoidedTicket { ticket: Ticket(4), applied: 2, missing: 7 }],
            update_staleness: vec![(0, 5), (3, 1)],
        };
        for report in [Report::Pushes(pushes), Report::Slots { step: Step(4), slots: vec![2, 0] }] {
            assert_eq!(read_report(report.clone().into()), Ok(report));
        }
        for order in [Order::Void(vec![Ticket(1), Ticket(8)]), Order::Close { step: Step(2), slots: vec![1, 3] }] {
            assert_eq!(read_order(order.clone().into()), Ok(order));
        }
        for answer in [TicketAnswer::Granted(Ticket(7)), TicketAnswer::Wait, TicketAnswer::Finished(Step(9))] {
            assert_eq!(read_ticket_answer(answer.into()), Ok(answer));
        }
        let nothing = v1::TicketResponse { answer: Some(v1::ticket_response::Answer::Granted(0)) };
        assert_eq!(read_ticket_answer(nothing).unwrap_err().cause, RefusalCause::Malformed);
    }

    proptest! {
        #[test]
        fn no_bytes_from_the_network_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            use prost::Message as _;
            if let Ok(wire) = v1::Contribution::decode(bytes.as_slice()) { let _ = read_contribution(wire); }
            if let Ok(wire) = v1::Manifest::decode(bytes.as_slice()) { let _ = read_manifest(Some(wire)); }
            if let Ok(wire) = v1::WeightBlock::decode(bytes.as_slice()) { let _ = read_weights(wire); }
            if let Ok(wire) = v1::JobDescription::decode(bytes.as_slice()) { let _ = read_job(Some(wire)); }
        }

        #[test]
        fn manifests_and_placements_survive_the_wire(lengths in proptest::collection::vec(1u64..50, 1..6), servers in 1u32..4) {
            let tensors = lengths.iter().enumerate().map(|(i, len)| Tensor::trainable(format!("t{i}"), &[*len as usize])).collect();
            let manifest = Manifest::new(tensors).unwrap();
            prop_assert_eq!(read_manifest(Some((&manifest).into())), Ok(manifest.clone()));
            let owners = lengths.iter().map(|len| (0..len.div_ceil(4) as u32).map(|i| vec![ServerIndex(i % servers)]).collect()).collect();
            let urls = (0..servers).map(|i| ServerAddress { url: format!("http://s{i}"), unix_socket: if i == 1 { "/s".into() } else { String::new() } }).collect();
            let placement = Placement::new(&manifest, 1, 4, urls, owners).unwrap();
            prop_assert_eq!(read_placement(Some((&placement).into()), &manifest), Ok(placement));
        }
    }
}
