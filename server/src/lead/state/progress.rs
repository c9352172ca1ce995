//! Workers that live but hold the job up: whose slots are somebody else's too, and until when. And those that
//! have just joined: they get slots once they can compute.

use std::collections::BTreeSet;
use std::time::Duration;

use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::membership::Order;
use halflife_proto::slots::SlotRange;

use super::{Effect, LeadState, Worker};
use crate::planted::{Bug, planted};

/// Most doublings of the time that a worker stands back for having held a step up.
const DOUBLINGS_MAX: u32 = 6;

/// A worker that stands back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// It gets no slots before.
    pub until: Duration,
}

impl Worker {
    /// Whether it may have slots.
    pub(super) fn is_eligible(&self) -> bool {
        self.behind.is_none() && !self.arriving && !self.drained
    }

    /// It stands back or arrives no longer.
    pub(super) fn take_part(&mut self) {
        (self.behind, self.arriving) = (None, false);
    }

    fn has_arrived(&self) -> bool {
        self.arriving && self.ready && self.unreachable.is_empty()
    }

    fn has_caught_up(&self, now: Duration) -> bool {
        self.behind.is_some_and(|behind| behind.until <= now) && self.follows && self.unreachable.is_empty()
    }

    /// Whether it is to compute one of these slots of `step`.
    fn owes(&self, step: Step, slots: &[SlotRange]) -> bool {
        let overlaps = |node: &SlotRange| slots.iter().any(|slots| slots.begin < node.end && node.begin < slots.end);
        self.nodes_at(step).iter().any(overlaps)
    }
}

impl LeadState {
    /// Part of a tick: looks for workers that hold the job up, and for those that have caught up.
    pub(super) fn watch_progress(&mut self, now: Duration) -> Vec<Effect> {
        let complete = self.complete_step();
        let under_way = complete.map_or(Step::ZERO, Step::next);
        // Also while the first, or the last, checkpoint is made: nobody owes a step then.
        let is_over = self.finished || self.stopped.is_some() || complete >= Some(self.settings.steps);
        let rests = is_over || self.rest_after().is_some_and(|rest| rest < under_way);
        // With tickets nobody holds the others' steps up but as the bound says, and no slots can move.
        let nothing_to_move = self.tickets().is_some() && complete.is_some();
        if rests || nothing_to_move || self.workers.is_empty() || !self.all_placed() {
            self.watch.restart();
            return Vec::new();
        }
        let mut effects = self.stand_back_the_cut_off(now);
        effects.extend(self.readmit(now, under_way));
        if !self.watch.is_overdue(now, complete, self.settings.lease) || planted(Bug::NoProgressWatch) {
            return effects;
        }
        match complete {
            Some(_) => {
                self.missing_asked = Some(under_way);
                effects.extend(self.order_all(&Order::AskMissing(under_way)));
            }
            // Nobody but the initializer can be what the job waits for.
            None => {
                let initializer = self.workers.iter().find(|(_, worker)| worker.assignment().initialize);
                let slow: Vec<Incarnation> = initializer.map(|(incarnation, _)| *incarnation).into_iter().collect();
                effects.extend(self.stand_back(&slow, now, "does not send the first weights"));
            }
        }
        effects
    }

    /// Slots that a server lacks of a step that is overdue.
    pub fn missing(&mut self, now: Duration, step: Step, slots: &[SlotRange]) -> Vec<Effect> {
        if self.missing_asked != Some(step) || self.complete_step().map(Step::next) != Some(step) || slots.is_empty() {
            return Vec::new();
        }
        let eligible = self.workers.iter().filter(|(_, worker)| worker.is_eligible());
        let slow: Vec<Incarnation> =
            eligible.filter(|(_, worker)| worker.owes(step, slots)).map(|(incarnation, _)| *incarnation).collect();
        let effects = self.stand_back(&slow, now, &format!("holds {step} up"));
        if !effects.is_empty() {
            // What the other servers lack is the new owners' to send.
            self.missing_asked = None;
        }
        effects
    }

    /// Gives the slots of these workers to others as well, unless there is nobody else: everybody slow is
    /// nobody slow.
    fn stand_back(&mut self, slow: &[Incarnation], now: Duration, why: &str) -> Vec<Effect> {
        let others =
            self.workers.iter().any(|(incarnation, worker)| worker.is_eligible() && !slow.contains(incarnation));
        if slow.is_empty() || !(others || self.take_back()) {
            return Vec::new();
        }
        let lease = self.settings.lease;
        let mut effects = Vec::new();
        for incarnation in slow {
            let Some(worker) = self.workers.get_mut(incarnation) else { continue };
            let pause = lease * 2u32.pow(worker.stalls.min(DOUBLINGS_MAX));
            worker.stalls += 1;
            worker.behind = Some(Behind { until: now + pause });
            effects.push(Effect::Warn(format!("worker {} {why}; its slots are others' too", worker.number)));
        }
        effects.extend(self.reassign(Step::ZERO, None));
        effects
    }

    /// Gives those that stand back or arrive their share where the job has nobody else, however far they are: one that
    /// has missed a version pulls it once there is work at it, and would otherwise wait for the step that waits for
    /// it. Whether there was any.
    fn take_back(&mut self) -> bool {
        let able = |worker: &&mut Worker| {
            (worker.behind.is_some() || worker.arriving) && !worker.drained && worker.unreachable.is_empty()
        };
        let taken = self.workers.values_mut().filter(able);
        taken.map(Worker::take_part).count() > 0
    }

    /// A worker that cannot reach a server cannot finish a step, however alive it is.
    fn stand_back_the_cut_off(&mut self, now: Duration) -> Vec<Effect> {
        let cut_off = |worker: &Worker| worker.is_eligible() && !worker.unreachable.is_empty();
        if !self.workers.values().any(cut_off) {
            return Vec::new();
        }
        let (slow, lost): (Vec<Incarnation>, Vec<&Vec<ServerIndex>>) = self
            .workers
            .iter()
            .filter(|(_, worker)| cut_off(worker))
            .map(|(incarnation, worker)| (*incarnation, &worker.unreachable))
            .unzip();
        let lost: BTreeSet<&ServerIndex> = lost.into_iter().flatten().collect();
        let names: Vec<String> = lost.into_iter().map(ToString::to_string).collect();
        self.stand_back(&slow, now, &format!("cannot reach {}", names.join(", ")))
    }

    /// Workers that have caught up or arrived share in a later step.
    fn readmit(&mut self, now: Duration, under_way: Step) -> Vec<Effect> {
        let mut any = false;
        for worker in self.workers.values_mut().filter(|worker| worker.has_caught_up(now) || worker.has_arrived()) {
            worker.take_part();
            any = true;
        }
        match any {
            true => self.reassign(under_way.next(), None),
            false => Vec::new(),
        }
    }
}
