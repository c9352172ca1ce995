//! What is promised where each push is applied by itself (P1, P3): a ticket is given once, its push is in every block
//! exactly once or void and counted; nobody starts too far ahead; whoever is granted a ticket sees all that was done.
//!
//! A reckoning of its own: of answers, orders and reports as they pass, and of what blocks have taken, push by push.
//! `replay.rs` knows the bits.

mod cutting;
mod settling;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use halflife_checkpoint::CheckpointId;
use halflife_optim::Optimizer;
use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::contribution::{Outcome, Payload, Push};
use halflife_proto::ids::{Incarnation, Step, Ticket};
use halflife_server::lead::Tickets;

use crate::replay::Replay;
use crate::scenario::{BLOCK_ELEMENTS, Job, Mode};

/// Whether a promise holds; if not, how it is broken.
pub type Kept = Result<(), String>;

/// Everything about the tickets of a job.
pub struct Ledger<'a> {
    job: &'a Job,
    optimizer: Optimizer,
    bound: Option<u64>,
    /// Those that change.
    blocks: BTreeMap<BlockId, Replay>,
    /// Completed pushes of the living, on top of the slowest clock when they joined.
    clocks: BTreeMap<Incarnation, u64>,
    joined: usize,
    /// In the order of their numbers, from 1.
    tickets: Vec<Given>,
    last: u64,
    /// What servers were told to refuse, as far as the order has arrived.
    refused: BTreeSet<(usize, Ticket)>,
    /// By block: the version in front of any mark that follows a grant, since the lead knows of it.
    known: HashMap<BlockId, Step>,
    updates: u64,
    staleness_max: u64,
    /// By checkpoint and block: the pushes that were set aside.
    cuts: BTreeMap<(CheckpointId, BlockId), usize>,
}

struct Given {
    worker: Incarnation,
    sequence: u64,
    fate: Fate,
    /// Servers that have applied it everywhere, or that have said what became of it.
    servers: BTreeSet<usize>,
    ordered_void: BTreeSet<usize>,
    taken: u64,
    missing: u64,
    /// When it was given: what was known, and who lived and had joined.
    known: HashMap<BlockId, Step>,
    living: usize,
    joined: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Done,
    /// Its worker is gone; the servers are asked.
    Voiding,
    Void,
    Torn,
}

/// A push as a block answers it.
pub struct Answered<'a> {
    pub server: usize,
    pub block: BlockId,
    pub push: Push,
    /// The version that it was computed at.
    pub read: Step,
    pub weight: f64,
    pub payload: &'a Payload,
    pub outcome: Outcome,
}

