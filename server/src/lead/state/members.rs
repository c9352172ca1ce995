//! Workers come, live, leave and die; who computes which slots.

use std::time::Duration;

use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::{Assignment, Notice};
use halflife_proto::refusal::{Refusal, RefusalCause};

use super::{Effect, Heard, Joined, LeadState, Worker};
use crate::lead::assignment::split_slots;
use crate::planted::{Bug, planted};

impl LeadState {
    /// A worker joins, or asks again with the same incarnation.
    ///
    /// # Errors
    /// `NOT_READY` while servers are missing or place their blocks, `MANIFEST_MISMATCH` with the
    /// differences, `OUT_OF_MEMORY` when a server could not hold what one more worker may send,
    /// `JOB_STOPPED` after the end.
    pub fn join(
        &mut self,
        now: Duration,
        incarnation: Incarnation,
        fingerprint: Fingerprint,
        manifest: Manifest,
    ) -> (Result<Joined, Refusal>, Vec<Effect>) {
        if let Err(refusal) = self.check_not_stopped() {
            return (Err(refusal), Vec::new());
        }
        let (placement, mut effects) = match self.admit_model(manifest) {
            (Ok(placement), effects) => (placement, effects),
            (Err(refusal), effects) => return (Err(refusal), effects),
        };
        if !self.workers.contains_key(&incarnation) {
            if let Err(refusal) = self.check_memory(self.workers.len() + 1) {
                return (Err(refusal), effects);
            }
            effects.extend(self.warn_of_mixed_fingerprints(&fingerprint));
            let number = self.workers_joined;
            self.workers_joined += 1;
            self.alone_since = None;
            let complete = self.complete_step();
            // Nobody waits for whoever joins while others train, before it shows that it can compute: one that
            // never comes so far must cost nobody a lease.
            let others_train = complete.is_some() && self.workers.values().any(Worker::is_eligible);
            let arriving = others_train && self.tickets().is_none();
            let worker = Worker {
                number,
                fingerprint,
                step: Step::ZERO,
                heard_at: now,
                lag: 0,
                under_way_then: Step::ZERO,
                follows: true,
                ready: false,
                assignments: Vec::new(),
                unreachable: Vec::new(),
                arriving,
                behind: None,
                drained: false,
                stalls: 0,
            };
            self.workers.insert(incarnation, worker);
            self.admit_to_tickets(incarnation);
            if arriving {
                self.assign_nothing(incarnation);
            } else {
                let late = complete.filter(|_| planted(Bug::JoinerBeginsLate));
                let from_step = late.map_or(Step::ZERO, |complete| complete.next().next());
                effects.extend(self.reassign(from_step, Some(incarnation)));
            }
        }
        let worker = &self.workers[&incarnation];
        let joined = Joined {
            number: worker.number,
            placement,
            // The oldest that still matters; the newer ones follow as notices.
            assignment: worker.assignments[0].clone(),
            step: self.complete_step(),
        };
        (Ok(joined), effects)
    }

    /// A worker is alive; `ready`: it has the weights, of whatever step, and can compute.
    ///
    /// # Errors
    /// `FENCED` for a worker that is not, or no longer, a member.
    pub fn heartbeat(
        &mut self,
        now: Duration,
        incarnation: Incarnation,
        step: Step,
        unreachable: Vec<ServerIndex>,
        ready: bool,
    ) -> Result<(), Refusal> {
        let under_way = self.complete_step().map_or(Step::ZERO, Step::next);
        let Some(worker) = self.workers.get_mut(&incarnation) else {
            if planted(Bug::FencedHeartbeatAccepted) {
                return Ok(());
            }
            let lease_ms = self.settings.lease.as_millis();
            let message = format!("{incarnation} is no member: it never joined, or was silent for over {lease_ms} ms");
            return Err(Refusal::new(RefusalCause::Fenced, message));
        };
        worker.heard_at = now;
        worker.step = worker.step.max(step);
        worker.lag = under_way.0.saturating_sub(worker.step.0);
        // Many steps may pass between two heartbeats, so that nobody is ever seen at the one under way.
        worker.follows = worker.step >= std::mem::replace(&mut worker.under_way_then, under_way);
        worker.unreachable = unreachable;
        worker.ready |= ready;
        Ok(())
    }

    /// What a worker must still be told, in order. Whoever asks again with the same `heard` gets it
    /// again: nothing is lost with a connection, and nothing piles up for one that does not read.
    #[must_use]
    pub fn notices(&self, incarnation: Incarnation, heard: &mut Heard) -> Vec<Notice> {
        let Some(worker) = self.workers.get(&incarnation) else {
            let lease_ms = self.settings.lease.as_millis();
            let message = format!("{incarnation} is no member any more: it left, or was silent for over {lease_ms} ms");
            return vec![Notice::Fenced(Refusal::new(RefusalCause::Fenced, message))];
        };
        if let Some(why) = &self.recovering {
            let message = format!("{why}: the job goes back to its last checkpoint");
            return vec![Notice::Fenced(Refusal::new(RefusalCause::Fenced, message))];
        }
        let untold = worker.assignments.iter().filter(|assignment| assignment.epoch > heard.epoch);
        let mut notices: Vec<Notice> = untold.cloned().map(Notice::Assignment).collect();
        heard.epoch = worker.assignment().epoch;
        let rest = self.rest_after();
        if std::mem::replace(&mut heard.hold, rest) != rest {
            notices.push(Notice::Hold(rest));
        }
        if self.is_drained(incarnation) && !std::mem::replace(&mut heard.drained, true) {
            notices.push(Notice::Drained);
        }
        if self.finished && !std::mem::replace(&mut heard.finished, true) {
            notices.push(Notice::Finished(self.settings.steps));
        }
        notices.extend(self.stopped.clone().map(Notice::Stopped));
        notices
    }

