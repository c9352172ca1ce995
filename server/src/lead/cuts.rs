//! When a checkpoint is made, and of which step.
//!
//! The lead orders a *cut* of a step to come from every server; each sets its blocks' state aside as they pass that
//! step and writes it while training goes on. When the last has written, the manifest is committed, and the step is
//! *durable*. One cut is under way at a time: a store that is slower than the interval makes checkpoints rarer, never
//! two at once. A server that is past the step says so and the cut moves to a later one, for all.
//!
//! Cuts fall on multiples of `every`, on the last step, and where a person asks for one: on the next step, or, of a job
//! that rests, on the one where it stands, unless that is durable already. The first of a job that begins
//! is of step 0: nobody computes before it is durable, or has failed. In the asynchronous modes no ticket is
//! given beyond the next cut's step until the tickets up to it are settled and every server has set its state aside;
//! that pause is measured.
//!
//! A plain state machine: no I/O, no clock of its own. What is written where is `lead/keeper.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::membership::SavedFile;

use crate::planted::{Bug, planted};

/// How often a cut follows the servers to where a job rests: one of them may be a step ahead of another.
const RESTS_MOVED_MAX: u32 = 2;

/// What the lead knows of the job's checkpoints.
#[derive(Clone, Debug)]
pub struct Cuts {
    every: u64,
    /// The job's last step.
    last: Step,
    /// Newest one that is committed, or that the job was restored from.
    durable: Option<Step>,
    /// Newest one that was committed, restored or given up: no regular cut is of an earlier step.
    tried: Option<Step>,
    under_way: Option<UnderWay>,
    /// A person waits for one.
    requested: bool,
    /// In the asynchronous modes: no ticket beyond it.
    limit: Step,
    paused_at: Option<Duration>,
    told: Told,
}

/// What is shown of the checkpoints so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Committed, since the lead began to lead.
    pub committed: u64,
    /// Given up.
    pub failed: u64,
    /// Why the last one was given up; empty after one that was not.
    pub error: String,
    /// From the moment when every server had set its state aside to the commit, for the newest.
    pub took: Duration,
    /// How long no ticket was given for the newest.
    pub pause: Duration,
    /// When the newest was committed; `None` before the first of this generation.
    pub committed_at: Option<Duration>,
}

#[derive(Clone, Debug)]
struct UnderWay {
    step: Step,
    /// When it was ordered; later, when every server had set its state aside.
    since: Duration,
    requested: bool,
    /// Times it had to move to a later step.
    moved: u32,
    taken: BTreeSet<ServerIndex>,
    saved: BTreeMap<ServerIndex, SavedFile>,
}

impl UnderWay {
    fn new(step: Step, since: Duration, requested: bool) -> UnderWay {
        let (taken, saved) = (BTreeSet::new(), BTreeMap::new());
        UnderWay { step, since, requested, moved: 0, taken, saved }
    }
}

impl Cuts {
    /// Of a job of `last` steps that cuts every `every`, and that begins with `restored`.
    #[must_use]
    pub fn new(every: u64, last: Step, restored: Option<Step>) -> Cuts {
        let mut cuts = Cuts {
            every,
            last,
            durable: restored,
            tried: restored,
            under_way: None,
            requested: false,
            limit: Step::ZERO,
            paused_at: None,
            told: Told::default(),
        };
        if let Some(restored) = restored {
            cuts.limit = cuts.due_after(restored);
        }
        cuts
    }

    /// The first step after this one that is to be cut; the last step stays due for ever.
    fn due_after(&self, step: Step) -> Step {
        let next = (step.0 / self.every).saturating_add(1).saturating_mul(self.every);
        Step(next).min(self.last)
    }

    // ---- what is to be cut ----

    /// The soonest step that a cut can be of, in sync mode: the one to come, or the one that the job rests at.
    fn soonest(&self, newest: Step, rest: Option<Step>) -> Step {
        let next = newest.next().min(self.last);
        // Workers may have begun a later one before they heard.
        rest.map_or(next, |rest| next.min(rest.max(newest)))
    }

