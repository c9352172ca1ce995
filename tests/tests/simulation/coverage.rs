//! What was met, how often: a count per name, over one run or many, and what must not be missed.

use std::collections::BTreeMap;
use std::fmt;

use halflife_proto::contribution::Outcome;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::v1;

use crate::faults::{Fault, Point};
use crate::server_faults::{ServerFault, ServerPoint};

/// A change of state, of the lead, a server, or a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transition {
    /// The lead takes in a server; its shard halts; it may go.
    Registered,
    ServerLost,
    Halted,
    ServerReleased,
    /// A worker joins: before the initialization, with none there, with others there, with an answer that got lost.
    JoinedAtFirst,
    JoinedAlone,
    JoinedLater,
    JoinedAgain,
    JoinedAsSpare,
    /// It has shown that it can compute.
    Arrived,
    /// Slots move: because of a joiner, because of a loss.
    Assigned,
    Reassigned,
    Warned,
    Fenced,
    Left,
    /// Steps.
    Initialized,
    StepComplete,
    NormTotalled,
    Finished,
    /// A worker has all its streams; goes on after a pause; comes back as another; was drained.
    MemberComplete,
    Continued,
    Rejoined,
    Drained,
    GaveUpWaiting,
    HeardOfTheEnd,
    HeardOfTheStop,
    /// Streams: where they begin, and that they were opened again.
    StreamAtStep,
    StreamAtNewest,
    StreamAgain,
    HeartAgain,
    /// The watch over progress: servers are asked what they lack; a worker's slots become others', too.
    AskedForTheMissing,
    StoodBack,
    /// The operator lets the job rest, or ends it early.
    Rested,
    HeardOfARest,
    HeardOfADrain,
    EndedEarly,
    AskedToEnd,
    RefusedBeyondTheEnd,
    /// The lead closes a step with a quorum; a slot that some block had is left out.
    Closed,
    LeftOut,
    /// Tickets: asked for, given, done or void; what a worker does again.
    Granted,
    GrantedAgain,
    ToldToWait,
    TicketReady,
    TicketDone,
    TicketVoid,
    TicketTorn,
    SnapshotTaken,
    PushedAgain,
    MarkedAgain,
    /// Versions of the whole weights.
    VersionAssembled,
    Torn,
    VersionPulled,
    /// Checkpoints: ordered, passed by a server, set aside, written, committed, given up; and what may go.
    CutOrdered,
    CutPassed,
    CutTaken,
    PartWritten,
    PartFailed,
    Committed,
    CommitFailed,
    GivenUp,
    Pruned,
    EndKept,
    EndGivenUp,
    /// A lead that is gone commits, or claims, all the same.
    CommittedLate,
    ClaimedByNobody,
    /// Servers and the lead go, and the job goes back.
    ServerCrashed,
    LeadCrashed,
    LinkLost,
    LeadLost,
    WentBack,
    Claimed,
    ClaimedAgain,
    Begun,
    BegunAnew,
    GoesOn,
    BlocksRestored,
    LateRefused,
    HeardOfAGeneration,
    /// A lead that stood still goes on.
    FormerLeadWentOn,
    /// Seldom: not awaited.
    CommitRefused,
    ClaimFailed,
    ClaimTaken,
    PruneStopped,
}

impl Transition {
    /// Those that must not be missed.
    pub const ALL: [Transition; 80] = [
        Transition::Registered,
        Transition::ServerLost,
        Transition::Halted,
        Transition::ServerReleased,
        Transition::JoinedAtFirst,
        Transition::JoinedAlone,
        Transition::JoinedLater,
        Transition::JoinedAgain,
        Transition::JoinedAsSpare,
        Transition::Arrived,
        Transition::Assigned,
        Transition::Reassigned,
        Transition::Warned,
        Transition::Fenced,
        Transition::Left,
        Transition::Initialized,
        Transition::StepComplete,
        Transition::NormTotalled,
        Transition::Finished,
        Transition::MemberComplete,
        Transition::Continued,
        Transition::Rejoined,
        Transition::Drained,
        Transition::GaveUpWaiting,
        Transition::HeardOfTheEnd,
        Transition::HeardOfTheStop,
        Transition::StreamAtStep,
        Transition::StreamAtNewest,
        Transition::StreamAgain,
        Transition::HeartAgain,
        Transition::AskedForTheMissing,
        Transition::StoodBack,
        Transition::Rested,
        Transition::HeardOfARest,
        Transition::HeardOfADrain,
        Transition::EndedEarly,
        Transition::AskedToEnd,
        Transition::RefusedBeyondTheEnd,
        Transition::Closed,
        Transition::LeftOut,
        Transition::Granted,
        Transition::GrantedAgain,
        Transition::ToldToWait,
        Transition::TicketReady,
        Transition::TicketDone,
        Transition::TicketVoid,
        Transition::TicketTorn,
        Transition::SnapshotTaken,
        Transition::PushedAgain,
        Transition::MarkedAgain,
        Transition::VersionAssembled,
        Transition::Torn,
        Transition::VersionPulled,
        Transition::CutOrdered,
        Transition::CutPassed,
        Transition::CutTaken,
        Transition::PartWritten,
        Transition::PartFailed,
        Transition::Committed,
        Transition::CommitFailed,
        Transition::GivenUp,
        Transition::Pruned,
        Transition::EndKept,
        Transition::EndGivenUp,
        Transition::CommittedLate,
        Transition::ClaimedByNobody,
        Transition::ServerCrashed,
        Transition::LeadCrashed,
        Transition::LinkLost,
        Transition::LeadLost,
        Transition::WentBack,
        Transition::Claimed,
        Transition::ClaimedAgain,
        Transition::Begun,
        Transition::BegunAnew,
        Transition::GoesOn,
        Transition::BlocksRestored,
        Transition::LateRefused,
        Transition::HeardOfAGeneration,
        Transition::FormerLeadWentOn,
    ];
}

