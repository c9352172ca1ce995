//! History: which checkpoints survive. A pure function of the claims and of which generations have begun.
//!
//! A lead that has been replaced without knowing it may still commit a checkpoint of its old generation.
//! What is committed is therefore not what counts: the newest claim says which checkpoint its
//! generation continues, that one's generation which it continued, and so on. Of generation h the
//! checkpoints up to the step from which the next in this chain continued survive; whatever h committed
//! beyond it was undone, and is never restored.
//!
//! A claim fences the generations before it at once, but undoes nothing until its generation has *begun*: its claimant
//! looks once more for what was committed before the claim, and may die, or fail, before it has. Until then the history is
//! that of the newest generation that has begun.

use std::collections::{BTreeMap, BTreeSet};

use halflife_proto::ids::{Generation, Step};

use crate::claim::Claim;
use crate::id::CheckpointId;
use crate::planted::{Bug, planted};

/// The surviving history of a job.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct History {
    newest: Option<Generation>,
    /// The newest that has begun, and what it continues.
    begun: Option<Generation>,
    continues: Option<CheckpointId>,
    /// What generations that may still begin continue.
    awaited: BTreeSet<CheckpointId>,
    /// The last step that survives of each generation in the chain.
    ends: BTreeMap<Generation, Step>,
}

impl History {
    /// The history that claims tell, in any order. `has_begun` says of each whether its generation has.
    #[must_use]
    pub fn new(claims: &[Claim], has_begun: impl Fn(Generation) -> bool) -> History {
        let by_generation: BTreeMap<_, _> = claims.iter().map(|claim| (claim.generation, claim.continues)).collect();
        let newest = by_generation.last_key_value().map(|(newest, _)| *newest);
        let in_force = |generation: &Generation| has_begun(*generation) || planted(Bug::ClaimCountsAtOnce);
        let begun = by_generation.iter().rfind(|(generation, _)| in_force(generation));
        let awaited = by_generation.iter().rev().take_while(|(generation, _)| !in_force(generation));
        let awaited = awaited.filter_map(|(_, continues)| *continues).collect();
        let Some((&begun, &continues)) = begun else {
            return History { newest, awaited, ..History::default() };
        };
        let mut ends = BTreeMap::from([(begun, Step(u64::MAX))]);
        let (mut of, mut next) = (begun, continues);
        // A claim continues an older generation; a chain that does not go back ends there, so that
        // claims no writer of ours makes cannot go round in circles.
        while let Some(id) = next.filter(|id| id.generation < of) {
            ends.insert(id.generation, id.step);
            of = id.generation;
            next = by_generation.get(&of).copied().flatten();
        }
        History { newest, begun: Some(begun), continues, awaited, ends }
    }

    /// The newest generation claimed, whether or not it has begun.
    #[must_use]
    pub fn newest_generation(&self) -> Option<Generation> {
        self.newest
    }

    /// The newest generation that has begun.
    #[must_use]
    pub fn begun_generation(&self) -> Option<Generation> {
        self.begun
    }

    /// Whether a checkpoint, once committed, survives.
    #[must_use]
    pub fn contains(&self, id: CheckpointId) -> bool {
        self.ends.get(&id.generation).is_some_and(|end| id.step <= *end)
    }

    /// Checkpoints that a generation continues which is claimed and has not begun: they must not go meanwhile.
    pub fn awaited(&self) -> impl Iterator<Item = CheckpointId> {
        self.awaited.iter().copied()
    }

