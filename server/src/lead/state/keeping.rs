//! Checkpoints of a job: what servers say of them, and going back to one. When they are made is `lead/cuts.rs`.

use std::time::Duration;

use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::{CheckpointPlan, Order, SavedFile};
use halflife_proto::refusal::{Refusal, RefusalCause};

use super::{Effect, LeadState, Phase, Written};
use crate::lead::cuts::Cuts;
use crate::lead::tickets::Tickets;
use crate::planted::{Bug, planted};

/// How a job keeps checkpoints, and which one it begins with.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// Steps from one checkpoint to the next.
    pub every: u64,
    /// What servers must know.
    pub plan: CheckpointPlan,
    /// What the checkpoint says of the job that `plan` restores.
    pub restored: Option<Restored>,
}

/// What a checkpoint says of the job.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The model.
    pub model: Manifest,
    /// In the asynchronous modes: tickets up to its step that were void,
    pub voided: u64,
    /// and torn.
    pub torn: u64,
}

impl Keeping {
    pub(super) fn cuts(&self, steps: Step) -> Cuts {
        Cuts::new(self.every, steps, self.plan.restore.map(|name| name.step))
    }

    /// The step up to which tickets are settled in the beginning, with how many of them were void and torn.
    pub(super) fn settled_tickets(&self) -> Option<(Step, u64, u64)> {
        let Restored { voided, torn, .. } = self.restored.as_ref()?;
        Some((self.plan.restore?.step, *voided, *torn))
    }
}

