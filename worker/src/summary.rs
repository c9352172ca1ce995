//! The last lines of a run, for people.

use std::fmt;

use halflife_proto::ids::Step;
use halflife_worker::report::{Report, Rollback, Staleness, TicketReport};

/// What was trained, how well, how fast, and which bits came out.
pub(crate) struct Summary<'a>(pub(crate) &'a Report);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { job_id, seed, steps, slots, samples_per_slot, last, .. } = self.0;
        let Report { steps_seen, seconds, steps_per_second, parameters, weights_digest, .. } = self.0;
        write!(f, "{job_id}: {steps} steps")?;
        if steps_seen < steps {
            write!(f, ", the last {steps_seen} of them")?;
        }
        writeln!(
            f,
            " in {seconds:.1} s ({steps_per_second:.0} steps/s), {parameters} parameters, {slots} slots of \
             {samples_per_slot} samples, seed {seed}"
        )?;
        part(f, "test", last.test_accuracy, last.test_loss, self.0.test_samples)?;
        if let (Some(accuracy), Some(loss)) = (last.holdout_accuracy, last.holdout_loss) {
            part(f, "holdout", accuracy, loss, self.0.holdout_samples)?;
        }
        part(f, "train", last.train_accuracy, last.train_loss, self.0.train_samples)?;
        write!(f, "  weights digest {weights_digest}")?;
        for Rollback { generation, from_step, to_step, undone_steps } in &self.0.rollbacks {
            write!(
                f,
                "\n  gone back from step {from_step} to {to_step} (generation {generation}), {undone_steps} own contributions undone"
            )?;
        }
        if let Some(TicketReport { done, voided, torn, clock_staleness, update_staleness }) = &self.0.tickets {
            write!(f, "\n  {done} pushes applied, {voided} void ({torn} torn)")?;
            staleness(f, "clock staleness", clock_staleness)?;
            staleness(f, "update staleness", update_staleness)?;
        }
        match self.0.why_not_reproducible() {
            Some(why) => write!(f, "\n  other workers would make other bits: {why}"),
            None => Ok(()),
        }
    }
}

fn part(f: &mut fmt::Formatter<'_>, name: &str, accuracy: f64, loss: f64, samples: usize) -> fmt::Result {
    writeln!(f, "  {name:<7} accuracy {:6.2} %   loss {loss:.4}   ({samples} samples)", 100.0 * accuracy)
}

fn staleness(f: &mut fmt::Formatter<'_>, name: &str, values: &Staleness) -> fmt::Result {
    let Staleness { max, mean, p50, p95, p99, count: _ } = values;
    write!(f, "\n  {name:<16} mean {mean:.2}, p50 {p50}, p95 {p95}, p99 {p99}, max {max}")
}

/// Where things stand after a stop.
pub(crate) struct Standing {
    pub(crate) step: Option<Step>,
    pub(crate) steps: Option<Step>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.step, self.steps) {
            (Some(step), Some(steps)) => write!(f, "{step} of {} was complete", steps.0),
            (None, Some(steps)) => write!(f, "no step of {} was complete", steps.0),
            _ => f.write_str("it had not joined the job"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_says_what_was_complete() {
        let standing = |step: Option<u64>, steps: Option<u64>| {
            Standing { step: step.map(Step), steps: steps.map(Step) }.to_string()
        };
        assert_eq!(standing(Some(3), Some(9)), "step 3 of 9 was complete");
        assert_eq!(standing(None, Some(9)), "no step of 9 was complete");
        assert_eq!(standing(None, None), "it had not joined the job");
    }
}
