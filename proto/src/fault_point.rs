//! Named points of the protocol at which a test can end or stop this process (feature `fault-points`).
//!
//! `HALFLIFE_FAULT_POINT=name:count:kill` ends the process with SIGKILL the count-th time it reaches that
//! point; `stop` instead of `kill` suspends it with SIGSTOP until somebody continues it. Without the feature
//! there are no points and the variable means nothing.

/// A place where a fault can land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPoint {
    /// A block of the initial weights is about to be sent.
    InitialBlock,
    /// A block of a gradient is about to be sent: others of the same step may be on their way.
    GradientBlock,
    /// The first block of a gradient to a server other than the first: between servers.
    NextServer,
    /// The first weights of a step came: it is applied somewhere, and not yet known to be elsewhere.
    FirstWeights,
    /// A version of the weights is whole and nothing of the next step is computed.
    WeightsComplete,
    /// The lead has assigned slots anew.
    Assigned,
    /// On a server: a block is updated and nobody knows of it yet.
    BlockApplied,
    /// On a server: every block's state is set aside for a checkpoint.
    CutTaken,
    /// On a server: its part of a checkpoint is written, and the lead does not know.
    PartWritten,
    /// On the lead: every part is written, and the manifest is not.
    BeforeManifest,
    /// On the lead: the manifest is written, and nobody has been told.
    AfterManifest,
    /// On the lead: a generation is claimed, and nobody carries it yet.
    Claimed,
    /// On a server: a block is read back, and others are not.
    BlockRestored,
    /// On a server: all blocks are read back, and the lead does not know.
    Restored,
}

/// Nothing happens here.
#[cfg(not(feature = "fault-points"))]
pub fn reach(_: FaultPoint) {}

#[cfg(feature = "fault-points")]
pub use armed::reach;

#[cfg(feature = "fault-points")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::FaultPoint;

    /// What was asked for.
    struct Fault {
        point: FaultPoint,
        /// Times until it happens.
        left: AtomicU64,
        signal: Signal,
    }

    static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let text = std::env::var("HALFLIFE_FAULT_POINT").ok()?;
        let fault = parse(&text);
        if fault.is_none() {
            // A panic would end one task and leave the rest waiting for it.
            eprintln!("HALFLIFE_FAULT_POINT: expected name:count:kill|stop, found {text:?}");
            std::process::exit(2);
        }
        fault
    });

    fn parse(text: &str) -> Option<Fault> {
        let mut parts = text.split(':');
        let point = match parts.next()? {
            "initial-block" => FaultPoint::InitialBlock,
            "gradient-block" => FaultPoint::GradientBlock,
            "next-server" => FaultPoint::NextServer,
            "first-weights" => FaultPoint::FirstWeights,
            "weights-complete" => FaultPoint::WeightsComplete,
            "assigned" => FaultPoint::Assigned,
            "block-applied" => FaultPoint::BlockApplied,
            "cut-taken" => FaultPoint::CutTaken,
            "part-written" => FaultPoint::PartWritten,
            "before-manifest" => FaultPoint::BeforeManifest,
            "after-manifest" => FaultPoint::AfterManifest,
            "claimed" => FaultPoint::Claimed,
            "block-restored" => FaultPoint::BlockRestored,
            "restored" => FaultPoint::Restored,
            _ => return None,
        };
        let left = AtomicU64::new(parts.next()?.parse().ok()?);
        let signal = match parts.next()? {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return None,
        };
        Some(Fault { point, left, signal })
    }

    /// Lets the fault happen here if this is where and when.
    pub fn reach(point: FaultPoint) {
        if let Some(fault) = &*FAULT
            && fault.point == point
            && fault.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            // A signal to oneself is not refused.
            let _ = kill_process(getpid(), fault.signal);
        }
    }
}
