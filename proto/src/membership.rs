//! What the lead tells workers and servers, and what they tell the lead.

use std::num::NonZeroU64;

use crate::blocks::BlockId;
use crate::contribution::Contribution;
use crate::hello::Hello;
use crate::ids::{Generation, ServerIndex, Step, Ticket};
use crate::manifest::Manifest;
use crate::placement::{Placement, ServerAddress};
use crate::refusal::Refusal;
use crate::slots::SlotRange;

/// The slots a worker computes from a step on, until its next assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Rises with every change; an older one that arrives late is ignored.
    pub epoch: u64,
    /// First step it holds for; a step already under way counts too.
    pub from_step: Step,
    /// Nodes of the slot tree; none for a spare.
    pub nodes: Vec<SlotRange>,
    /// This worker sends the initial weights.
    pub initialize: bool,
}

/// From the lead to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// New slots.
    Assignment(Assignment),
    /// The worker was taken for dead.
    Fenced(Refusal),
    /// The last step is complete on every server.
    Finished(Step),
    /// The job has ended without finishing.
    Stopped(Refusal),
    /// Start no step beyond this one; `None`: start any.
    Hold(Option<Step>),
    /// The worker is asked to leave; its slots are others' already.
    Drained,
}

/// From the lead to a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Taken in: the job, and the server's place in it.
    Admit {
        /// Who leads.
        lead: Hello,
        /// The server's index.
        index: ServerIndex,
        /// The whole job file.
        job_toml: String,
    },
    /// Hold these blocks.
    Place {
        /// The model.
        manifest: Manifest,
        /// Who holds what.
        placement: Placement,
        /// In a job that keeps checkpoints.
        checkpoint: Option<CheckpointPlan>,
    },
    /// Initial weights of one block, from a file.
    Initialize(Contribution),
    /// The job has stopped: take nothing more.
    Halt(Refusal),
    /// The job is over and everyone has what they need: exit.
    Finish(Step),
    /// The sums over the whole model that the servers waited for.
    Total(Total),
    /// With a quorum: exactly these slots make the step up. Every block holds them all.
    Close {
        /// The step under way.
        step: Step,
        /// Its slots, ascending.
        slots: Vec<u32>,
    },
    /// Take no push with these tickets any more, and say what became of them.
    Void(Vec<Ticket>),
    /// Tell which slots this step lacks: [`Report::Missing`].
    AskMissing(Step),
    /// End with this step, or say which later one cannot be undercut: [`Report::LastStep`].
    LastStep(Step),
    /// Set every block's state of this step aside and write it. It takes the place of an earlier order that is
    /// not carried out yet.
    Cut(Step),
    /// Contributions to steps up to this one survive every crash.
    Durable(Step),
}

/// Which state of the job a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointName {
    /// After this step.
    pub step: Step,
    /// Of this incarnation of the job's state.
    pub generation: Generation,
}

/// What a server must know of the job's checkpoints before it holds blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPlan {
    /// What the lead wrote into its store, to be found there.
    pub nonce: String,
    /// The state to begin with; `None`: the first worker, or a file, has it.
    pub restore: Option<CheckpointName>,
}

/// One server's part of a checkpoint, as it lies in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedFile {
    /// Size of the data file.
    pub bytes: u64,
    /// Size of its header.
    pub header_bytes: u64,
    /// BLAKE3 of the header.
    pub header_blake3: [u8; 32],
    /// BLAKE3 of the index beside it, which has every block's.
    pub index_blake3: [u8; 32],
}

/// What became of pushes on one server since its last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushesReport {
    /// Tickets applied on all its blocks.
    pub done: Vec<Ticket>,
    /// Answers to [`Order::Void`].
    pub voided: Vec<VoidedTicket>,
    /// Staleness of updates of blocks (the version at the update minus the one that the gradient was
    /// computed at), with how many updates were of it.
    pub update_staleness: Vec<(u64, u64)>,
}

impl PushesReport {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.voided.is_empty() && self.update_staleness.is_empty()
    }
}

/// What a server did with a push before its ticket was void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoidedTicket {
    /// The ticket.
    pub ticket: Ticket,
    /// Blocks that had taken the push: it counts there.
    pub applied: u64,
    /// Blocks that had not, and now never will.
    pub missing: u64,
}

/// What the lead answers to a worker that asks for a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketAnswer {
    /// Compute this one.
    Granted(Ticket),
    /// Not yet: ask again.
    Wait,
    /// Every ticket is done or void.
    Finished(Step),
}

/// How much waits on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerLoad {
    /// Bytes of gradients that wait for the rest of their step.
    pub gathered_bytes: u64,
    /// Element updates that wait for a compute thread.
    pub queued_work: u64,
    /// Open step streams.
    pub sessions: u32,
}

/// What a person does to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Start no further step.
    Pause,
    /// Go on.
    Resume,
    /// Take the slots of the worker with this number away and ask it to leave.
    Drain(u32),
    /// End early, in good order.
    Stop,
    /// Make a checkpoint as soon as possible.
    Checkpoint,
}

/// A node's sums of squares: of one quantity, or of two (a trust ratio's).
pub type BlockSums = [f64; 2];

/// What one server's blocks add to a norm over the whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// The step.
    pub step: Step,
    /// Which of the step's global norms, from 0.
    pub stage: u32,
    /// Its blocks' sums.
    pub blocks: Vec<(BlockId, BlockSums)>,
}

/// Sums over the whole model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// The step.
    pub step: Step,
    /// Which of the step's global norms, from 0.
    pub stage: u32,
    /// The sums.
    pub sums: BlockSums,
}

/// From a server to the lead.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Wants to serve.
    Register {
        /// Who it is.
        hello: Hello,
        /// Where it is reached.
        address: ServerAddress,
        /// Bytes it may use; `None`: no bound.
        memory_max: Option<NonZeroU64>,
    },
    /// Holds the blocks of a placement version.
    Placed(u64),
    /// All its blocks are complete at a step.
    Complete(Step),
    /// It met an error that ends the job.
    Halted(Refusal),
    /// Its part of a norm over the whole model.
    Partial(Partial),
    /// With a quorum: slots of the step under way that all its blocks have, told once each.
    Slots {
        /// The step.
        step: Step,
        /// The slots.
        slots: Vec<u32>,
    },
    /// News of pushes.
    Pushes(PushesReport),
    /// Slots that some of its blocks lack of a step; none when it is complete.
    Missing(Step, Vec<SlotRange>),
    /// The step it ends with.
    LastStep(Step),
    /// How much waits on it.
    Load(ServerLoad),
    /// Some block is past the step of an [`Order::Cut`]: at, or on its way to, `newest`.
    CutPassed {
        /// The step of the order.
        step: Step,
        /// The newest of any block.
        newest: Step,
    },
    /// Every block's state of the step is set aside.
    CutTaken(Step),
    /// Its part of a checkpoint is in the store.
    Saved(Step, SavedFile),
    /// Its part of a checkpoint could not be written.
    SaveFailed(Step, String),
}
