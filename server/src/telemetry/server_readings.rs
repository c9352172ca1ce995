//! What a server tells: its meter's counts, its shard's standing, and the job's status on the one that leads.

use std::sync::Arc;

use super::{Exposition, Source, catalogue, job_readings};
use crate::lead::control_service::LeadPlace;
use crate::shard::ShardPlace;

/// Reads a server, whatever generation it is in.
#[derive(Debug)]
pub(crate) struct ServerReadings {
    pub(crate) place: Arc<ShardPlace>,
    pub(crate) leading: Arc<LeadPlace>,
}

impl Source for ServerReadings {
    fn tell(&self, exposition: &mut Exposition) {
        if let Ok(lead) = self.leading.get() {
            job_readings::tell(&lead, exposition);
        }
        self.tell_counts(exposition);
        self.tell_shard(exposition);
    }
}

impl ServerReadings {
    /// Of a server that has a place in a job: before that it has no name to count under.
    fn tell_counts(&self, exposition: &mut Exposition) {
        let meter = self.place.meter();
        let Some(index) = meter.index() else { return };
        let server = index.0.to_string();
        let server = server.as_str();
        for (outcome, count) in meter.outcomes() {
            exposition.counter(&catalogue::CONTRIBUTIONS, &[server, outcome], count as f64);
        }
        for (cause, count) in meter.refusals() {
            exposition.counter(&catalogue::REFUSALS, &[server, &cause.name()], count as f64);
        }
        exposition.counter(&catalogue::RECEIVED, &[server], meter.received_bytes() as f64);
        exposition.counter(&catalogue::SENT, &[server], meter.sent_bytes() as f64);
        exposition.counter(&catalogue::RECOVERIES, &[server], meter.recoveries() as f64);
        exposition.histogram(&catalogue::APPLY, &[server], &meter.applies());
        exposition.histogram(&catalogue::STEP_TIME, &[server], &meter.steps());
    }

    fn tell_shard(&self, exposition: &mut Exposition) {
        let Some(shard) = self.place.get() else { return };
        let identity = shard.identity();
        let server = identity.index.0.to_string();
        let (load, (messages, bytes)) = (shard.load(), shard.waiting_to_be_sent());
        let halted = shard.standing().borrow().halted.is_some();
        let mut gauge = |family, value: f64| exposition.gauge(family, &[server.as_str()], value);
        // Before the initialization there is no step yet, and none is told.
        if let Some(step) = shard.complete() {
            gauge(&catalogue::STEP, step.0 as f64);
        }
        gauge(&catalogue::GENERATION, identity.generation.0 as f64);
        gauge(&catalogue::HALTED, f64::from(u8::from(halted)));
        gauge(&catalogue::BLOCKS, shard.blocks() as f64);
        gauge(&catalogue::SESSIONS, f64::from(load.sessions));
        gauge(&catalogue::GATHERED, load.gathered_bytes as f64);
        gauge(&catalogue::QUEUED, load.queued_work as f64);
        gauge(&catalogue::OUTBOX_MESSAGES, messages as f64);
        gauge(&catalogue::OUTBOX_BYTES, bytes as f64);
        gauge(&catalogue::DURABLE_STEP, shard.durable().0 as f64);
    }
}
