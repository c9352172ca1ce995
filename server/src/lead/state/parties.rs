//! What the lead decides about: the job as it was ordered, servers, workers, and what is to be done.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::job::Consistency;
use halflife_proto::membership::{Assignment, Notice, Order, SavedFile, ServerLoad};
use halflife_proto::placement::{Placement, ServerAddress};
use halflife_proto::refusal::Refusal;
use halflife_proto::slots::{SlotRange, SlotTree};

use super::{Behind, Demand, Forming, Keeping};

/// The part of the job the lead decides by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Servers that form the job.
    pub servers: u32,
    /// The tree over the slots.
    pub slots: SlotTree,
    /// Steps in the run.
    pub steps: Step,
    /// Elements per block.
    pub block_elements: u64,
    /// Initial weights come from a file that holds exactly these tensors, by name and shape.
    pub initial_tensors: Option<BTreeMap<String, Vec<u64>>>,
    /// Blocks of a tensor stay on one server, because the optimizer needs norms of it.
    pub whole_tensors: bool,
    /// Silence after which a worker is taken for dead.
    pub lease: Duration,
    /// When steps are applied.
    pub consistency: Consistency,
    /// What decides how much memory the job needs.
    pub demand: Demand,
    /// How it keeps checkpoints, if it does.
    pub checkpoints: Option<Keeping>,
    /// When it begins a generation with fewer servers; `None`: it waits for all.
    pub forming: Option<Forming>,
}

/// Something to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send an order to a server.
    Order(ServerIndex, Order),
    /// Send a notice to a worker.
    Notify(Incarnation, Notice),
    /// Every worker must hear that the job rests, or goes on.
    HoldChanged,
    /// Read the initial weights from their file and send them to the servers.
    LoadInitialWeights,
    /// Every server has written its part of a checkpoint: commit it.
    Commit(Written),
    /// Cut the link to a server: it comes back with another number.
    LetGo(ServerIndex),
    /// The job goes back to its last checkpoint, for this reason.
    Recover(String),
    /// A worker that was told to wait for a ticket may ask again.
    TicketReady(Incarnation),
    /// Worth a person's attention.
    Warn(String),
}

/// A checkpoint whose parts are all written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The step that it is of.
    pub step: Step,
    /// Each server's part.
    pub files: Vec<(ServerIndex, SavedFile)>,
    /// In the asynchronous modes: of the tickets up to its step, those that were void and torn.
    pub tickets: Option<(u64, u64)>,
}

/// How the job stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Not all servers are here.
    WaitingForServers,
    /// The servers read a checkpoint.
    Restoring,
    /// Nobody has shown a model yet, or its blocks are being placed.
    WaitingForWorkers,
    /// The first weights are being set.
    Initializing,
    /// Steps are being made.
    Training,
    /// Asked to rest.
    Paused,
    /// The last step is complete everywhere.
    Finished,
    /// It ended early.
    Stopped(Refusal),
}

/// A server as the lead knows it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its process.
    pub incarnation: Incarnation,
    /// Where workers reach it.
    pub address: ServerAddress,
    /// Whether it holds its blocks.
    pub placed: bool,
    /// Newest step complete on all its blocks.
    pub complete: Option<Step>,
    /// Bytes it may use; `None`: no bound.
    pub memory_max: Option<NonZeroU64>,
    /// How much waits on it, as it said last.
    pub load: ServerLoad,
}

/// What a server holds of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Blocks.
    pub blocks: u64,
    /// Their elements.
    pub elements: u64,
}

/// A worker as the lead knows it.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its place in the order of joining, from 0; never used again.
    pub number: u32,
    /// Its build and machine.
    pub fingerprint: Fingerprint,
    /// The step it says it computes.
    pub step: Step,
    /// When it was last heard of.
    pub heard_at: Duration,
    /// Steps between the one it computed then and the one under way then.
    pub lag: u64,
    /// The step under way then.
    pub(super) under_way_then: Step,
    /// It was then where the job had been the time before: it is not more than a heartbeat behind.
    pub(super) follows: bool,
    /// Its assignments, by rising epoch and rising first step: the one in effect at a step is the last
    /// whose first step is not beyond it. Never empty once the worker has joined.
    pub(super) assignments: Vec<Assignment>,
    /// Servers it says it cannot reach.
    pub unreachable: Vec<ServerIndex>,
    /// It has said that it has the weights.
    pub(super) ready: bool,
    /// It joined a job that others train, and gets no slots before it is ready.
    pub arriving: bool,
    /// Why it has no slots although it lives.
    pub behind: Option<Behind>,
    /// Was asked to leave.
    pub drained: bool,
    /// Steps it held up.
    pub(super) stalls: u32,
}

impl Worker {
    /// Its newest assignment.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        self.assignments.last().expect("a worker has an assignment from the moment it joins")
    }

    /// What it computes of a step.
    pub(super) fn nodes_at(&self, step: Step) -> &[SlotRange] {
        let in_effect = self.assignments.iter().rfind(|assignment| assignment.from_step <= step);
        in_effect.map_or(&[], |assignment| &assignment.nodes)
    }

    /// Takes a new one; forgets those it ends, and those that ended before the step after `complete`.
    pub(super) fn assign(&mut self, assignment: Assignment, complete: Option<Step>) {
        self.assignments.retain(|older| older.from_step < assignment.from_step);
        self.assignments.push(assignment);
        let under_way = complete.map_or(Step::ZERO, Step::next);
        let in_effect = self.assignments.iter().rposition(|assignment| assignment.from_step <= under_way);
        self.assignments.drain(..in_effect.unwrap_or(0));
    }
}

/// What a worker has been told already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    pub(super) epoch: u64,
    pub(super) hold: Option<Step>,
    pub(super) drained: bool,
    pub(super) finished: bool,
}

/// What a worker learns when it joins.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// The worker's number.
    pub number: u32,
    /// Who holds what.
    pub placement: Placement,
    /// Its slots.
    pub assignment: Assignment,
    /// Newest step complete on every server.
    pub step: Option<Step>,
}