    /// A worker goes; its slots move at once.
    pub fn leave(&mut self, incarnation: Incarnation) -> Vec<Effect> {
        let Some(worker) = self.workers.remove(&incarnation) else { return Vec::new() };
        let mut effects = self.void_tickets_of(incarnation);
        if !worker.arriving {
            effects.extend(self.reassign(Step::ZERO, None));
        }
        effects.extend(self.cut_where_all_left());
        effects.extend(self.finish_when_all_left());
        effects
    }

    /// Time has passed: workers that were silent for a lease are taken for dead.
    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let lease = self.settings.lease;
        let is_dead = |_: &Incarnation, worker: &mut Worker| {
            now.saturating_sub(worker.heard_at) > lease && !planted(Bug::MissingFence)
        };
        let dead: Vec<(Incarnation, Worker)> = self.workers.extract_if(.., is_dead).collect();
        let mut effects = Vec::new();
        for (incarnation, worker) in &dead {
            let (number, lease_ms) = (worker.number, lease.as_millis());
            let message = match worker.arriving {
                true => format!("worker {number} was silent for over {lease_ms} ms before it was ready"),
                false => format!("worker {number} was silent for over {lease_ms} ms; its slots move to the others"),
            };
            effects.push(Effect::Warn(message.clone()));
            effects.push(Effect::Notify(*incarnation, Notice::Fenced(Refusal::new(RefusalCause::Fenced, message))));
            effects.extend(self.void_tickets_of(*incarnation));
        }
        if dead.iter().any(|(_, worker)| !worker.arriving) && !planted(Bug::SlotsNotMoved) {
            effects.extend(self.reassign(Step::ZERO, None));
        }
        if !dead.is_empty() {
            effects.extend(self.cut_where_all_left());
        }
        effects.extend(self.finish_when_all_left());
        effects.extend(self.watch_progress(now));
        effects.extend(self.form_without_missing(now));
        effects
    }

    /// Shares the slots among the living. `joiner` learns its share from the answer to its join.
    pub(super) fn reassign(&mut self, from_step: Step, joiner: Option<Incarnation>) -> Vec<Effect> {
        self.epoch += 1;
        let complete = self.complete_step();
        let under_way = complete.map_or(Step::ZERO, Step::next);
        let mut moved = false;
        let (initialized, restored) = (complete.is_some(), self.is_restored());
        // Where everybody stands back or arrives, nobody does: whoever has slots is watched, or one that is cut off could
        // keep the step under way for good.
        if !self.workers.values().any(Worker::is_eligible) {
            self.workers.values_mut().for_each(Worker::take_part);
        }
        let mut by_number: Vec<(&Incarnation, &mut Worker)> = self.workers.iter_mut().collect();
        by_number.sort_by_key(|(_, worker)| worker.number);
        let sharing = by_number.iter().filter(|(_, worker)| worker.is_eligible()).count();
        let shares = match self.settings.consistency.mode.has_tickets() {
            // Nobody owns slots: a ticket is all slots of its step.
            true => Vec::new(),
            false => split_slots(self.settings.slots, sharing),
        };
        let mut shares = shares.into_iter();
        let mut initializer = !initialized && self.settings.initial_tensors.is_none() && !restored;
        let mut effects = Vec::new();
        for (incarnation, worker) in by_number {
            let shares_in = worker.is_eligible();
            let nodes = if shares_in { shares.next().unwrap_or_default() } else { Vec::new() };
            let initialize = shares_in && std::mem::take(&mut initializer);
            let assignment = Assignment { epoch: self.epoch, from_step, nodes, initialize };
            let before = worker.nodes_at(under_way).to_vec();
            worker.assign(assignment.clone(), complete);
            moved |= worker.nodes_at(under_way) != before;
            if Some(*incarnation) != joiner {
                effects.push(Effect::Notify(*incarnation, Notice::Assignment(assignment)));
            }
        }
        // Whoever computes the step under way from now on gets time for it. A spare's coming and going moves nothing
        // and must not be an excuse for who holds the step up.
        if moved || !initialized {
            self.watch.restart();
            self.missing_asked = None;
        }
        effects
    }

    /// A worker that takes part in none of the assignments made so far.
    fn assign_nothing(&mut self, incarnation: Incarnation) {
        let (epoch, complete) = (self.epoch, self.complete_step());
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            let nothing = Assignment { epoch, from_step: Step::ZERO, nodes: Vec::new(), initialize: false };
            worker.assign(nothing, complete);
        }
    }

    fn warn_of_mixed_fingerprints(&self, joining: &Fingerprint) -> Vec<Effect> {
        let other = self.workers.values().find(|worker| worker.fingerprint != *joining);
        other
            .map(|worker| {
                Effect::Warn(format!(
                    "workers differ ({} / {joining}): the trained bits may depend on who computes what (promise P2 is off)",
                    worker.fingerprint
                ))
            })
            .into_iter()
            .collect()
    }
}
