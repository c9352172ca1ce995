//! Retention: which checkpoints and leftovers may go. A pure function of what is there.

use std::collections::{BTreeMap, BTreeSet};

use halflife_proto::ids::{Generation, Step};

use crate::history::History;
use crate::id::CheckpointId;
use crate::planted::{Bug, planted};

/// Which checkpoints of the surviving history are kept, besides the newest, which always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The last so many.
    pub keep_last: usize,
    /// Also those whose step is a multiple of this; 0 keeps none of them.
    pub keep_every: u64,
}

/// What may be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Disposal {
    /// Committed checkpoints.
    pub checkpoints: Vec<CheckpointId>,
    /// Directories that were never committed.
    pub orphans: Vec<CheckpointId>,
}

/// Decides what may go of the directories `found`, `committed` of which have a manifest.
///
/// Before any generation has begun nothing goes. Nothing of a newer one goes: it may just have begun. Committed checkpoints
/// outside the history go, unless a generation that is claimed continues them: no restart can continue from the rest.
#[must_use]
pub fn disposal(
    history: &History,
    found: &BTreeSet<CheckpointId>,
    committed: &BTreeSet<CheckpointId>,
    retention: Retention,
) -> Disposal {
    let Some(generation) = history.begun_generation() else { return Disposal::default() };
    let kept = kept(history, committed, retention);
    let last_own = committed.iter().filter(|id| id.generation == generation).max();
    let past = |id: &&CheckpointId| id.generation <= generation && !kept.contains(id);
    let abandoned = |id: &&CheckpointId| id.generation < generation || last_own.is_some_and(|last| id.step < last.step);
    Disposal {
        checkpoints: committed.iter().filter(past).copied().collect(),
        orphans: found.difference(committed).filter(past).filter(abandoned).copied().collect(),
    }
}

fn kept(history: &History, committed: &BTreeSet<CheckpointId>, retention: Retention) -> BTreeSet<CheckpointId> {
    let survivors: Vec<_> = committed.iter().copied().filter(|id| history.contains(*id)).collect();
    let mut kept: BTreeSet<_> = history.newest(&survivors).into_iter().chain(history.awaited()).collect();
    if planted(Bug::ContinuedPruned) {
        kept.clear();
    }
    kept.extend(newest_of_each_step(&survivors).into_iter().rev().take(retention.keep_last));
    if retention.keep_every > 0 {
        kept.extend(survivors.iter().filter(|id| id.step.0.is_multiple_of(retention.keep_every)));
    }
    kept
}

/// Two generations may hold the same step, where the later one continued from the earlier's: one of
/// them is enough of what `keep_last` counts.
fn newest_of_each_step(survivors: &[CheckpointId]) -> Vec<CheckpointId> {
    let by_step: BTreeMap<Step, Generation> = survivors.iter().map(|id| (id.step, id.generation)).collect();
    by_step.into_iter().map(|(step, generation)| CheckpointId { step, generation }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Claim;
    use halflife_proto::ids::JobId;

    /// "100.2" is step 100 of generation 2.
    fn ids(text: &str) -> BTreeSet<CheckpointId> {
        let id = |text: &str| {
            let (step, generation) = text.split_once('.').unwrap();
            CheckpointId { step: Step(step.parse().unwrap()), generation: Generation(generation.parse().unwrap()) }
        };
        text.split_whitespace().map(id).collect()
    }

    /// "1 2<10.1" is a generation 1 that starts from nothing and a generation 2 that continues 10.1; "2<10.1?" has not begun.
    fn history(text: &str) -> History {
        let mut begun = BTreeSet::new();
        let claims = text.split_whitespace().map(|claim| {
            let (claim, has_begun) = claim.strip_suffix('?').map_or((claim, true), |claim| (claim, false));
            let (generation, continues) = claim.split_once('<').map_or((claim, None), |(g, c)| (g, Some(c)));
            let generation = Generation(generation.parse().unwrap());
            if has_begun {
                begun.insert(generation);
            }
            Claim {
                generation,
                claimant: String::new(),
                job: JobId(String::new()),
                continues: continues.map(|continues| ids(continues).pop_first().unwrap()),
                spec_toml: String::new(),
                from_step: Step(1),
            }
        });
        let claims = claims.collect::<Vec<_>>();
        History::new(&claims, |generation| begun.contains(&generation))
    }

    #[test]
    fn what_goes_is_what_no_restart_continues_from() {
        // (fact, claims, committed, uncommitted, keep_last, keep_every, checkpoints to go, orphans to go)
        #[rustfmt::skip]
        let cases = [
            ("nothing goes without a claim", "", "1.1 2.1", "3.1", 0, 0, "", ""),
            ("the newest stays even if nothing is kept", "1", "1.1 2.1 3.1", "", 0, 0, "1.1 2.1", ""),
            ("the last ones stay", "1", "1.1 2.1 3.1 4.1", "", 2, 0, "1.1 2.1", ""),
            ("multiples stay", "1", "0.1 5.1 10.1 15.1 20.1 21.1", "", 1, 10, "5.1 15.1", ""),
            ("a claim's base stays until its generation has its own", "1 2<2.1", "1.1 2.1 3.1", "", 0, 0, "1.1 3.1", ""),
            ("then it may go", "1 2<2.1", "1.1 2.1 3.1 5.2", "", 0, 0, "1.1 2.1 3.1", ""),
            ("undone checkpoints go whatever is kept", "1 2<2.1", "2.1 3.1 10.1 5.2", "", 9, 10, "3.1 10.1", ""),
            ("a fresh start's first checkpoint is waited for by nothing", "1 2", "9.1", "", 3, 0, "9.1", ""),
            ("the same step counts once", "1 2<4.1 3<4.2", "2.1 3.1 4.1 4.2 5.3", "", 3, 0, "2.1 4.1", ""),
            ("orphans of older generations go", "1 2<2.1", "2.1", "3.1 4.1 3.2", 1, 0, "", "3.1 4.1"),
            ("orphans before the last commit go, later ones may be under way", "1", "5.1", "4.1 6.1", 1, 0, "", "4.1"),
            ("with nothing committed everything may be under way", "1", "", "4.1 6.1", 1, 0, "", ""),
            ("a generation not yet seen claimed is left alone", "1", "5.1", "1.2", 1, 0, "", ""),
            ("a newer generation's commit is left alone", "1", "5.1 6.2", "", 1, 0, "", ""),
            ("what a claimed generation continues stays until it begins", "1 2<2.1?", "1.1 2.1 3.1", "", 1, 0, "1.1", ""),
            ("until then what the one before writes is left alone", "1 2<2.1?", "2.1", "3.1 1.2", 1, 0, "", ""),
        ];
        for (fact, claims, committed, uncommitted, keep_last, keep_every, checkpoints, orphans) in cases {
            let committed = ids(committed);
            let found = committed.union(&ids(uncommitted)).copied().collect();
            let disposal = disposal(&history(claims), &found, &committed, Retention { keep_last, keep_every });
            assert_eq!(disposal.checkpoints, Vec::from_iter(ids(checkpoints)), "{fact}");
            assert_eq!(disposal.orphans, Vec::from_iter(ids(orphans)), "{fact}");
        }
    }
}
