//! Bugs planted on purpose, one at a time, so that the simulator in `tests` can prove that it would find them: as
//! `halflife_server::planted`.
//!
//! Promises: without the feature `planted-bugs`, which only those tests switch on, [`planted`] is the constant
//! `false` and nothing of this is in the program. A bug is planted for one thread, so that tests run side by side.

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Of all that is committed the newest is continued, whichever generation committed it.
    LateCommitContinued,
    /// What the newest claim continues is thrown away.
    ContinuedPruned,
    /// A claim undoes what was committed meanwhile before its claimant has looked once more.
    ClaimCountsAtOnce,
}

halflife_proto::planted_bugs!(Bug);