    /// The step to order a cut of now, if any, in sync mode, where `complete` is the newest step complete everywhere and
    /// nobody computes beyond `rest`, if there is such a step.
    pub fn order(&mut self, now: Duration, complete: Option<Step>, rest: Option<Step>) -> Option<Step> {
        if self.under_way.is_some() {
            return None;
        }
        let requested = std::mem::take(&mut self.requested);
        let (step, requested) = match self.tried {
            None => (Step::ZERO, requested),
            Some(tried) if tried >= self.last => return None,
            Some(tried) => {
                let newest = complete.unwrap_or(tried).max(tried);
                let soonest = self.soonest(newest, rest);
                // Who asked has what they asked for where the job rests at a durable step: the regular one is not theirs.
                let requested = requested && self.durable < Some(soonest);
                (if requested { soonest } else { self.due_after(newest) }, requested)
            }
        };
        Some(self.begin(now, step, requested))
    }

    /// The same in the asynchronous modes: a cut is of all tickets that were given, once all are settled.
    pub fn order_settled(&mut self, now: Duration, granted: u64, settled: Step) -> Option<Step> {
        if self.tried.is_none() {
            if self.under_way.is_some() {
                return None;
            }
            let requested = std::mem::take(&mut self.requested);
            return Some(self.begin(now, Step::ZERO, requested));
        }
        if self.requested && self.under_way.is_none() {
            self.limit = Step(granted);
            self.paused_at.get_or_insert(now);
        }
        let at_limit = granted >= self.limit.0 && settled.0 >= granted;
        if !at_limit || self.tried >= Some(self.last) {
            return None;
        }
        if self.under_way.is_none() {
            let requested = std::mem::take(&mut self.requested);
            return Some(self.begin(now, settled, requested));
        }
        // The one before is still being written: training does not wait for it.
        if self.under_way.as_ref().is_some_and(|under_way| under_way.step < self.limit) && self.limit < self.last {
            self.limit = self.due_after(self.limit);
            self.paused_at = None;
        }
        None
    }

    fn begin(&mut self, now: Duration, step: Step, requested: bool) -> Step {
        self.under_way = Some(UnderWay::new(step, now, requested));
        step
    }

    /// A person asks for one in sync mode, with what [`Cuts::order`] is told. Gives the step it will be of, or an earlier one
    /// than it will be. Nothing is to be made where nothing was computed since the newest: then it is the newest's step.
    pub fn request(&mut self, complete: Option<Step>, rest: Option<Step>) -> Step {
        let soonest = match complete {
            Some(complete) => self.soonest(complete, rest),
            None => self.durable.unwrap_or(Step::ZERO),
        };
        if self.durable >= Some(soonest) {
            return soonest;
        }
        self.requested = self.tried < Some(self.last);
        match &self.under_way {
            // What is set aside already may be older than what the person wants kept, unless the job rests.
            Some(under_way) if !under_way.taken.is_empty() => {
                self.requested &= rest.is_none() || under_way.step < soonest;
                soonest
            }
            Some(under_way) if under_way.step <= soonest || (under_way.requested && rest.is_none()) => {
                self.requested = false;
                under_way.step.min(soonest)
            }
            Some(_) => {
                // Ordered far ahead, it may be hours away, or never come; it is ordered again after this one.
                self.under_way = None;
                soonest
            }
            None => soonest,
        }
    }

    /// The same in the asynchronous modes: it is of every ticket that was given, or of later ones too.
    pub fn request_settled(&mut self, granted: u64) -> Step {
        let given = Step(granted);
        let newest = self.durable.max(self.under_way());
        self.requested = newest < Some(given) && self.tried < Some(self.last);
        given
    }

    /// Nobody computes beyond this step for now: one that a person waits for is to be ordered again if it is beyond.
    pub fn rest(&mut self, rest: Step) {
        let is_beyond =
            |under_way: &mut UnderWay| under_way.requested && under_way.taken.is_empty() && under_way.step > rest;
        self.requested |= self.under_way.take_if(is_beyond).is_some();
    }

    /// No ticket beyond this step for now; that many were given.
    pub fn limit(&mut self, now: Duration, granted: u64) -> Step {
        if granted >= self.limit.0 && self.limit < self.last {
            self.paused_at.get_or_insert(now);
        }
        self.limit
    }

    /// Nobody computes beyond this step for now.
    #[must_use]
    pub fn hold(&self) -> Option<Step> {
        self.tried.is_none().then_some(Step::ZERO)
    }

    /// The job ends earlier. A cut of a step that never comes is forgotten.
    pub fn shorten(&mut self, last: Step) {
        self.last = last;
        self.limit = self.limit.min(last);
        // What was given up of a step that never comes says nothing of the one that is the last now.
        if self.tried > Some(last) {
            self.tried = Some(last.previous().unwrap_or(Step::ZERO));
        }
        self.under_way.take_if(|under_way| under_way.step > last);
    }

