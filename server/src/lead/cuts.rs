//! When a checkpoint is made, and of which step.
//!
//! The lead orders a *cut* of a step to come from every server; each sets its blocks' state aside as they pass that
//! step and writes it while training goes on. When the last has written, the manifest is committed, and the step is
//! *durable*. One cut is under way at a time: a store that is slower than the interval makes checkpoints rarer, never
//! two at once. A server that is past the step says so and the cut moves to a later one, for all.
//!
//! Cuts fall on multiples of `every`, on the last step, and where a person asks for one. The first of a job that begins
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

    /// The step to order a cut of now, if any, in sync mode, where `complete` is the newest step complete everywhere.
    pub fn order(&mut self, now: Duration, complete: Option<Step>) -> Option<Step> {
        if self.under_way.is_some() {
            return None;
        }
        let requested = std::mem::take(&mut self.requested);
        let step = match self.tried {
            None => Step::ZERO,
            Some(tried) if tried >= self.last => return None,
            Some(tried) => {
                let newest = complete.unwrap_or(tried).max(tried);
                if requested { newest.next().min(self.last) } else { self.due_after(newest) }
            }
        };
        Some(self.begin(now, step, requested))
    }

    /// The same in the asynchronous modes: a cut is of all tickets that were given, once all are settled.
    pub fn order_settled(&mut self, now: Duration, granted: u64, settled: Step) -> Option<Step> {
        if self.tried.is_none() {
            return self.under_way.is_none().then(|| self.begin(now, Step::ZERO, false));
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

    /// A person asks for one. Gives the step it will be of, or an earlier one than it will be.
    pub fn request(&mut self, complete: Option<Step>) -> Step {
        self.requested = self.tried < Some(self.last);
        let soonest = complete.map_or(Step::ZERO, Step::next).min(self.last);
        // What is set aside already may be older than what the person wants kept.
        match self.under_way.as_ref().filter(|under_way| under_way.taken.is_empty()) {
            Some(under_way) if under_way.step <= soonest || under_way.requested => {
                self.requested = false;
                under_way.step
            }
            Some(_) => {
                // Ordered far ahead, it may be hours away; it is ordered again after this one.
                self.under_way = None;
                soonest
            }
            None => soonest,
        }
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

    /// A server is past the step: the later one to cut instead.
    pub fn passed(&mut self, step: Step, newest: Step) -> Option<Step> {
        let at_newest = newest.previous().map_or(Step::ZERO, |before| self.due_after(before));
        let last = self.last;
        let under_way = self.under_way.as_mut().filter(|under_way| under_way.step == step)?;
        under_way.moved += 1;
        // A step that a person waits for has no other reason to be ahead of the servers than this.
        let ahead = Step(newest.0.saturating_add(1 << under_way.moved.min(10))).min(last);
        under_way.step = if under_way.requested { ahead } else { at_newest };
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
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const FILE: SavedFile = SavedFile { bytes: 1, header_bytes: 1, header_blake3: [0; 32], index_blake3: [0; 32] };

    fn write(cuts: &mut Cuts, step: u64, servers: u32) {
        for server in (0..servers).map(ServerIndex) {
            cuts.taken(NOW, server, Step(step), servers as usize);
        }
        let mut all = None;
        for server in (0..servers).map(ServerIndex) {
            assert!(all.is_none());
            all = cuts.saved(server, Step(step), FILE, servers as usize);
        }
        assert_eq!(all.map(|files| files.len()), Some(servers as usize));
    }

    fn commit(cuts: &mut Cuts, step: u64) {
        write(cuts, step, 2);
        assert!(cuts.ended(NOW, Step(step), None));
        assert_eq!(cuts.durable(), Some(Step(step)));
    }

    #[test]
    fn step_0_comes_first_then_multiples_then_the_last_step() {
        let mut cuts = Cuts::new(10, Step(25), None);
        assert_eq!((cuts.order(NOW, None), cuts.hold()), (Some(Step(0)), Some(Step(0))));
        assert_eq!(cuts.order(NOW, Some(Step(0))), None, "one at a time");
        commit(&mut cuts, 0);
        assert_eq!(cuts.hold(), None);
        for (complete, due) in [(0, 10), (17, 20), (20, 25)] {
            assert_eq!(cuts.order(NOW, Some(Step(complete))), Some(Step(due)));
            commit(&mut cuts, due);
        }
        assert!(cuts.is_settled() && cuts.order(NOW, Some(Step(25))).is_none());
        assert_eq!(cuts.told().committed, 4);
    }

    #[test]
    fn a_server_past_the_step_moves_the_cut_for_all() {
        let mut cuts = Cuts::new(10, Step(100), Some(Step(0)));
        assert_eq!(cuts.order(NOW, Some(Step(3))), Some(Step(10)));
        assert!(!cuts.taken(NOW, ServerIndex(0), Step(10), 2));
        assert_eq!(cuts.passed(Step(10), Step(11)), Some(Step(20)));
        assert_eq!(cuts.passed(Step(10), Step(31)), None, "an answer to the earlier order");
        assert_eq!(cuts.passed(Step(20), Step(30)), Some(Step(30)), "a block at a step can still be cut there");
        assert!(cuts.saved(ServerIndex(0), Step(10), FILE, 1).is_none());
        assert_eq!(cuts.passed(Step(30), Step(95)), Some(Step(100)));
        commit(&mut cuts, 100);
    }

    #[test]
    fn a_person_gets_one_of_a_step_ahead_of_the_servers() {
        let mut cuts = Cuts::new(1000, Step(5000), Some(Step(0)));
        assert_eq!(cuts.request(Some(Step(7))), Step(8));
        assert_eq!(cuts.order(NOW, Some(Step(7))), Some(Step(8)));
        assert_eq!(cuts.passed(Step(8), Step(9)), Some(Step(11)));
        assert_eq!(cuts.passed(Step(11), Step(12)), Some(Step(16)));
        commit(&mut cuts, 16);
        assert_eq!(cuts.order(NOW, Some(Step(20))), Some(Step(1000)));
        assert_eq!(cuts.request(Some(Step(21))), Step(22), "the regular one is far away");
        assert_eq!(cuts.order(NOW, Some(Step(21))), Some(Step(22)));
        assert_eq!(cuts.request(Some(Step(21))), Step(22), "the one ordered will do");
        assert_eq!(cuts.order(NOW, Some(Step(21))), None);
        commit(&mut cuts, 22);
        assert_eq!(cuts.order(NOW, Some(Step(22))), Some(Step(1000)), "the regular one is not forgotten");
    }

    #[test]
    fn one_that_fails_is_given_up_and_training_goes_on() {
        let mut cuts = Cuts::new(10, Step(20), None);
        cuts.order(NOW, None);
        assert!(cuts.ended(NOW, Step(0), Some("no space".to_owned())));
        assert_eq!((cuts.hold(), cuts.durable()), (None, None));
        assert_eq!((cuts.told().failed, cuts.told().error.as_str()), (1, "no space"));
        assert_eq!(cuts.order(NOW, Some(Step(0))), Some(Step(10)));
        commit(&mut cuts, 10);
        assert_eq!(cuts.told().error, "");
        assert_eq!(cuts.order(NOW, Some(Step(10))), Some(Step(20)));
        assert!(cuts.ended(NOW, Step(20), Some("no space".to_owned())) && cuts.is_settled());
        assert_eq!(cuts.durable(), Some(Step(10)));
    }

    #[test]
    fn a_job_that_ends_early_is_cut_at_its_last_step() {
        let mut cuts = Cuts::new(10, Step(100), Some(Step(20)));
        assert_eq!(cuts.order(NOW, Some(Step(22))), Some(Step(30)));
        cuts.taken(NOW, ServerIndex(1), Step(30), 2); // its blocks never change
        cuts.shorten(Step(23));
        assert_eq!(cuts.order(NOW, Some(Step(23))), Some(Step(23)));
        commit(&mut cuts, 23);
        assert!(cuts.is_settled());
    }

    #[test]
    fn a_last_checkpoint_that_was_given_up_is_tried_again_where_the_job_ends_early() {
        let mut cuts = Cuts::new(10, Step(100), Some(Step(90)));
        assert_eq!(cuts.order(NOW, Some(Step(92))), Some(Step(100)));
        // A server whose blocks never change writes at once.
        assert!(cuts.ended(NOW, Step(100), Some("no space".to_owned())));
        cuts.shorten(Step(95));
        assert!(!cuts.is_settled());
        assert_eq!(cuts.order(NOW, Some(Step(95))), Some(Step(95)));
        commit(&mut cuts, 95);
        assert!(cuts.is_settled());
    }

    #[test]
    fn tickets_stop_at_the_next_cut_until_it_is_taken() {
        let at = Duration::from_millis;
        let mut cuts = Cuts::new(10, Step(25), None);
        assert_eq!(cuts.order_settled(at(0), 0, Step(0)), Some(Step(0)));
        write(&mut cuts, 0, 2);
        assert_eq!(cuts.limit(at(1), 0), Step(0), "step 0 must be durable first");
        assert!(cuts.ended(at(2), Step(0), None));
        assert_eq!(cuts.limit(at(2), 4), Step(10));
        assert_eq!(cuts.order_settled(at(3), 10, Step(9)), None, "ticket 10 is open");
        assert_eq!(cuts.limit(at(5), 10), Step(10));
        assert_eq!(cuts.order_settled(at(9), 10, Step(10)), Some(Step(10)));
        write(&mut cuts, 10, 2);
        assert_eq!((cuts.limit(at(9), 10), cuts.told().pause), (Step(20), at(0)), "write takes it at once");
        assert_eq!(cuts.order_settled(at(30), 20, Step(20)), None, "the one before is still being written");
        assert_eq!(cuts.limit(at(30), 20), Step(25));
        assert!(cuts.ended(at(31), Step(10), None));
        assert_eq!(cuts.order_settled(at(40), 25, Step(25)), Some(Step(25)));
    }

    #[test]
    fn a_person_may_ask_for_one_between_tickets() {
        let mut cuts = Cuts::new(1000, Step(5000), Some(Step(0)));
        cuts.request(Some(Step(6)));
        assert_eq!(cuts.order_settled(NOW, 7, Step(6)), None);
        assert_eq!(cuts.limit(NOW, 7), Step(7), "no further ticket");
        assert_eq!(cuts.order_settled(NOW, 7, Step(7)), Some(Step(7)));
        write(&mut cuts, 7, 1);
        assert_eq!(cuts.limit(NOW, 7), Step(1000));
    }
}
