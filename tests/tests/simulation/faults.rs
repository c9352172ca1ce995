//! What can go wrong, and when it strikes.

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is gone at once, and comes back as a new one.
    Crash,
    /// All workers are gone at once.
    CrashAll,
    /// The process stands still (SIGSTOP) and goes on later, where it was.
    Pause,
    /// The worker is told to end (SIGTERM) and leaves; another comes later.
    Leave,
    /// The operator drains the worker; another comes later.
    Drain,
    /// The operator lets the job rest, and go on.
    Rest,
    /// A connection is reset; both ends notice soon.
    CutData,
    CutHeartbeats,
    /// A connection loses all from some message on; the ends notice only by keepalive.
    LoseData,
    LoseHeartbeats,
    /// A link carries nothing for a while, in both directions or one.
    SilentData,
    SilentDataUp,
    SilentDataDown,
    SilentHeartbeats,
    SilentHeartbeatsUp,
    SilentHeartbeatsDown,
    /// A worker reaches nobody for a while.
    Isolation,
    SlowData,
    SlowHeartbeats,
    SlowServer,
    /// Contributions arrive twice.
    Copies,
    /// Messages overtake each other.
    Disorder,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 22] = [
        Fault::Crash,
        Fault::CrashAll,
        Fault::Pause,
        Fault::Leave,
        Fault::Drain,
        Fault::Rest,
        Fault::CutData,
        Fault::CutHeartbeats,
        Fault::LoseData,
        Fault::LoseHeartbeats,
        Fault::SilentData,
        Fault::SilentDataUp,
        Fault::SilentDataDown,
        Fault::SilentHeartbeats,
        Fault::SilentHeartbeatsUp,
        Fault::SilentHeartbeatsDown,
        Fault::Isolation,
        Fault::SlowData,
        Fault::SlowHeartbeats,
        Fault::SlowServer,
        Fault::Copies,
        Fault::Disorder,
    ];

    /// Those that strike a worker on its way in.
    pub const OF_JOINERS: [Fault; 7] = [
        Fault::Crash,
        Fault::Pause,
        Fault::CutHeartbeats,
        Fault::LoseHeartbeats,
        Fault::SilentHeartbeats,
        Fault::Isolation,
        Fault::SlowHeartbeats,
    ];

    /// Those after which a worker goes on by itself, at once.
    pub const LIGHT: [Fault; 4] = [Fault::CutData, Fault::CutHeartbeats, Fault::Copies, Fault::Disorder];

    /// Whether the worker's heart beats on while it is cut off from its work. Only a watch over progress could tell.
    pub fn hides_behind_heartbeats(self) -> bool {
        matches!(
            self,
            Fault::LoseData
                | Fault::SilentData
                | Fault::SilentDataUp
                | Fault::SilentDataDown
                | Fault::SilentHeartbeatsDown
        )
    }
}

/// The point of the protocol at which a fault strikes the worker that has just come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Any, and any worker.
    Now,
    /// So many blocks of a step are on their way.
    AfterBlocks,
    /// One server has all blocks of a gradient, another none.
    BetweenServers,
    /// A block of the step is applied, its weights are not sent.
    AppliedNotSent,
    /// Slots of a lost worker are given to this one.
    Reassigned,
    /// Some of the initial weights are on their way.
    Initializing,
    /// The lead has taken the worker in; the worker does not know yet.
    Joining,
    /// The lead has given the worker a ticket; the worker does not know yet.
    Granted,
}

impl Point {
    /// All but `Now`.
    pub const ALL: [Point; 7] = [
        Point::AfterBlocks,
        Point::BetweenServers,
        Point::AppliedNotSent,
        Point::Reassigned,
        Point::Initializing,
        Point::Joining,
        Point::Granted,
    ];

    /// Whether jobs that push with tickets come to it, and whether others do.
    pub fn is_of(self, has_tickets: bool) -> bool {
        match self {
            Point::Granted => has_tickets,
            Point::Reassigned => !has_tickets,
            _ => true,
        }
    }
}

/// A fault that will strike.
#[derive(Clone, Debug)]
pub struct PlannedFault {
    /// The step whose completion sets it off.
    pub at_step: u64,
    /// So long after that, or the first time a worker comes to the point from then on.
    pub after_us: u64,
    pub point: Point,
    /// For `AfterBlocks` and `Initializing`.
    pub blocks: u64,
    pub fault: Fault,
    pub lasts_us: u64,
}