    /// The checkpoint that a restart continues from: the last of the newest generation that has begun, or else the one that
    /// generation itself continues, even if that is missing from `committed`. Falling back further
    /// would silently undo work; a missing checkpoint must be an error when it is read.
    #[must_use]
    pub fn newest(&self, committed: &[CheckpointId]) -> Option<CheckpointId> {
        if planted(Bug::LateCommitContinued) {
            return committed.iter().copied().max_by_key(|id| id.step);
        }
        let own = committed.iter().filter(|id| Some(id.generation) == self.begun).max();
        own.copied().or(self.continues)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::ids::JobId;

    fn claim(generation: u64, continues: Option<&str>) -> Claim {
        Claim {
            generation: Generation(generation),
            claimant: format!("claimant {generation}"),
            job: JobId("job".to_owned()),
            continues: continues.map(id),
            spec_toml: String::new(),
            from_step: Step(1),
        }
    }

    /// "100.2" is step 100 of generation 2.
    fn id(text: &str) -> CheckpointId {
        let (step, generation) = text.split_once('.').unwrap();
        CheckpointId { step: Step(step.parse().unwrap()), generation: Generation(generation.parse().unwrap()) }
    }

    fn ids(text: &str) -> Vec<CheckpointId> {
        text.split_whitespace().map(id).collect()
    }

    #[test]
    fn histories_follow_the_chain_of_claims() {
        struct Case {
            fact: &'static str,
            claims: Vec<Claim>,
            not_begun: &'static [u64],
            committed: &'static str,
            newest: Option<&'static str>,
            surviving: &'static str,
        }
        let cases = [
            Case {
                fact: "no claims, no history",
                claims: vec![],
                not_begun: &[],
                committed: "5.1",
                newest: None,
                surviving: "",
            },
            Case {
                fact: "one generation",
                claims: vec![claim(1, None)],
                not_begun: &[],
                committed: "0.1 10.1 20.1",
                newest: Some("20.1"),
                surviving: "0.1 10.1 20.1",
            },
            Case {
                fact: "claimed and nothing committed",
                claims: vec![claim(1, None)],
                not_begun: &[],
                committed: "",
                newest: None,
                surviving: "",
            },
            Case {
                fact: "a fenced lead's late commit is not restored",
                claims: vec![claim(1, None), claim(2, Some("10.1"))],
                not_begun: &[],
                committed: "0.1 10.1 20.1 30.1",
                newest: Some("10.1"),
                surviving: "0.1 10.1",
            },
            Case {
                fact: "a new generation's lower step beats an old one's higher",
                claims: vec![claim(1, None), claim(2, Some("10.1"))],
                not_begun: &[],
                committed: "10.1 20.1 15.2",
                newest: Some("15.2"),
                surviving: "10.1 15.2",
            },
            Case {
                fact: "a generation that committed nothing is passed over",
                claims: vec![claim(1, None), claim(2, Some("10.1")), claim(3, Some("10.1"))],
                not_begun: &[],
                committed: "10.1 20.2",
                newest: Some("10.1"),
                surviving: "10.1",
            },
            Case {
                fact: "each generation of the chain survives up to where the next continued",
                claims: vec![claim(1, None), claim(2, Some("10.1")), claim(4, Some("14.2"))],
                not_begun: &[],
                committed: "5.1 10.1 12.1 12.2 14.2 16.2 15.4",
                newest: Some("15.4"),
                surviving: "5.1 10.1 12.2 14.2 15.4",
            },
            Case {
                fact: "a fresh start leaves everything behind",
                claims: vec![claim(1, None), claim(2, None)],
                not_begun: &[],
                committed: "10.1",
                newest: None,
                surviving: "",
            },
            Case {
                fact: "what is continued but missing is still what must be restored",
                claims: vec![claim(1, None), claim(2, Some("10.1"))],
                not_begun: &[],
                committed: "5.1",
                newest: Some("10.1"),
                surviving: "5.1",
            },
            Case {
                fact: "a claim that continues its own future ends the chain",
                claims: vec![claim(1, Some("3.2")), claim(2, Some("2.1"))],
                not_begun: &[],
                committed: "1.1 9.1 3.2",
                newest: Some("3.2"),
                surviving: "1.1 3.2",
            },
            Case {
                fact: "a claim that has not begun undoes nothing that was committed before it",
                claims: vec![claim(1, None), claim(2, Some("20.1"))],
                not_begun: &[2],
                committed: "20.1 30.1",
                newest: Some("30.1"),
                surviving: "20.1 30.1",
            },
            Case {
                fact: "the newest that has begun counts, whatever was claimed since",
                claims: vec![claim(1, None), claim(2, Some("20.1")), claim(3, Some("20.1")), claim(4, None)],
                not_begun: &[3, 4],
                committed: "20.1 30.1",
                newest: Some("20.1"),
                surviving: "20.1",
            },
            Case {
                fact: "who has committed has begun",
                claims: vec![claim(1, None), claim(2, Some("20.1"))],
                not_begun: &[1, 2],
                committed: "20.1 30.1 25.2",
                newest: Some("25.2"),
                surviving: "20.1 25.2",
            },
            Case {
                fact: "a first claim that has not begun is no history",
                claims: vec![claim(1, None)],
                not_begun: &[1],
                committed: "",
                newest: None,
                surviving: "",
            },
        ];
        for case in cases {
            let committed = ids(case.committed);
            let mut claims = case.claims;
            for _ in 0..2 {
                let has_begun =
                    |of: Generation| !case.not_begun.contains(&of.0) || committed.iter().any(|id| id.generation == of);
                let history = History::new(&claims, has_begun);
                assert_eq!(history.newest(&committed), case.newest.map(id), "{}", case.fact);
                let surviving: Vec<_> = committed.iter().copied().filter(|id| history.contains(*id)).collect();
                assert_eq!(surviving, ids(case.surviving), "{}", case.fact);
                claims.reverse();
            }
        }
    }
}
