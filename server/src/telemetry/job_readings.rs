//! What the lead tells of its job: the status that anybody may ask for, and what of it a status only summarizes.

use halflife_proto::ids::Step;
use halflife_proto::v1::{self, JobStatus, Phase, WorkerState};

use super::{Exposition, Histogram, catalogue};
use crate::lead::{Cuts, Lead};
use crate::staleness::Distribution;

/// Bounds of staleness. All are the largest value of a bucket that it is counted in, so nothing is rounded.
const STALENESS_BOUNDS: [u64; 15] = [0, 1, 2, 3, 5, 7, 11, 15, 23, 31, 63, 127, 255, 511, 1023];

const PHASES: [(Phase, &str); 8] = [
    (Phase::WaitingForServers, "waiting_for_servers"),
    (Phase::WaitingForWorkers, "waiting_for_workers"),
    (Phase::Initializing, "initializing"),
    (Phase::Training, "training"),
    (Phase::Paused, "paused"),
    (Phase::Restoring, "restoring"),
    (Phase::Finished, "finished"),
    (Phase::Stopped, "stopped"),
];

const STATES: [(WorkerState, &str); 5] = [
    (WorkerState::Active, "active"),
    (WorkerState::Spare, "spare"),
    (WorkerState::Arriving, "arriving"),
    (WorkerState::Behind, "behind"),
    (WorkerState::Drained, "drained"),
];

pub(super) fn tell(lead: &Lead, exposition: &mut Exposition) {
    let status = lead.status();
    tell_job(lead, &status, exposition);
    tell_workers(&status, exposition);
    tell_servers(&status, exposition);
    if let Some(checkpoint) = &status.checkpoint {
        tell_checkpoints(lead, checkpoint, exposition);
    }
    if let Some(quorum) = &status.quorum {
        exposition.gauge(&catalogue::QUORUM, &[], f64::from(quorum.quorum));
        exposition.counter(&catalogue::QUORUM_CLOSED, &[], quorum.closed as f64);
        exposition.counter(&catalogue::QUORUM_DROPPED, &[], quorum.dropped as f64);
    }
    if let Some(tickets) = &status.tickets {
        tell_tickets(lead, tickets, exposition);
    }
}

fn tell_job(lead: &Lead, status: &JobStatus, exposition: &mut Exposition) {
    let job = lead.description();
    exposition.gauge(&catalogue::JOB, &[&job.id.0, job.consistency.mode.name()], 1.0);
    exposition.gauge(&catalogue::JOB_STEP, &[], status.step as f64);
    exposition.gauge(&catalogue::JOB_STEPS, &[], job.steps as f64);
    exposition.gauge(&catalogue::JOB_GENERATION, &[], job.generation.0 as f64);
    exposition.gauge(&catalogue::JOB_SLOTS, &[], f64::from(job.slots));
    exposition.gauge(&catalogue::JOB_LEASE, &[], lead.spec().membership.lease_ms as f64 / 1e3);
    for (phase, name) in PHASES {
        exposition.gauge(&catalogue::JOB_PHASE, &[name], flag(status.phase() == phase));
    }
    let reproducible = status.promises.iter().all(|promise| promise.holds);
    exposition.gauge(&catalogue::JOB_REPRODUCIBLE, &[], flag(reproducible));
    for (group, lr, decay) in lead.group_factors(Step(status.step)) {
        exposition.gauge(&catalogue::JOB_LR, &[&group], lr);
        exposition.gauge(&catalogue::JOB_DECAY, &[&group], decay);
    }
}

fn tell_workers(status: &JobStatus, exposition: &mut Exposition) {
    for (state, name) in STATES {
        let count = status.workers.iter().filter(|worker| worker.state() == state).count();
        exposition.gauge(&catalogue::JOB_WORKERS, &[name], count as f64);
    }
    for worker in &status.workers {
        let number = worker.number.to_string();
        let slots: u32 = worker.nodes.iter().map(|node| node.end - node.begin).sum();
        exposition.gauge(&catalogue::WORKER_LAG, &[&number], worker.lag as f64);
        exposition.gauge(&catalogue::WORKER_HEARTBEAT, &[&number], worker.heartbeat_age_ms as f64 / 1e3);
        exposition.gauge(&catalogue::WORKER_SLOTS, &[&number], f64::from(slots));
    }
}

fn tell_servers(status: &JobStatus, exposition: &mut Exposition) {
    exposition.gauge(&catalogue::JOB_SERVERS, &[], status.servers.len() as f64);
    for server in &status.servers {
        let index = server.index.to_string();
        exposition.gauge(&catalogue::MEMORY_RESERVED, &[&index], server.memory_reserved as f64);
        exposition.gauge(&catalogue::MEMORY_MAX, &[&index], server.memory_max as f64);
        exposition.gauge(&catalogue::SERVER_WEIGHTS, &[&index], server.bytes as f64);
    }
}

fn tell_checkpoints(lead: &Lead, checkpoint: &v1::CheckpointStatus, exposition: &mut Exposition) {
    let newest = checkpoint.newest.as_ref().map_or(-1.0, |newest| newest.step as f64);
    exposition.gauge(&catalogue::CHECKPOINT_STEP, &[], newest);
    let committed_at = lead.read(|state| state.cuts().map(Cuts::told).and_then(|told| told.committed_at));
    let age = lead.age().saturating_sub(committed_at.unwrap_or_default());
    exposition.gauge(&catalogue::CHECKPOINT_AGE, &[], age.as_secs_f64());
    exposition.gauge(&catalogue::CHECKPOINT_TIME, &[], checkpoint.took_ms as f64 / 1e3);
    exposition.gauge(&catalogue::CHECKPOINT_PAUSE, &[], checkpoint.pause_ms as f64 / 1e3);
    exposition.gauge(&catalogue::CHECKPOINT_UNDER_WAY, &[], flag(checkpoint.under_way.is_some()));
    exposition.counter(&catalogue::CHECKPOINTS, &["committed"], checkpoint.committed as f64);
    exposition.counter(&catalogue::CHECKPOINTS, &["failed"], checkpoint.failed as f64);
}

fn tell_tickets(lead: &Lead, tickets: &v1::TicketStatus, exposition: &mut Exposition) {
    for (state, count) in [("granted", tickets.granted), ("done", tickets.done), ("void", tickets.voided)] {
        exposition.counter(&catalogue::TICKETS, &[state], count as f64);
    }
    exposition.counter(&catalogue::TORN, &[], tickets.torn as f64);
    let staleness = lead.read(|state| {
        let tickets = state.tickets()?;
        Some((tickets.clock_staleness().clone(), tickets.update_staleness().clone()))
    });
    if let Some((clock, update)) = staleness {
        exposition.histogram(&catalogue::CLOCK_STALENESS, &[], &histogram(&clock));
        exposition.histogram(&catalogue::UPDATE_STALENESS, &[], &histogram(&update));
    }
}

fn histogram(values: &Distribution) -> Histogram {
    let cumulative = STALENESS_BOUNDS.map(|bound| (bound as f64, values.count_at_most(bound))).to_vec();
    Histogram { cumulative, count: values.count(), sum: values.sum() }
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness_is_told_as_it_was_counted() {
        let mut values = Distribution::default();
        (0..2000).for_each(|value| values.add(value, 1));
        let told = histogram(&values);
        for (bound, count) in told.cumulative {
            assert_eq!(count as f64, bound + 1.0);
        }
        assert_eq!((told.count, told.sum), (2000, 1999.0 * 1000.0));
    }
}
