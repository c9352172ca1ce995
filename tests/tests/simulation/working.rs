//! What a member does with its time: looks what there is to do, computes, sends, waits. As `Member::next_work` and
//! the training loop do it: one node after the other, and no look before the last one is sent.

use std::collections::VecDeque;
use std::sync::Arc;

use halflife_client::WeightsVersion;
use halflife_client::simulation::Sight;
use halflife_proto::contribution::{BlockWeights, Contribution};
use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::refusal::Refusal;
use halflife_proto::slots::SlotRange;

use crate::coverage::Transition;
use crate::event::{Timer, Up};
use crate::gradient::{initial_weights, slot_gradient};
use crate::network::{ConnectionId, Kind};
use crate::pushing::{Parts, Reading};
use crate::streams::SHIPMENTS_MAX;
use crate::world::World;

/// As in `member.rs`.
const TORN_PATIENCE_US: u64 = 250_000;

/// What a member is doing.
pub enum Activity {
    Waiting,
    Initializing,
    Computing {
        step: Step,
        nodes: VecDeque<SlotRange>,
        weights: Arc<WeightsVersion>,
    },
    Sending {
        sent: Sent,
        opened: u64,
        left: Parts,
        then: Option<Rest>,
    },
    /// Reads a version that it skipped, one server after the other.
    Pulling {
        step: Step,
        blocks: Vec<(ServerIndex, BlockWeights)>,
    },
    /// For the answer to a request for a ticket, or for the time to ask again.
    Asking(Option<ConnectionId>),
    /// For the newest weights: until a mark of at least this number is back; sent when so many streams had been
    /// opened.
    Reading {
        wanted: u64,
        opened: u64,
        why: Reading,
    },
    Leaving,
}

impl Activity {
    /// For whoever reads of a broken promise.
    pub fn name(&self) -> &'static str {
        match self {
            Activity::Waiting => "waits",
            Activity::Initializing => "initializes",
            Activity::Computing { .. } => "computes",
            Activity::Sending { .. } => "sends",
            Activity::Pulling { .. } => "pulls",
            Activity::Asking(_) => "asks for a ticket",
            Activity::Reading { .. } => "reads",
            Activity::Leaving => "leaves",
        }
    }
}

/// What is being sent.
#[derive(Clone, Copy)]
pub enum Sent {
    Initial,
    Node(Step, SlotRange),
    Push,
}

/// What is computed after that.
pub struct Rest {
    step: Step,
    nodes: VecDeque<SlotRange>,
    weights: Arc<WeightsVersion>,
}

fn up(contributions: Vec<Contribution>) -> VecDeque<Up> {
    contributions.into_iter().map(Up::Contribution).collect()
}

