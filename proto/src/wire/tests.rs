//! What survives the wire, and what is refused.

use super::*;
use crate::blocks::BlockId;
use crate::contribution::{Contribution, Payload, Push};
use crate::ids::{Generation, JobId, ServerIndex, Step, TensorIndex, Ticket};
use crate::job::{Combine, Consistency, JobDescription, Mode, Wire};
use crate::manifest::{Dtype, Manifest, Tensor};
use crate::membership::{
    CheckpointName, CheckpointPlan, Order, PushesReport, Report, SavedFile, TicketAnswer, VoidedTicket,
};
use crate::placement::{Placement, ServerAddress};
use crate::refusal::RefusalCause;
use crate::slots::SlotRange;
use crate::tensor_codec::Encoded;
use crate::v1;
use bytes::Bytes;
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
        keeps_checkpoints: true,
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

#[test]
fn what_is_said_of_checkpoints_survives_the_wire() {
    let manifest = Manifest::new(vec![Tensor::trainable("w", &[3])]).unwrap();
    let owners = vec![vec![vec![ServerIndex(0)]]];
    let placement = Placement::new(&manifest, 1, 4, vec!["http://s".into()], owners).unwrap();
    let name = CheckpointName { step: Step(40), generation: Generation(2) };
    let plans = [None, Some(name)].map(|restore| Some(CheckpointPlan { nonce: "n".to_owned(), restore }));
    for checkpoint in plans.into_iter().chain([None]) {
        let order = Order::Place { manifest: manifest.clone(), placement: placement.clone(), checkpoint };
        assert_eq!(read_order(order.clone().into()), Ok(order));
    }
    for order in [Order::Cut(Step(3)), Order::Durable(Step(2))] {
        assert_eq!(read_order(order.clone().into()), Ok(order));
    }
    let file = SavedFile { bytes: 9, header_bytes: 4, header_blake3: [1; 32], index_blake3: [2; 32] };
    for report in [
        Report::CutPassed { step: Step(3), newest: Step(5) },
        Report::CutTaken(Step(3)),
        Report::Saved(Step(3), file),
        Report::SaveFailed(Step(3), "no space".to_owned()),
    ] {
        assert_eq!(read_report(report.clone().into()), Ok(report));
    }
    let mut wire = v1::ServerReport::from(Report::Saved(Step(3), file));
    if let Some(v1::server_report::Report::Saved(saved)) = &mut wire.report {
        saved.index_blake3 = Bytes::from_static(b"short");
    }
    assert_eq!(read_report(wire).unwrap_err().cause, RefusalCause::Malformed);
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
