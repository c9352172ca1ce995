//! What is promised of a step with a quorum: the lead fixes one set of slots, of the quorum's size, that every block
//! of every server has; each block sums exactly those (`reference.rs`).

use std::collections::HashMap;

use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{ServerIndex, Step};

use crate::coverage::Transition;
use crate::promises::{Expected, Promises};
use crate::reference::Reference;
use crate::scenario::Job;
use crate::world::World;

/// Steps that the lead has closed, and what blocks hold of the one under way.
pub struct Closings<'a> {
    job: &'a Job,
    pub reference: Reference<'a>,
    quorum: usize,
    closed: Vec<Closing>,
    /// By block: the step, and its slots as bits.
    held: HashMap<BlockId, (Step, u64)>,
}

struct Closing {
    slots: Vec<u32>,
    told: Vec<ServerIndex>,
}

impl<'a> Closings<'a> {
    /// No step is closed.
    pub fn new(job: &'a Job, quorum: u32) -> Closings<'a> {
        let (closed, held) = (Vec::new(), HashMap::new());
        Closings { job, reference: Reference::new(job), quorum: quorum as usize, closed, held }
    }

    /// The steps after this one are undone, and closed anew.
    pub fn roll_back(&mut self, step: Step) {
        self.closed.truncate(step.0 as usize);
        self.held.clear();
        self.reference = Reference::new(self.job);
        self.closed.iter().for_each(|closing| self.reference.advance(&closing.slots));
    }

    /// A block has taken a slot that counts, if the lead says so.
    pub fn note_added(&mut self, block: BlockId, step: Step, slot: u32) {
        let (known, slots) = self.held.entry(block).or_default();
        if *known != step {
            (*known, *slots) = (step, 0);
        }
        *slots |= 1 << slot;
    }

    /// The lead orders a server to close a step with these slots. What is wrong with that, if anything.
    fn close(&mut self, server: ServerIndex, step: Step, slots: &[u32], blocks: &[BlockId]) -> Option<String> {
        if let Some(known) = self.closed.get_mut(step.0 as usize - 1) {
            if known.slots != slots || known.told.contains(&server) {
                return Some(format!("{step} is closed with {:?}, and again with {slots:?} for {server}", known.slots));
            }
            known.told.push(server);
            return None;
        }
        let rises = slots.windows(2).all(|pair| pair[0] < pair[1]);
        if step.0 as usize != self.closed.len() + 1 || slots.len() != self.quorum || !rises {
            let (closed, quorum) = (self.closed.len(), self.quorum);
            return Some(format!("after {closed} steps with a quorum of {quorum}, {step} is closed with {slots:?}"));
        }
        let holds = |block: &BlockId| match self.held.get(block) {
            Some((known, held)) => *known == step && slots.iter().all(|slot| held >> slot & 1 == 1),
            None => false,
        };
        if let Some(block) = blocks.iter().find(|block| !holds(block)) {
            return Some(format!("{step} is closed with {slots:?}, not all of which are in {block}"));
        }
        self.closed.push(Closing { slots: slots.to_vec(), told: vec![server] });
        self.reference.advance(slots);
        None
    }
}

impl World<'_> {
    pub(crate) fn note_closing(&mut self, server: ServerIndex, step: Step, slots: &[u32]) {
        let changing: Vec<BlockId> = (0..self.servers.len())
            .flat_map(|server| self.promises.blocks_of(server, self.lead.state.model()))
            .filter(|block| self.scenario.job.changes(block.tensor))
            .collect();
        let numbers = [9, u64::from(server.0), step.0, slots.iter().fold(0, |bits, slot| bits | 1 << slot)];
        self.trace.note(self.now, &numbers, || format!("lead: {step} of {slots:?} on {server}"));
        let Promises { expected: Expected::Quorum(closings), .. } = &mut self.promises else {
            return self.promises.fail(format!("{step} is closed in a job without a quorum"));
        };
        let before = closings.closed.len();
        let wrong = closings.close(server, step, slots, &changing);
        if closings.closed.len() > before {
            self.coverage.pass(Transition::Closed);
            let late = changing.iter().any(|block| {
                closings.held.get(block).is_some_and(|(_, held)| held.count_ones() as usize > slots.len())
            });
            if late {
                self.coverage.pass(Transition::LeftOut);
            }
        }
        if let Some(wrong) = wrong {
            self.promises.fail(format!("quorum: {wrong}"));
        }
    }
}
