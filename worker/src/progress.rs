//! What a person sees while a job runs, on standard error: a bar on a terminal, lines elsewhere.
//!
//! Does not: print results (they go to standard output) or keep anything for the report.

use std::fmt;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::report::{Rollback, Scores};

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// One finished step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSeen {
    /// Its number.
    pub step: u64,
    /// Steps of the whole job.
    pub steps: u64,
    /// Mean loss over the samples of it that this worker computed, in nats; `None` for a spare.
    pub loss: Option<f32>,
    /// Learning rate of its update.
    pub lr: f64,
    /// Decay factor of its update.
    pub decay: f64,
}

/// Shows one job.
pub struct Progress {
    view: View,
}

enum View {
    Bar(ProgressBar),
    Lines(Lines),
    Nothing,
}

/// When the last line was written, and what has been seen since the first step.
struct Lines {
    first: Option<(u64, Instant)>,
    written: Option<Instant>,
}

impl Progress {
    /// A bar if standard error is a terminal, else lines.
    #[must_use]
    pub fn on_stderr() -> Progress {
        let view =
            if stderr().is_terminal() { View::Bar(bar()) } else { View::Lines(Lines { first: None, written: None }) };
        Progress { view }
    }

    /// Shows nothing.
    #[must_use]
    pub fn silent() -> Progress {
        Progress { view: View::Nothing }
    }

    /// Shows a step. Costs nothing worth mentioning when called for every step.
    pub fn step(&mut self, seen: StepSeen) {
        match &mut self.view {
            View::Bar(bar) => {
                bar.set_length(seen.steps);
                bar.set_message(describe(&seen));
                bar.set_position(seen.step);
            }
            View::Lines(lines) => {
                if let Some(line) = lines.line(&seen, Instant::now()) {
                    write_line(&line);
                }
            }
            View::Nothing => {}
        }
    }

    /// Shows an evaluation.
    pub fn evaluation(&mut self, scores: &Scores) {
        let line = describe_scores(scores);
        match &self.view {
            View::Bar(bar) => bar.println(line),
            View::Lines(_) => write_line(&line),
            View::Nothing => {}
        }
    }

    /// The job went back to a checkpoint.
    pub fn rolled_back(&mut self, rollback: &Rollback) {
        let Rollback { generation, from_step, to_step, undone_steps } = rollback;
        let line = format!(
            "the job has gone back from step {from_step} to its checkpoint of step {to_step} (generation {generation}); \
             {undone_steps} of this worker's contributions are undone"
        );
        match &mut self.view {
            View::Bar(bar) => bar.println(line),
            View::Lines(lines) => {
                lines.first = None;
                write_line(&line);
            }
            View::Nothing => {}
        }
    }

    /// Takes the bar away, so that what is printed next stands alone.
    pub fn finish(&mut self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let template = "{bar:24} step {pos}/{len}  {msg}  {pace}  ETA {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let pace = |state: &ProgressState, text: &mut dyn fmt::Write| {
        // Text in memory takes everything.
        let _ = write!(text, "{:.0} steps/s", state.per_sec());
    };
    ProgressBar::new(0).with_style(style.with_key("pace", pace))
}

fn describe(seen: &StepSeen) -> String {
    let loss = seen.loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"));
    format!("loss {loss}  lr {:.2e}  decay {:.2e}", seen.lr, seen.decay)
}

fn describe_scores(scores: &Scores) -> String {
    let held_out = scores.holdout_loss.zip(scores.holdout_accuracy);
    let holdout =
        held_out.map_or(String::new(), |(loss, accuracy)| format!("  holdout {loss:.4} ({:.2} %)", 100.0 * accuracy));
    let Scores { step, train_loss, train_accuracy, test_loss, test_accuracy, .. } = scores;
    let (train, test) = (100.0 * train_accuracy, 100.0 * test_accuracy);
    format!(
        "evaluated at step {step}: loss (accuracy) train {train_loss:.4} ({train:.2} %){holdout}  test {test_loss:.4} ({test:.2} %)"
    )
}

impl Lines {
    /// The line due now, if one is: for the first step, the last, and one an interval.
    fn line(&mut self, seen: &StepSeen, now: Instant) -> Option<String> {
        let (first_step, begin) = *self.first.get_or_insert((seen.step, now));
        let recent = self.written.is_some_and(|written| now - written < LINE_INTERVAL);
        if recent && seen.step < seen.steps {
            return None;
        }
        self.written = Some(now);
        let per_second = seen.step.saturating_sub(first_step) as f64 / (now - begin).as_secs_f64();
        let pace = if per_second.is_normal() {
            format!("  {per_second:.0} steps/s  ETA {:.0} s", seen.steps.saturating_sub(seen.step) as f64 / per_second)
        } else {
            String::new()
        };
        Some(format!("step {}/{}  {}{pace}", seen.step, seen.steps, describe(seen)))
    }
}

/// A closed standard error is no reason to stop training.
fn write_line(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(step: u64) -> StepSeen {
        StepSeen { step, steps: 100, loss: Some(0.5), lr: 0.001, decay: 0.0001 }
    }

    #[test]
    fn lines_come_first_last_and_once_an_interval() {
        let mut lines = Lines { first: None, written: None };
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(lines.line(&seen(1), at(0)).unwrap(), "step 1/100  loss 0.5000  lr 1.00e-3  decay 1.00e-4");
        assert_eq!(lines.line(&seen(2), at(1)), None);
        let line = lines.line(&seen(51), at(5)).unwrap();
        assert_eq!(line, "step 51/100  loss 0.5000  lr 1.00e-3  decay 1.00e-4  10 steps/s  ETA 5 s");
        assert!(lines.line(&seen(100), at(6)).unwrap().starts_with("step 100/100"));
    }

    #[test]
    fn a_spare_has_no_loss_to_show() {
        assert!(describe(&StepSeen { loss: None, ..seen(1) }).starts_with("loss -  lr"));
    }

    #[test]
    fn an_evaluation_names_every_part_there_is() {
        let scores = crate::report::tests::scores(5);
        assert_eq!(
            describe_scores(&scores),
            "evaluated at step 5: loss (accuracy) train 0.1250 (75.00 %)  test NaN (50.00 %)"
        );
        let held_out = Scores { holdout_loss: Some(1.0), holdout_accuracy: Some(0.25), ..scores };
        assert!(describe_scores(&held_out).contains("  holdout 1.0000 (25.00 %)  test"));
    }
}