/// Why the simulator never meets a cause; `None` for one that it must.
fn why_never(cause: RefusalCause) -> Option<&'static str> {
    match cause {
        RefusalCause::OutOfMemory => {
            Some("no server bounds its memory, no worker leaves 4,096 replies unread; unit tests")
        }
        RefusalCause::TooLarge => Some("takes a model of over 131,072 blocks; `lead/state/tests/job.rs` tests it"),
        RefusalCause::Unimplemented => Some("for what the wire reserves: the simulator speaks no wire upwards"),
        RefusalCause::NotLead => Some("an answer of the edge of servers that do not lead"),
        RefusalCause::WrongProtocol
        | RefusalCause::WrongJob
        | RefusalCause::WrongGeneration
        | RefusalCause::Fenced
        | RefusalCause::ManifestMismatch
        | RefusalCause::UnknownBlock
        | RefusalCause::NotOwner
        | RefusalCause::WrongDtype
        | RefusalCause::WrongSize
        | RefusalCause::MisalignedSlots
        | RefusalCause::StepAhead
        | RefusalCause::StepGone
        | RefusalCause::NotInitialized
        | RefusalCause::InitializationDiffers
        | RefusalCause::NonfiniteData
        | RefusalCause::InvalidWeight
        | RefusalCause::Malformed
        | RefusalCause::NotReady
        | RefusalCause::JobStopped
        | RefusalCause::JobFull => None,
    }
}

/// Every cause of the contract.
fn causes() -> impl Iterator<Item = RefusalCause> {
    let wire = (1..).map_while(|number| v1::RefusalCause::try_from(number).ok());
    wire.map(|cause| Refusal::from(v1::Refusal { cause: cause.into(), ..v1::Refusal::default() }).cause)
}

/// Counts by name: what kind of thing, and which.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<(&'static str, String), u64>);

impl Coverage {
    /// Counts one.
    pub fn count(&mut self, kind: &'static str, which: impl fmt::Debug) {
        *self.0.entry((kind, format!("{which:?}"))).or_default() += 1;
    }

    /// Counts a change of state.
    pub fn pass(&mut self, transition: Transition) {
        self.count("transition", transition);
    }

    /// Takes in another's counts.
    pub fn add(&mut self, other: &Coverage) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }

    fn of(&self, kind: &'static str, which: impl fmt::Debug) -> u64 {
        self.0.get(&(kind, format!("{which:?}"))).copied().unwrap_or(0)
    }

    /// What was met less than `least` times though it can be met.
    pub fn missed(&self, least: u64) -> Vec<String> {
        let mut missed = Vec::new();
        let mut look = |kind: &'static str, which: &dyn fmt::Debug| {
            let count = self.of(kind, which);
            if count < least {
                missed.push(format!("{kind} {which:?}: {count}"));
            }
        };
        Fault::ALL.iter().for_each(|fault| look("fault", fault));
        Point::ALL.iter().chain([&Point::Now]).for_each(|point| look("point", point));
        ServerFault::ALL.iter().for_each(|fault| look("server fault", fault));
        ServerPoint::ALL.iter().chain([&ServerPoint::Now]).for_each(|point| look("server point", point));
        Transition::ALL.iter().for_each(|transition| look("transition", transition));
        [Outcome::Added, Outcome::Replaced, Outcome::Duplicate, Outcome::AlreadyApplied]
            .iter()
            .for_each(|outcome| look("outcome", outcome));
        causes().filter(|cause| why_never(*cause).is_none()).for_each(|cause| look("refusal", &cause));
        ["Finished", "ServerLost", "Nonfinite", "Early"].iter().for_each(|ending| look("ending", ending));
        missed
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((kind, which), count) in &self.0 {
            writeln!(f, "{kind:<12} {which:<24} {count:>12}")?;
        }
        for (cause, why) in causes().filter_map(|cause| Some((cause, why_never(cause)?))) {
            writeln!(f, "refusal      {:<24}        never: {why}", format!("{cause:?}"))?;
        }
        Ok(())
    }
}
