//! What a person does to a job: pause, resume, drain, stop.
//!
//! A pause is advice to the workers, like an assignment: they start no step beyond the hold, and whatever
//! they have sent already counts. A stop agrees with the servers on the last step: each refuses what goes
//! beyond it, so that all end at the same one.

use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::membership::{Operation, Order};
use halflife_proto::refusal::{Refusal, RefusalCause};

use super::{Effect, LeadState};

/// Agreeing on an early end.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// The last step, unless a server is past it.
    pub(super) step: Step,
    /// By server: whether it has agreed to that.
    agreed: Vec<bool>,
}

impl LeadState {
    /// Acts on the job. Gives the step that the answer names: after a pause the one the job rests after.
    ///
    /// # Errors
    /// `JOB_STOPPED` after the end; `MALFORMED` for a worker that is none.
    pub fn operate(&mut self, operation: Operation) -> (Result<Step, Refusal>, Vec<Effect>) {
        if let Err(refusal) = self.check_not_stopped() {
            return (Err(refusal), Vec::new());
        }
        let under_way = self.complete_step().map_or(Step::ZERO, Step::next);
        match operation {
            Operation::Pause => {
                let hold = *self.hold.get_or_insert(under_way);
                let mut effects = vec![Effect::HoldChanged];
                effects.extend(self.cut_before(hold));
                (Ok(hold), effects)
            }
            Operation::Resume => {
                self.hold = None;
                (Ok(under_way), vec![Effect::HoldChanged])
            }
            Operation::Drain(number) => self.drain(number, under_way),
            Operation::Stop => (Ok(under_way), self.end_early()),
            Operation::Checkpoint => self.ask_for_checkpoint(),
        }
    }

    fn drain(&mut self, number: u32, under_way: Step) -> (Result<Step, Refusal>, Vec<Effect>) {
        let Some(worker) = self.workers.values_mut().find(|worker| worker.number == number) else {
            let mut numbers: Vec<u32> = self.workers.values().map(|worker| worker.number).collect();
            numbers.sort_unstable();
            let expected = format!("one of the workers {numbers:?}");
            return (Err(Refusal::mismatch(RefusalCause::Malformed, "worker to drain", expected, number)), Vec::new());
        };
        if std::mem::replace(&mut worker.drained, true) {
            return (Ok(under_way), Vec::new());
        }
        (Ok(under_way), self.reassign(Step::ZERO, None))
    }

    fn end_early(&mut self) -> Vec<Effect> {
        if self.finished || self.ending.is_some() {
            return Vec::new();
        }
        self.hold = None;
        let Some(complete) = self.complete_step().filter(|_| self.model.is_some()) else {
            // Nothing has been trained: whoever waits is sent home.
            let refusal = Refusal::new(RefusalCause::JobStopped, "stopped by its operator before the first step");
            let mut effects = self.stop(refusal);
            effects.extend(self.order_all(&Order::Finish(Step::ZERO)));
            return effects;
        };
        if let Some((step, effects)) = self.end_tickets() {
            // What the servers have taken of it is settled ticket by ticket: there is nothing to agree on.
            self.ending = Some(Ending { step, agreed: vec![true; self.servers.len()] });
            return effects;
        }
        // Without workers nothing more is completed.
        let step = if self.workers.is_empty() { complete } else { complete.next() };
        // What is closed is computed, whoever is there.
        let step = step.max(self.quorum().map_or(Step::ZERO, |quorum| Step(quorum.closed())));
        self.ask_to_end(step.min(self.settings.steps))
    }

    fn ask_to_end(&mut self, step: Step) -> Vec<Effect> {
        self.ending = Some(Ending { step, agreed: vec![false; self.servers.len()] });
        self.order_all(&Order::LastStep(step))
    }

    /// A server will end with this step: the one it was asked for, or a later one.
    pub fn last_step(&mut self, index: ServerIndex, step: Step) -> Vec<Effect> {
        let Some(ending) = &mut self.ending else { return Vec::new() };
        if step > ending.step {
            return self.ask_to_end(step);
        }
        let Some(agreed) = ending.agreed.get_mut(index.0 as usize).filter(|_| step == ending.step) else {
            return Vec::new(); // the answer to an earlier question
        };
        *agreed = true;
        if !ending.agreed.iter().all(|agreed| *agreed) {
            return Vec::new();
        }
        let last = ending.step;
        let mut effects = vec![Effect::Warn(format!("the operator ends the job with {last}"))];
        effects.extend(self.shorten(last));
        effects.extend(self.finish_if_complete());
        effects
    }

    /// Whether the job was asked to end before its time.
    #[must_use]
    pub fn ends_early(&self) -> bool {
        self.ending.is_some()
    }

    /// The step after which the job rests, if it was asked to: a later one than it was asked for where workers had begun
    /// that before they heard.
    #[must_use]
    pub fn hold(&self) -> Option<Step> {
        self.hold.max(self.hold.and(self.complete_step()))
    }

    /// Whether this worker was asked to leave.
    #[must_use]
    pub fn is_drained(&self, incarnation: Incarnation) -> bool {
        self.workers.get(&incarnation).is_some_and(|worker| worker.drained)
    }
}