impl<'a> Ledger<'a> {
    /// No ticket is given.
    pub fn new(job: &'a Job) -> Ledger<'a> {
        let optimizer = Optimizer::new(&job.spec.optimizer, job.spec.job.steps).expect("a job spec's optimizer");
        let blocks = all_blocks(&job.manifest, BLOCK_ELEMENTS as u64).map(|(block, _)| block);
        let changing = blocks.filter(|block| job.changes(block.tensor));
        let blocks = changing.map(|block| (block, Replay::new(job, &optimizer, block))).collect();
        let bound = match job.mode {
            Mode::Bounded(bound) => Some(bound),
            Mode::Sync | Mode::Quorum(_) | Mode::Async => None,
        };
        Ledger {
            job,
            optimizer,
            bound,
            blocks,
            clocks: BTreeMap::new(),
            joined: 0,
            tickets: Vec::new(),
            last: job.spec.job.steps,
            refused: BTreeSet::new(),
            known: HashMap::new(),
            updates: 0,
            staleness_max: 0,
            cuts: BTreeMap::new(),
        }
    }

    // ---- membership ----

    /// A worker has joined: it begins at the slowest clock.
    pub fn join(&mut self, worker: Incarnation, of_lead: Option<&Tickets>) -> Kept {
        if !self.clocks.contains_key(&worker) {
            let slowest = self.clocks.values().copied().min().unwrap_or(0);
            self.clocks.insert(worker, slowest);
            self.joined += 1;
        }
        let (expected, found) = (self.clocks.get(&worker), of_lead.and_then(|tickets| tickets.clock(worker)));
        match found == expected.copied() {
            true => Ok(()),
            false => Err(format!("P3: {worker} begins at clock {found:?}, the slowest is at {expected:?}")),
        }
    }

    /// Who lives now: the open tickets of the others are void.
    pub fn note_living(&mut self, is_member: impl Fn(Incarnation) -> bool) {
        self.clocks.retain(|worker, _| is_member(*worker));
        for given in self.tickets.iter_mut().filter(|given| given.fate == Fate::Open) {
            if !self.clocks.contains_key(&given.worker) {
                given.fate = Fate::Voiding;
                given.servers.clear();
            }
        }
    }

    /// The lead orders a server to refuse these.
    pub fn order_void(&mut self, server: usize, tickets: &[Ticket]) -> Kept {
        for ticket in tickets {
            match self.given(*ticket)? {
                given if given.fate == Fate::Voiding => _ = given.ordered_void.insert(server),
                given => return Err(format!("{ticket} of {} is {:?} and shall be void", given.worker, given.fate)),
            }
        }
        Ok(())
    }

    /// Every ticket of a worker that is gone is void, and `servers` servers were told.
    pub fn check_void(&self, servers: usize) -> Kept {
        let forgotten = |given: &&Given| given.fate == Fate::Voiding && given.ordered_void.len() < servers;
        match self.tickets.iter().find(forgotten) {
            Some(given) => Err(format!("{} is gone, and its ticket is open", given.worker)),
            None => Ok(()),
        }
    }

    // ---- tickets ----

    fn given(&mut self, ticket: Ticket) -> Result<&mut Given, String> {
        let place = ticket.0.checked_sub(1).map(|place| place as usize);
        place.and_then(|place| self.tickets.get_mut(place)).ok_or_else(|| format!("{ticket} was never given"))
    }

    /// The lead grants; whether it is a new ticket, not the same again.
    pub fn grant(&mut self, worker: Incarnation, sequence: u64, ticket: Ticket) -> Result<bool, String> {
        if ticket.0 != self.tickets.len() as u64 + 1 {
            let given = self.given(ticket)?;
            let is_same = (given.worker, given.sequence) == (worker, sequence);
            return if is_same { Ok(false) } else { Err(format!("{ticket} is given to {worker}, too")) };
        }
        let own = self.tickets.iter().filter(|given| given.worker == worker);
        if ticket.0 > self.last
            || own.clone().any(|given| given.fate == Fate::Open)
            || own.count() as u64 + 1 != sequence
        {
            return Err(format!("{ticket} is given to {worker} as its number {sequence}, out of turn"));
        }
        let slowest = self.clocks.values().copied().min().unwrap_or(0);
        let Some(clock) = self.clocks.get(&worker) else { return Err(format!("{worker} is no member")) };
        if self.bound.is_some_and(|bound| clock - slowest > bound) {
            return Err(format!("P3: {worker} starts at clock {clock}, the slowest is at {slowest}"));
        }
        self.tickets.push(Given {
            worker,
            sequence,
            fate: Fate::Open,
            servers: BTreeSet::new(),
            ordered_void: BTreeSet::new(),
            taken: 0,
            missing: 0,
            known: self.known.clone(),
            living: self.clocks.len(),
            joined: self.joined,
        });
        Ok(true)
    }

    /// The operator ends the job with the tickets that are given.
    pub fn end(&mut self) {
        self.last = self.tickets.len() as u64;
    }

    /// The lead says that all is done.
    pub fn finish(&self, step: Step) -> Kept {
        let settled = self.tickets.iter().filter(|given| !matches!(given.fate, Fate::Open | Fate::Voiding)).count();
        match settled as u64 == self.last && step == Step(self.last) {
            true => Ok(()),
            false => Err(format!("the job is at its end with {step}; {settled} of {} tickets are settled", self.last)),
        }
    }

    // ---- servers ----

    /// A block has answered a push.
    pub fn take(&mut self, answered: &Answered<'_>) -> Kept {
        let Answered { server, block, push, read, .. } = *answered;
        if answered.outcome != Outcome::Added {
            return Ok(());
        }
        let ticket = push.ticket;
        let given = self.given(ticket)?;
        if given.sequence != push.sequence {
            return Err(format!("{ticket} was pushed as number {}, given as number {}", push.sequence, given.sequence));
        }
        if self.refused.contains(&(server, ticket)) {
            return Err(format!("P1: {block} takes {ticket}, which is void there"));
        }
        let replay = self.blocks.get_mut(&block).ok_or_else(|| format!("{block} takes a push"))?;
        if replay.pushes().contains(&ticket) {
            return Err(format!("P1: {block} takes {ticket} twice"));
        }
        let seen = replay.pushes_of(read).unwrap_or_default();
        let unseen = replay.pushes()[seen..].to_vec();
        replay.apply(self.job, &self.optimizer, ticket, answered.weight, answered.payload);
        self.updates += 1;
        self.staleness_max = self.staleness_max.max(unseen.len() as u64);
        self.check_staleness(block, ticket, &unseen)
    }

    /// What was applied between the version that a push was computed at and its own application.
    fn check_staleness(&self, block: BlockId, ticket: Ticket, unseen: &[Ticket]) -> Kept {
        let given = |ticket: &Ticket| &self.tickets[ticket.0 as usize - 1];
        let own = given(&ticket);
        let mut of_each: BTreeMap<Incarnation, u64> = BTreeMap::new();
        unseen.iter().for_each(|ticket| *of_each.entry(given(ticket).worker).or_default() += 1);
        if of_each.contains_key(&own.worker) {
            return Err(format!("{ticket} to {block} was computed at weights without its worker's last push"));
        }
        let Some(bound) = self.bound else { return Ok(()) };
        let each_max = 2 * bound + 1;
        let others = (own.living + self.joined - own.joined) as u64 - 1;
        if unseen.len() as u64 > others * each_max || of_each.values().any(|pushes| *pushes > each_max) {
            let found = of_each.values().collect::<Vec<_>>();
            return Err(format!("{ticket} to {block} had not seen {found:?} pushes of {others} others, s = {bound}"));
        }
        Ok(())
    }

    /// A block as it is seen.
    pub fn check_block(&self, block: BlockId, version: Step, bytes: &[u8]) -> Kept {
        let Some(replay) = self.blocks.get(&block) else { return Ok(()) };
        match (replay.newest() == version, replay.is_newest(bytes)) {
            (true, true) => Ok(()),
            (true, false) => Err(format!("P1: {block} at {version} differs from its pushes, applied in order")),
            (false, _) => Err(format!("P1: {block} is at {version} after {} pushes", replay.newest().0)),
        }
    }

    // ---- workers ----

    /// What a worker computes a ticket at: blocks as they were, with all that was known when it was given.
    pub fn check_snapshot<'b>(
        &mut self,
        ticket: Option<Ticket>,
        blocks: impl Iterator<Item = (BlockId, Step, &'b [f32])>,
    ) -> Kept {
        let known = match ticket {
            Some(ticket) => self.given(ticket)?.known.clone(),
            // At the end: everything.
            None => self.blocks.iter().map(|(block, replay)| (*block, replay.newest())).collect(),
        };
        for (block, version, values) in blocks {
            let Some(replay) = self.blocks.get(&block) else { continue };
            if !replay.is_seen_as(self.job, version, values) {
                return Err(format!("P4: {version} of {block}, as a worker has it, never was"));
            }
            if known.get(&block).is_some_and(|known| version < *known) {
                let known = known[&block];
                return Err(format!(
                    "{ticket:?} is computed at {version} of {block}, {known} was known when it was given"
                ));
            }
        }
        Ok(())
    }
}