impl World<'_> {
    /// Something of what a member knows has changed: it looks what there is to do, unless it is busy.
    pub(crate) fn changed(&mut self, worker: usize) {
        let servers = self.servers.len();
        let Some(member) = self.workers[worker].member() else { return };
        member.changes += 1;
        let is_complete = member.streams.iter().take(servers).all(|stream| stream.has_been_open());
        if let Activity::Reading { wanted, opened, why } = member.activity {
            return self.reading_may_be_over(worker, wanted, opened, why);
        }
        if !is_complete || !matches!(member.activity, Activity::Waiting) {
            return;
        }
        if self.scenario.job.mode.has_tickets() {
            return self.look_for_push(worker);
        }
        let changes = member.changes;
        match member.decisions.look() {
            Sight::Finished => self.leave(worker),
            _ if member.is_drained => self.leave(worker),
            Sight::Initialize => self.begin_to_initialize(worker),
            Sight::Compute(step, nodes, weights) => {
                self.workers[worker].blocks_sent = 0;
                self.compute(worker, Rest { step, nodes: nodes.into(), weights });
            }
            Sight::Torn(_) => self.set_timer(worker, TORN_PATIENCE_US, Timer::Patience { changes }),
            Sight::Nothing => {}
        }
    }

    pub(crate) fn begin_to_initialize(&mut self, worker: usize) {
        if let Some(member) = self.workers[worker].member() {
            member.activity = Activity::Initializing;
            self.set_timer(worker, 10_000, Timer::Computed);
        }
    }

    fn compute(&mut self, worker: usize, rest: Rest) {
        let Rest { step, nodes, weights } = rest;
        let slots = nodes.front().map_or(0, |node| node.count());
        let own_us = u64::from(slots) * self.workers[worker].slot_us;
        if let Some(member) = self.workers[worker].member() {
            member.activity = Activity::Computing { step, nodes, weights };
        }
        self.set_timer(worker, own_us, Timer::Computed);
    }

    /// A gradient, or the initial weights, are there to be sent.
    pub(crate) fn computed(&mut self, worker: usize) {
        let (job, servers) = (&self.scenario.job, self.servers.len());
        let Some(member) = self.workers[worker].member() else { return };
        let server_indices = (0..servers).map(|server| (server, ServerIndex(server as u32)));
        let (sent, left, then): (Sent, Parts, _) = match std::mem::replace(&mut member.activity, Activity::Waiting) {
            Activity::Initializing => {
                let weights = initial_weights(job.seed, job.layout.elements());
                let cut = |index| up(member.decisions.initial_contributions(index, &weights));
                (Sent::Initial, server_indices.map(|(server, index)| (server, cut(index))).collect(), None)
            }
            Activity::Computing { step, nodes, .. } if job.mode.has_tickets() => {
                return self.push_computed(worker, step, nodes[0]);
            }
            Activity::Computing { step, mut nodes, weights } => {
                let Some(node) = nodes.pop_front() else { return };
                let gradient = member.decisions.sum(node, |slot| slot_gradient(job, step, slot, &weights.values));
                let cut = |index| up(member.decisions.contributions(index, step, node, &gradient));
                let left = server_indices.map(|(server, index)| (server, cut(index))).collect();
                let then = (!nodes.is_empty()).then_some(Rest { step, nodes, weights });
                (Sent::Node(step, node), left, then)
            }
            other => {
                member.activity = other;
                return;
            }
        };
        if let Some(member) = self.workers[worker].member() {
            let opened = member.opened;
            member.activity = Activity::Sending { sent, opened, left, then };
        }
        self.sending_may_go_on(worker);
    }

    /// Queues what is left of a shipment where there is room; servers whose stream is broken are passed over.
    pub(crate) fn sending_may_go_on(&mut self, worker: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        let Activity::Sending { left, .. } = &mut member.activity else { return };
        let mut queued = Vec::new();
        for (server, contributions) in std::mem::take(left) {
            let stream = &mut member.streams[server];
            match stream.connection.filter(|_| stream.is_open) {
                None => {}
                Some(_) if stream.shipments.len() >= SHIPMENTS_MAX => left.push((server, contributions)),
                Some(connection) => {
                    stream.shipments.push_back(contributions);
                    queued.push(connection);
                }
            }
        }
        if left.is_empty()
            && let Activity::Sending { sent, opened, then, .. } =
                std::mem::replace(&mut member.activity, Activity::Waiting)
        {
            // A stream that was opened meanwhile has not got it.
            if opened == member.opened {
                match sent {
                    Sent::Initial => member.decisions.note_initialized(),
                    Sent::Node(step, node) => member.decisions.note_sent(step, node),
                    Sent::Push => {} // kept until it is acknowledged
                }
            }
            // With a quorum, a step may be over before a slow worker has all its slots.
            let newest = member.decisions.weights().map(|weights| weights.step);
            match then.filter(|rest| newest < Some(rest.step)) {
                Some(rest) => self.compute(worker, rest),
                None => self.changed(worker),
            }
        }
        for connection in queued {
            self.pump_up(connection);
        }
    }

    pub(crate) fn receive_weights(&mut self, worker: usize, server: usize, weights: &BlockWeights) {
        let Some(member) = self.workers[worker].member() else { return };
        let numbers = [4, worker as u64, server as u64, weights.step.0, u64::from(weights.block.index)];
        self.trace.note(self.now, &numbers, || {
            format!("worker {worker}: {} of {} from server {server}", weights.step, weights.block)
        });
        match member.decisions.receive(ServerIndex(server as u32), weights) {
            Ok(version) => {
                if let Some(version) = version {
                    self.coverage.pass(Transition::VersionAssembled);
                    self.check_version(worker, &version);
                }
                self.may_be_ready(worker);
                self.changed(worker);
            }
            Err(violation) => self.promises.fail(format!("worker {worker} cannot use its weights: {violation}")),
        }
    }

    /// Looks at whole weights, unless they are of a generation that is over and the worker does not know.
    fn check_version(&mut self, worker: usize, version: &WeightsVersion) {
        if self.is_up_to_date(worker) {
            self.promises.check_version(worker, version);
        }
    }

    /// Whether a worker is a member of the generation that is led now.
    pub(crate) fn is_up_to_date(&self, worker: usize) -> bool {
        self.lead.is_leading && self.workers[worker].generation() == Some(self.lead.generation)
    }

    /// A version is still torn: it is pulled, unless something has changed meanwhile.
    pub(crate) fn patience_is_over(&mut self, worker: usize, changes: u64) {
        let Some(member) = self.workers[worker].member() else { return };
        if member.changes != changes || !matches!(member.activity, Activity::Waiting) {
            return;
        }
        if let Sight::Torn(step) = member.decisions.look() {
            member.activity = Activity::Pulling { step, blocks: Vec::new() };
            self.coverage.pass(Transition::Torn);
            self.open(worker, 0, Kind::Call, Up::Pull(step));
        }
    }

    pub(crate) fn pulled(&mut self, worker: usize, server: usize, answer: Result<Vec<BlockWeights>, Refusal>) {
        let servers = self.servers.len();
        let Some(member) = self.workers[worker].member() else { return };
        let Activity::Pulling { step, blocks } = &mut member.activity else { return };
        let step = *step;
        match answer {
            Ok(more) => blocks.extend(more.into_iter().map(|block| (ServerIndex(server as u32), block))),
            Err(_) => return self.pull_failed(worker), // the servers have moved on
        }
        if server + 1 < servers {
            self.open(worker, server + 1, Kind::Call, Up::Pull(step));
            return;
        }
        let blocks = std::mem::take(blocks);
        match member.decisions.receive_pulled(step, &blocks) {
            Ok(version) => {
                self.coverage.pass(Transition::VersionPulled);
                self.check_version(worker, &version);
            }
            Err(violation) => self.promises.fail(format!("worker {worker} cannot use what it pulled: {violation}")),
        }
        self.pull_failed(worker);
    }

    /// A pull is over, with or without success.
    pub(crate) fn pull_failed(&mut self, worker: usize) {
        if let Some(member) = self.workers[worker].member()
            && matches!(member.activity, Activity::Pulling { .. })
        {
            member.activity = Activity::Waiting;
            self.changed(worker);
        }
    }
}
