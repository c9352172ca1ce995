//! Bugs planted on purpose, one at a time, so that the simulator in `tests` can prove that it would find them.
//!
//! Promises: without the feature `planted-bugs`, which only those tests switch on, [`planted`] is the constant
//! `false` and nothing of this is in the program. A bug is planted for one thread, so that tests run side by side.

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// A node that is already held is added once more.
    ForgottenDedupe,
    /// A covering node is added beside the nodes it covers.
    CoveringNodeAdded,
    /// A node that covers some of what is held already is not taken.
    LateNodeIgnored,
    /// A step is applied with its last slot missing.
    PartialStepApplied,
    /// A contribution of any generation is taken.
    OldGenerationAccepted,
    /// A stream that names an older step begins with the newest block, under the older step's number.
    StaleBaseline,
    /// A worker that was silent for a lease stays a member, with its slots.
    MissingFence,
    /// Heartbeats of a fenced incarnation are answered as if it were a member.
    FencedHeartbeatAccepted,
    /// The slots of a worker that is gone stay with nobody.
    SlotsNotMoved,
    /// Nobody notices that a step takes too long.
    NoProgressWatch,
    /// With a quorum each block closes its step with the first slots that it has.
    QuorumPerBlock,
    /// With a quorum a slot counts as soon as one server has it.
    QuorumOfOneServer,
    /// A worker starts one push more ahead of the slowest than the bound allows.
    StalenessOffByOne,
    /// A worker that joins begins at the fastest clock.
    JoinerAtFastestClock,
    /// The ticket of a worker that is gone stays open.
    TicketNeverExpires,
    /// A ticket is done once one server has applied it.
    DoneOnOneServer,
    /// A push that a block has taken is taken again when it is sent again.
    PushCountedTwice,
    /// A block that a push has not reached takes it although its ticket is void.
    VoidedPushApplied,
    /// A worker that joins alone begins with a later step than the one under way.
    JoinerBeginsLate,
    /// A block sets its state aside one version too late.
    CutTooLate,
    /// What is set aside has the planes as they are when it is written, not as they were.
    #[cfg_attr(not(feature = "planted-bugs"), allow(dead_code, reason = "only what looks from outside can copy late"))]
    PlanesNotCopied,
    /// A checkpoint is committed when one server's part is missing.
    CommittedBeforeAllSaved,
    /// The updates that bias correction counts begin anew after a restore.
    UpdatesNotRestored,
    /// Tickets beyond a cut are given when the first server has set its state aside.
    TicketsBeyondTheCut,
    /// A step is told to be durable when its parts are written.
    DurableBeforeCommit,
    /// A job is finished before its last checkpoint is made.
    FinishedBeforeLastCheckpoint,
    /// A server agrees to end with what all its blocks have completed, though one of them is past it.
    EndsBehindABlock,
    /// With a quorum a step is closed that is beyond the one the servers are asked to end with.
    ClosedBeyondTheEnd,
    /// After a restore a quorum is looked for from step 1 on.
    QuorumNotResumed,
}

halflife_proto::planted_bugs!(Bug);
