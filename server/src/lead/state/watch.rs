//! Leases prove life, not progress: this notices a step that takes too long (DESIGN.md rule 4).
//!
//! A plain value: the lead's state tells it at every tick how far the job is, and is told when to ask the
//! servers which slots they lack. It does not know who owes them.

use std::collections::VecDeque;
use std::time::Duration;

use halflife_proto::ids::Step;

/// Step times that the median is taken of.
const TIMES_KEPT: usize = 15;
/// A step that takes so many medians is overdue, if that is more than a lease.
const MEDIANS: u32 = 3;

/// When the step under way began, and how long steps take.
#[derive(Debug, Default)]
pub struct ProgressWatch {
    /// What was complete when last looked at, and since when; `None` after a change of who computes.
    since: Option<(Option<Step>, Duration)>,
    times: VecDeque<Duration>,
}

impl ProgressWatch {
    /// Notes how far the job is. True when the step under way is overdue: longer than `lease` and than three
    /// median step times, counted from the completion before it, or from the last time this said so.
    pub fn is_overdue(&mut self, now: Duration, complete: Option<Step>, lease: Duration) -> bool {
        let Some((known, at)) = self.since.filter(|(known, _)| *known <= complete) else {
            self.since = Some((complete, now));
            return false;
        };
        let waited = now.saturating_sub(at);
        if complete > known {
            let steps = complete.map_or(0, |step| step.0) - known.map_or(0, |step| step.0);
            // The step before the initialization is none.
            if known.is_some() && steps > 0 {
                // Each step counts: many pass between two looks, and one that was held up must not weigh as much as they.
                let kept = steps.min(TIMES_KEPT as u64) as usize;
                self.times.extend(std::iter::repeat_n(waited.div_f64(steps as f64), kept));
                self.times.drain(..self.times.len().saturating_sub(TIMES_KEPT));
            }
            self.since = Some((complete, now));
            return false;
        }
        if waited <= self.patience(lease) {
            return false;
        }
        self.since = Some((complete, now));
        true
    }

    /// Others compute from now on, or nobody has to: waiting begins anew.
    pub fn restart(&mut self) {
        self.since = None;
    }

    fn patience(&self, lease: Duration) -> Duration {
        let mut times: Vec<Duration> = self.times.iter().copied().collect();
        times.sort_unstable();
        // Of an even number the lower of the two: a step that was held up is no measure of the others.
        times.get(times.len().saturating_sub(1) / 2).map_or(lease, |median| lease.max(*median * MEDIANS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    /// (second, complete step, overdue)
    fn play(table: &[(u64, Option<u64>, bool)]) {
        let mut watch = ProgressWatch::default();
        for (second, complete, overdue) in table {
            let found = watch.is_overdue(Duration::from_secs(*second), complete.map(Step), LEASE);
            assert_eq!(found, *overdue, "second {second}");
        }
    }

    #[test]
    fn a_step_is_overdue_after_a_lease_and_again_after_another() {
        play(&[(0, Some(0), false), (5, Some(0), false), (6, Some(0), true), (7, Some(0), false), (12, Some(0), true)]);
        play(&[(0, None, false), (6, None, true), (8, Some(0), false), (13, Some(0), false), (14, Some(0), true)]);
    }

    #[test]
    fn progress_begins_the_waiting_anew() {
        play(&[
            (0, Some(0), false),
            (4, Some(3), false),
            (9, Some(3), false),
            (10, Some(3), true),
            (11, Some(4), false),
        ]);
    }

    #[test]
    fn slow_steps_get_three_medians() {
        play(&[
            (0, Some(0), false),
            (10, Some(1), false),
            (20, Some(2), false),
            (49, Some(2), false),
            (51, Some(2), true),
        ]);
    }

    #[test]
    fn a_step_that_was_held_up_is_no_measure_of_the_others() {
        play(&[
            (0, Some(0), false),
            (1, Some(2), false),
            (31, Some(3), false),
            (36, Some(3), false),
            (37, Some(3), true),
        ]);
        play(&[(0, Some(0), false), (1, Some(1), false), (31, Some(2), false), (37, Some(2), true)]);
    }

    #[test]
    fn after_a_change_waiting_begins_anew() {
        let mut watch = ProgressWatch::default();
        let mut at = |second| {
            let overdue = watch.is_overdue(Duration::from_secs(second), Some(Step(1)), LEASE);
            watch.restart();
            overdue
        };
        assert_eq!([at(0), at(6), at(12)], [false; 3]);
    }
}
