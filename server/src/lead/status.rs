//! The job's status as the contract shows it.

use std::time::Duration;

use halflife_proto::v1;

use super::state::{LeadState, Phase, Worker};
use super::{Cuts, Keeper, Lead, Told};
use crate::config::JobSpec;
use halflife_proto::ids::Step;

/// How the job stands.
pub(super) fn of(lead: &Lead) -> v1::JobStatus {
    let job = Some((&lead.description()).into());
    lead.read(|state| {
        let (phase, note) = phase(state);
        let (lr, decay) = lead.factors(state);
        v1::JobStatus {
            job,
            phase: phase.into(),
            step: state.complete_step().map_or(0, |step| step.0),
            lr,
            decay,
            workers: workers(state, lead.started.elapsed()),
            servers: servers(state),
            promises: vec![bit_reproducibility(state, lead.spec())],
            note,
            hold: state.hold().map(|step| step.0),
            checkpoint: state.cuts().map(|cuts| checkpoint(lead, cuts)),
            quorum: state.quorum().map(Into::into),
            tickets: state.tickets().map(Into::into),
        }
    })
}

fn phase(state: &LeadState) -> (v1::Phase, String) {
    let nobody = state.workers().is_empty();
    match state.phase() {
        Phase::WaitingForServers => {
            let here = state.servers().iter().flatten().count();
            (v1::Phase::WaitingForServers, format!("{here} of {} servers are here", state.servers().len()))
        }
        Phase::Restoring => (v1::Phase::Restoring, "the servers read the last checkpoint".to_owned()),
        Phase::WaitingForWorkers => (v1::Phase::WaitingForWorkers, "waiting for a worker to show its model".to_owned()),
        Phase::Initializing => (v1::Phase::Initializing, "waiting for the first weights".to_owned()),
        Phase::Training if state.ends_early() => (v1::Phase::Training, "the operator ends the job".to_owned()),
        Phase::Training if state.awaits_first_checkpoint() => {
            (v1::Phase::Training, "the first checkpoint is written before the first step".to_owned())
        }
        Phase::Training if nobody => (v1::Phase::Training, "no workers: the job waits".to_owned()),
        Phase::Training => (v1::Phase::Training, String::new()),
        Phase::Paused => (v1::Phase::Paused, "paused by the operator".to_owned()),
        Phase::Finished => (v1::Phase::Finished, String::new()),
        Phase::Stopped(refusal) => (v1::Phase::Stopped, refusal.to_string()),
    }
}

fn checkpoint(lead: &Lead, cuts: &Cuts) -> v1::CheckpointStatus {
    let Told { committed, failed, error, took, pause, .. } = cuts.told().clone();
    let restored = lead.keeper().and_then(Keeper::restored);
    let of_this = |step: Step| v1::CheckpointId { step: step.0, generation: lead.identity().generation.0 };
    v1::CheckpointStatus {
        // Before the first of this generation, the newest is the one it began with.
        newest: match committed {
            0 => restored.map(Into::into),
            _ => cuts.durable().map(of_this),
        },
        under_way: cuts.under_way().map(|step| step.0),
        committed,
        failed,
        error,
        pause_ms: pause.as_millis() as u64,
        took_ms: took.as_millis() as u64,
        restored: restored.map(Into::into),
    }
}

fn workers(state: &LeadState, now: Duration) -> Vec<v1::WorkerStatus> {
    let mut workers: Vec<_> = state
        .workers()
        .iter()
        .map(|(incarnation, worker)| v1::WorkerStatus {
            number: worker.number,
            incarnation: incarnation.0,
            step: worker.step.0,
            nodes: worker.assignment().nodes.iter().map(|node| (*node).into()).collect(),
            heartbeat_age_ms: now.saturating_sub(worker.heard_at).as_millis() as u64,
            fingerprint: Some((&worker.fingerprint).into()),
            state: standing(worker, state.tickets().is_some()).into(),
            lag: worker.lag,
            unreachable: worker.unreachable.iter().map(|server| server.0).collect(),
        })
        .collect();
    workers.sort_by_key(|worker| worker.number);
    workers
}

/// With tickets nobody owns slots, and nobody is a spare.
fn standing(worker: &Worker, tickets: bool) -> v1::WorkerState {
    match worker.behind {
        _ if worker.drained => v1::WorkerState::Drained,
        _ if worker.arriving => v1::WorkerState::Arriving,
        Some(_) => v1::WorkerState::Behind,
        None if worker.assignment().nodes.is_empty() && !tickets => v1::WorkerState::Spare,
        None => v1::WorkerState::Active,
    }
}

fn servers(state: &LeadState) -> Vec<v1::ServerStatus> {
    let present = state.servers().iter().enumerate().filter_map(|(index, server)| Some((index, server.as_ref()?)));
    present
        .map(|(index, server)| {
            let holding = state.holdings().get(index).copied().unwrap_or_default();
            v1::ServerStatus {
                index: index as u32,
                url: server.address.url.clone(),
                blocks: holding.blocks,
                bytes: size_of::<f32>() as u64 * holding.elements,
                step: state.tickets().map_or(server.complete.unwrap_or_default(), |tickets| tickets.settled()).0,
                load: Some(server.load.into()),
                memory_max: server.memory_max.map_or(0, std::num::NonZeroU64::get),
                memory_reserved: state.reserved_bytes(holding),
            }
        })
        .collect()
}

fn bit_reproducibility(state: &LeadState, spec: &JobSpec) -> v1::PromiseStatus {
    let mut fingerprints = state.workers().values().map(|worker| &worker.fingerprint);
    let first = fingerprints.next();
    let other = fingerprints.find(|fingerprint| Some(*fingerprint) != first);
    let consistency = spec.job.consistency().why_not_reproducible(spec.job.slots);
    let why = match (consistency.or(spec.wire.why_not_reproducible()), first, other) {
        (Some(why), ..) => why.to_owned(),
        (None, Some(first), Some(other)) => format!("workers differ: {first} / {other}"),
        _ => String::new(),
    };
    v1::PromiseStatus { name: "P2 bit-reproducible".to_owned(), holds: why.is_empty(), why }
}