    // ---- what servers say ----

    /// A server is past the step: the later one to cut instead. Where the job `rests` the others come to where it is.
    pub fn passed(&mut self, step: Step, newest: Step, rests: bool) -> Option<Step> {
        let at_newest = newest.previous().map_or(Step::ZERO, |before| self.due_after(before));
        let last = self.last;
        let under_way = self.under_way.as_mut().filter(|under_way| under_way.step == step)?;
        under_way.moved += 1;
        // A step that a person waits for has no other reason to be ahead of the servers than this.
        let ahead = Step(newest.0.saturating_add(1 << under_way.moved.min(10))).min(last);
        under_way.step = match under_way.requested {
            // Who is no member may compute all the same: then the servers are not where they rest, but ahead again.
            true if rests && under_way.moved <= RESTS_MOVED_MAX => newest.min(last),
            true => ahead,
            false => at_newest,
        };
        under_way.taken.clear();
        under_way.saved.clear();
        // Asking for the same again would only multiply what is asked. No server is past the last step (`shard/ending.rs`).
        (under_way.step > step).then_some(under_way.step)
    }

    /// Whether this cut is under way, and no server has set its state aside for it yet.
    #[must_use]
    pub fn is_taken_by_nobody(&self, step: Step) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.step == step && under_way.taken.is_empty())
    }

    /// A server has set its state aside; true when all `servers` have.
    pub fn taken(&mut self, now: Duration, server: ServerIndex, step: Step, servers: usize) -> bool {
        let Some(under_way) = self.under_way.as_mut().filter(|under_way| under_way.step == step) else { return false };
        let enough = if planted(Bug::TicketsBeyondTheCut) { 1 } else { servers };
        if !under_way.taken.insert(server) || under_way.taken.len() < enough {
            return false;
        }
        under_way.since = now;
        if let Some(paused_at) = self.paused_at.take() {
            self.told.pause = now.saturating_sub(paused_at);
        }
        // Step 0 holds everybody until it is durable.
        if self.tried.is_some() {
            self.limit = self.limit.max(self.due_after(step));
        }
        true
    }

    /// A server has written its part; all parts once every server has.
    pub fn saved(
        &mut self,
        server: ServerIndex,
        step: Step,
        file: SavedFile,
        servers: usize,
    ) -> Option<Vec<(ServerIndex, SavedFile)>> {
        let under_way = self.under_way.as_mut().filter(|under_way| under_way.step == step)?;
        let is_news = under_way.saved.insert(server, file).is_none();
        let enough = if planted(Bug::CommittedBeforeAllSaved) { servers - 1 } else { servers };
        (is_news && under_way.saved.len() == enough)
            .then(|| under_way.saved.iter().map(|(server, file)| (*server, *file)).collect())
    }

    /// The manifest is committed, or the checkpoint given up because of `error`; true when that ends the one under way.
    pub fn ended(&mut self, now: Duration, step: Step, error: Option<String>) -> bool {
        let Some(under_way) = self.under_way.take_if(|under_way| under_way.step == step) else { return false };
        let first = self.tried.is_none();
        self.tried = self.tried.max(Some(step));
        match error {
            None => {
                self.durable = Some(step);
                self.told.committed += 1;
                self.told.error.clear();
                self.told.took = now.saturating_sub(under_way.since);
                self.told.committed_at = Some(now);
            }
            Some(error) => {
                self.told.failed += 1;
                self.told.error = error;
            }
        }
        // Also where it was given up before all had set their state aside.
        if first || self.limit <= step {
            self.limit = self.due_after(step);
            self.paused_at = None;
        }
        true
    }

    // ---- reading ----

    /// Whether the last step is durable or given up: nothing more is to be written.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.under_way.is_none() && self.tried >= Some(self.last)
    }

    /// Whether the job ends with this step.
    #[must_use]
    pub fn is_last(&self, step: Step) -> bool {
        step >= self.last
    }

    /// Newest step that survives every crash.
    #[must_use]
    pub fn durable(&self) -> Option<Step> {
        self.durable
    }

    /// The step of the one under way.
    #[must_use]
    pub fn under_way(&self) -> Option<Step> {
        self.under_way.as_ref().map(|under_way| under_way.step)
    }

    /// What is shown.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }
}

#[cfg(test)]
#[path = "cuts_tests.rs"]
mod tests;
