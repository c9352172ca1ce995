//! A run of steps of one kind: how long each took and what it cost. No I/O.

use super::process::Ran;

/// From so many steps on, the first of a phase is not timed: it includes how long the order took to reach
/// every process, which matters where steps are short.
const TIMED_WHOLE_BELOW: usize = 10;

/// One phase, seen from all its processes.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// How long each timed step took, until the last worker had its weights.
    pub step_ns: Vec<u64>,
    /// Steps in all.
    pub steps: u64,
    /// CPU time of each server, for all steps.
    pub server_cpu_ns: Vec<u64>,
    /// CPU time of each worker, for all steps.
    pub worker_cpu_ns: Vec<u64>,
}

impl Phase {
    /// Of workers that made the same steps.
    #[must_use]
    pub fn new(workers: &[Ran], server_cpu_ns: Vec<u64>) -> Phase {
        let steps = workers.iter().map(|worker| worker.complete_ns.len()).min().unwrap_or(0);
        let complete = |step: usize| workers.iter().map(|worker| worker.complete_ns[step]).max().unwrap_or(0);
        let begin = workers.iter().map(|worker| worker.begin_ns).min().unwrap_or(0);
        let skipped = usize::from(steps >= TIMED_WHOLE_BELOW);
        let mut before = if skipped == 0 { begin } else { complete(0) };
        let mut step_ns = Vec::with_capacity(steps);
        for step in skipped..steps {
            let whole = complete(step);
            step_ns.push(whole.saturating_sub(before));
            before = whole;
        }
        let worker_cpu_ns = workers.iter().map(|worker| worker.cpu_ns).collect();
        Phase { step_ns, steps: steps as u64, server_cpu_ns, worker_cpu_ns }
    }

    /// Mean time of a timed step, in nanoseconds.
    #[must_use]
    pub fn mean_step_ns(&self) -> f64 {
        self.step_ns.iter().sum::<u64>() as f64 / self.step_ns.len().max(1) as f64
    }

    /// CPU time of a step in all processes, in nanoseconds.
    #[must_use]
    pub fn cpu_step_ns(&self) -> f64 {
        let all = self.server_cpu_ns.iter().chain(&self.worker_cpu_ns).sum::<u64>();
        all as f64 / self.steps.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(begin_ns: u64, complete_ns: &[u64]) -> Ran {
        Ran { begin_ns, complete_ns: complete_ns.to_vec(), cpu_ns: 6 }
    }

    #[test]
    fn a_step_lasts_until_the_last_worker_has_its_weights() {
        let phase = Phase::new(&[ran(10, &[20, 35]), ran(12, &[22, 33])], vec![8]);
        assert_eq!((phase.step_ns.as_slice(), phase.steps), ([12, 13].as_slice(), 2));
        assert_eq!((phase.mean_step_ns(), phase.cpu_step_ns()), (12.5, 10.0));
    }

    #[test]
    fn of_many_steps_the_first_is_not_timed() {
        let complete: Vec<u64> = (1..=10).map(|step| 100 * step).collect();
        let phase = Phase::new(&[ran(0, &complete)], vec![]);
        assert_eq!((phase.step_ns, phase.steps), (vec![100; 9], 10));
    }
}