impl LeadState {
    /// The time now. Whoever does not say it only gets times of checkpoints that are too short.
    pub fn clock(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Whether the job began with a checkpoint.
    pub(super) fn is_restored(&self) -> bool {
        self.settings.checkpoints.as_ref().is_some_and(|keeping| keeping.restored.is_some())
    }

    /// Whether no step was left in the checkpoint that the job began with.
    pub(super) fn began_at_its_end(&self) -> bool {
        let restore = self.settings.checkpoints.as_ref().and_then(|keeping| keeping.plan.restore);
        restore.is_some_and(|name| name.step >= self.settings.steps)
    }

    /// Whether the servers still read it, or are about to read another.
    pub(super) fn is_restoring(&self) -> bool {
        self.recovering.is_some() || (self.is_restored() && self.complete_step().is_none())
    }

    /// Once every server of a job that begins with a checkpoint is here, each gets its blocks: nobody has to show the model.
    pub fn restore_once_complete(&mut self) -> Vec<Effect> {
        let restored = self.settings.checkpoints.as_ref().and_then(|keeping| keeping.restored.as_ref());
        let Some(Restored { model, .. }) = restored.filter(|_| self.model.is_none()) else { return Vec::new() };
        if self.servers.iter().any(Option::is_none) {
            return Vec::new();
        }
        let model = model.clone();
        // What was placed once may be too much for these servers.
        self.place(model).unwrap_or_else(|refusal| self.stop(refusal))
    }

    // ---- cuts ----

    /// Orders a cut if one is due.
    pub(super) fn look_for_cut(&mut self) -> Vec<Effect> {
        if self.stopped.is_some() || self.recovering.is_some() || !self.all_placed() {
            return Vec::new();
        }
        let (now, complete) = (self.now, self.complete_step());
        if self.is_restored() && complete.is_none() {
            return Vec::new();
        }
        let tickets = self.tickets().map(|tickets| (tickets.granted(), tickets.settled()));
        let spent = self.tickets().map(|tickets| (tickets.void(), tickets.torn()));
        let rest = self.stands_at();
        let Some(cuts) = &mut self.cuts else { return Vec::new() };
        let step = match tickets {
            None => cuts.order(now, complete, rest),
            Some((granted, settled)) => cuts.order_settled(now, granted, settled),
        };
        let Some(step) = step else { return Vec::new() };
        self.cut_tickets = spent;
        self.order_cut(step, false)
    }

    /// In sync mode a cut is ordered ahead of its step, and a server whose blocks never change would write its part at once:
    /// what is wrong with the store then says nothing of the time when the step is made. So it follows the others.
    fn follows_in_cuts(&self, index: ServerIndex) -> bool {
        self.tickets().is_none() && !self.changing_servers.is_empty() && !self.changing_servers.contains(&index)
    }

    fn order_cut(&self, step: Step, of_followers: bool) -> Vec<Effect> {
        let all = (0..self.servers.len() as u32).map(ServerIndex);
        let wanted = all.filter(|index| self.follows_in_cuts(*index) == of_followers);
        wanted.map(|index| Effect::Order(index, Order::Cut(step))).collect()
    }

    /// A server is past the step that was to be cut. In the asynchronous modes a block of it was still at work: it tries once
    /// more, alone. Whoever has set its state aside has the right one, and might have a later one if it did so again: tickets are
    /// given again once all have.
    pub fn cut_passed(&mut self, index: ServerIndex, step: Step, newest: Step) -> Vec<Effect> {
        let (has_tickets, rests) = (self.tickets().is_some(), self.stands_at().is_some());
        let Some(cuts) = self.cuts.as_mut().filter(|cuts| cuts.under_way() == Some(step)) else { return Vec::new() };
        if has_tickets {
            return vec![Effect::Order(index, Order::Cut(step))];
        }
        cuts.passed(step, newest, rests).map_or(Vec::new(), |later| self.order_cut(later, false))
    }

    /// A server has set its state of the step aside.
    pub fn cut_taken(&mut self, index: ServerIndex, step: Step) -> Vec<Effect> {
        let (now, servers) = (self.now, self.servers.len());
        let Some(cuts) = &mut self.cuts else { return Vec::new() };
        let is_first = cuts.is_taken_by_nobody(step);
        let all = cuts.taken(now, index, step, servers);
        let mut effects = if is_first { self.order_cut(step, true) } else { Vec::new() };
        if all {
            effects.extend(self.call_for_tickets());
        }
        effects
    }

    /// A server has written its part.
    pub fn saved(&mut self, index: ServerIndex, step: Step, file: SavedFile) -> Vec<Effect> {
        let servers = self.servers.len();
        let files = self.cuts.as_mut().and_then(|cuts| cuts.saved(index, step, file, servers));
        let tickets = self.cut_tickets;
        let Some(files) = files else { return Vec::new() };
        let told_early = planted(Bug::DurableBeforeCommit).then(|| self.order_all(&Order::Durable(step)));
        let mut effects = told_early.unwrap_or_default();
        effects.push(Effect::Commit(Written { step, files, tickets }));
        effects
    }

    /// A server could not write its part.
    pub fn save_failed(&mut self, index: ServerIndex, step: Step, reason: &str) -> Vec<Effect> {
        self.checkpoint_ended(step, Some(format!("{index}: {reason}")))
    }

    /// The checkpoint is committed, or given up because of `error`.
    pub fn checkpoint_ended(&mut self, step: Step, error: Option<String>) -> Vec<Effect> {
        let now = self.now;
        let Some(cuts) = &mut self.cuts else { return Vec::new() };
        let held = cuts.hold().is_some();
        if !cuts.ended(now, step, error.clone()) {
            return Vec::new();
        }
        let released = held && cuts.hold().is_none();
        let mut effects = match error {
            None => self.order_all(&Order::Durable(step)),
            Some(error) => {
                vec![Effect::Warn(format!("no checkpoint of {step}, training goes on without it: {error}"))]
            }
        };
        if released {
            effects.push(Effect::HoldChanged);
        }
        effects.extend(self.call_for_tickets());
        effects.extend(self.look_for_cut());
        effects.extend(self.finish_if_complete());
        effects
    }

    /// Whoever waits for a ticket may ask again.
    fn call_for_tickets(&self) -> Vec<Effect> {
        match self.tickets() {
            Some(_) => self.workers.keys().copied().map(Effect::TicketReady).collect(),
            None => Vec::new(),
        }
    }

    pub(super) fn ask_for_checkpoint(&mut self) -> (Result<Step, Refusal>, Vec<Effect>) {
        let (complete, rest) = (self.complete_step(), self.stands_at());
        let granted = self.tickets().map(Tickets::granted);
        let Some(cuts) = &mut self.cuts else {
            let (expected, found) = ("a job file with [checkpoint]", "one without: the job keeps no checkpoints");
            return (Err(Refusal::mismatch(RefusalCause::Malformed, "checkpoint", expected, found)), Vec::new());
        };
        let step = match granted {
            None => cuts.request(complete, rest),
            Some(granted) => cuts.request_settled(granted),
        };
        (Ok(step), self.look_for_cut())
    }

    /// Nobody computes beyond this step for now: a person wants it so, or there is nobody.
    fn stands_at(&self) -> Option<Step> {
        if self.workers.is_empty() { self.complete_step() } else { self.hold }
    }

    /// The operator lets the job rest after this step: a checkpoint that a person waits for is of none beyond.
    pub(super) fn cut_before(&mut self, hold: Step) -> Vec<Effect> {
        let rest = hold.max(self.complete_step().unwrap_or(hold));
        if let Some(cuts) = self.cuts.as_mut() {
            cuts.rest(rest);
        }
        self.look_for_cut()
    }

    /// A worker is gone. Where it was the last, nobody computes the step that a person waits for.
    pub(super) fn cut_where_all_left(&mut self) -> Vec<Effect> {
        match self.complete_step().filter(|_| self.workers.is_empty()) {
            Some(complete) => self.cut_before(complete),
            None => Vec::new(),
        }
    }

    /// The job ends with `last`, earlier than it was to.
    pub(super) fn shorten(&mut self, last: Step) -> Vec<Effect> {
        self.settings.steps = last;
        if let Some(cuts) = &mut self.cuts {
            cuts.shorten(last);
        }
        self.look_for_cut()
    }

    /// Nobody computes beyond this step for now: a person, or the first checkpoint, wants it so.
    pub(super) fn rest_after(&self) -> Option<Step> {
        [self.hold, self.cuts.as_ref().and_then(Cuts::hold)].into_iter().flatten().min()
    }

    /// Whether the last checkpoint is made, or none is to be.
    pub(super) fn has_nothing_to_save(&self) -> bool {
        self.cuts.as_ref().is_none_or(Cuts::is_settled) || planted(Bug::FinishedBeforeLastCheckpoint)
    }

    // ---- going back ----

    /// The job goes back to its last checkpoint, once: with it ends this generation.
    pub(super) fn recover(&mut self, why: String) -> Vec<Effect> {
        if self.recovering.is_some() || self.stopped.is_some() {
            return Vec::new();
        }
        self.recovering = Some(why.clone());
        vec![Effect::Recover(why)]
    }

    /// Another lead has begun this later generation: this one's is over.
    pub fn superseded(&mut self, by: Generation) -> Vec<Effect> {
        self.recover(format!("another lead has begun {by}"))
    }

    /// What is known of checkpoints, in a job that keeps them.
    #[must_use]
    pub fn cuts(&self) -> Option<&Cuts> {
        self.cuts.as_ref()
    }

    /// Whether the job rests because the first checkpoint is not durable yet.
    #[must_use]
    pub fn awaits_first_checkpoint(&self) -> bool {
        self.cuts.as_ref().is_some_and(|cuts| cuts.hold().is_some()) && self.phase() == Phase::Training
    }
}
