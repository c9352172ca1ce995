//! The checkpoint that a server writes: one at a time.
//!
//! A cut holds a version of the weights and of the moments, and memory is reserved for one. The lead has one under way at
//! a time, but gives it up for all as soon as one server has failed, and another may still be writing then. So an order
//! to cut says that nobody waits for an earlier one: that is given up, and the cut that follows is written once the part
//! under way has ended. Were the cut refused instead, servers that write longer than the interval would take turns in
//! refusing, and never write the same one; were the order left waiting, so would be the tickets of the asynchronous modes.

use halflife_checkpoint::GivenUp;
use halflife_proto::fault_point::{self, FaultPoint};
use halflife_proto::ids::Step;
use halflife_proto::membership::{Report, SavedFile};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::saving::SaveError;
use crate::shard::TakenCut;

/// What is being written, and what comes next.
#[derive(Default)]
pub(super) struct Writing {
    /// At most one. Ends with the node: what it writes belongs to this generation.
    task: JoinSet<Result<SavedFile, SaveError>>,
    of: Option<(Step, GivenUp)>,
    next: Option<TakenCut>,
}

/// What became of a server's part of a checkpoint.
pub(super) enum Written {
    /// The lead waits for this.
    Told(Report),
    /// Nobody does.
    GivenUp,
}

impl Writing {
    /// Nobody waits for what was to be written so far.
    pub(super) fn give_up(&mut self) {
        self.next = None;
        if let Some((step, given_up)) = self.of.as_ref().filter(|(_, given_up)| !given_up.is_set()) {
            info!(%step, "this server's part of a checkpoint is given up: the lead has begun another");
            given_up.set();
        }
    }

    /// Takes in a cut that is to be written.
    pub(super) fn add(&mut self, cut: TakenCut) {
        self.next = Some(cut);
    }

    /// The cut to begin with, once nothing is being written.
    pub(super) fn take_next(&mut self) -> Option<TakenCut> {
        self.next.take_if(|_| self.task.is_empty())
    }

    /// Begins to write the cut of `step`.
    pub(super) fn begin<F>(&mut self, step: Step, write: impl FnOnce(GivenUp) -> F)
    where
        F: Future<Output = Result<SavedFile, SaveError>> + Send + 'static,
    {
        let given_up = GivenUp::default();
        self.task.spawn(write(given_up.clone()));
        self.of = Some((step, given_up));
    }

    /// Waits for the end of what is being written; `None` if that is nothing. May be dropped while it waits.
    pub(super) async fn ended(&mut self) -> Option<Written> {
        let ended = self.task.join_next().await?;
        let (step, given_up) = self.of.take()?;
        let report = match ended {
            Ok(Ok(file)) => Report::Saved(step, file),
            Ok(Err(error)) => {
                if !given_up.is_set() {
                    warn!(%error, %step, "this server's part of a checkpoint cannot be written");
                }
                Report::SaveFailed(step, error.to_string())
            }
            // Nobody but the end of this node aborts it. The job can do without this checkpoint, not without an answer.
            Err(panic) => {
                error!(%panic, %step, "a bug: writing this server's part of a checkpoint ended by a panic");
                Report::SaveFailed(step, format!("writing it ended by a panic: {panic}"))
            }
        };
        if given_up.is_set() {
            return Some(Written::GivenUp);
        }
        if matches!(report, Report::Saved(..)) {
            fault_point::reach(FaultPoint::PartWritten);
        }
        Some(Written::Told(report))
    }
}

#[cfg(test)]
mod tests {
    use halflife_checkpoint::RoomError;
    use tokio::sync::oneshot;

    use super::*;

    const FILE: SavedFile = SavedFile { bytes: 1, header_bytes: 1, header_blake3: [0; 32], index_blake3: [0; 32] };

    fn cut(step: u64) -> TakenCut {
        TakenCut { step: Step(step), blocks: Vec::new() }
    }

    fn full() -> SaveError {
        SaveError::Room(RoomError::Full { needed: 2, location: "here".to_owned(), free: 1 })
    }

    async fn told(writing: &mut Writing) -> Option<Report> {
        match writing.ended().await.expect("something is written") {
            Written::Told(report) => Some(report),
            Written::GivenUp => None,
        }
    }

    #[tokio::test]
    async fn what_became_of_a_cut_is_told_also_after_a_panic() {
        let mut writing = Writing::default();
        writing.begin(Step(1), |_| async { Ok(FILE) });
        assert_eq!(told(&mut writing).await, Some(Report::Saved(Step(1), FILE)));
        writing.begin(Step(2), |_| async { Err(full()) });
        assert_eq!(told(&mut writing).await, Some(Report::SaveFailed(Step(2), full().to_string())));
        writing.begin(Step(3), |_| async { panic!("planted") });
        let Some(Report::SaveFailed(Step(3), reason)) = told(&mut writing).await else { panic!("it failed") };
        assert!(reason.contains("panic") && reason.contains("planted"), "{reason}");
        assert!(writing.ended().await.is_none());
    }

    #[tokio::test]
    async fn one_cut_is_written_at_a_time_and_one_given_up_is_not_told_of() {
        let mut writing = Writing::default();
        writing.add(cut(10));
        assert_eq!(writing.take_next().map(|cut| cut.step), Some(Step(10)));
        let (end, ended) = oneshot::channel::<()>();
        writing.begin(Step(10), |given_up| async move {
            let _ = ended.await;
            if given_up.is_set() { Err(full()) } else { Ok(FILE) }
        });
        writing.give_up();
        writing.add(cut(20));
        assert!(writing.take_next().is_none(), "the one before still holds its memory");
        end.send(()).unwrap();
        assert_eq!(told(&mut writing).await, None);
        assert_eq!(writing.take_next().map(|cut| cut.step), Some(Step(20)));
        assert!(writing.take_next().is_none());
    }

    #[tokio::test]
    async fn a_cut_that_waits_is_forgotten_with_its_order() {
        let mut writing = Writing::default();
        writing.add(cut(10));
        writing.give_up();
        assert!(writing.take_next().is_none());
    }
}
