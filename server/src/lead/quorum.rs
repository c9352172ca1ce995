//! Which slots make a step up, in a job with a quorum: one set for all blocks of all servers.
//!
//! Servers tell which slots all their blocks have; the first so many that every server has told are the
//! step's, in the order in which they became so. Decided once per step, here, because a block that chose
//! for itself would sum other slots than its neighbours.
//!
//! A plain state machine: no I/O, no clock.

use std::collections::BTreeMap;

use halflife_proto::ids::{ServerIndex, Step};

use crate::planted::{Bug, planted};

/// The slots of a step that the lead has fixed, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The step.
    pub step: Step,
    /// Exactly as many as the quorum.
    pub slots: Vec<u32>,
}

/// What servers have told of the step under way.
#[derive(Clone, Debug)]
pub struct Quorum {
    quorum: usize,
    slots: u32,
    /// The step that is not closed yet.
    step: Step,
    /// By slot: the servers that have told it.
    told: BTreeMap<u32, Vec<ServerIndex>>,
    /// Slots that every server has told, in that order.
    complete: Vec<u32>,
    /// Slots of closed steps that were not among those that count.
    dropped: u64,
}

impl Quorum {
    /// A step takes `quorum` of `slots` slots.
    #[must_use]
    pub fn new(quorum: u32, slots: u32) -> Quorum {
        let (told, complete) = (BTreeMap::new(), Vec::new());
        Quorum { quorum: quorum as usize, slots, step: Step::ZERO.next(), told, complete, dropped: 0 }
    }

    /// The same, of a job that goes on after `step`: the next one is open.
    #[must_use]
    pub fn resumed(self, step: Step) -> Quorum {
        Quorum { step: step.next(), ..self }
    }

    /// All blocks of `server` have these slots of `step`; `servers` have blocks that change. The step's
    /// slots, when that fixes them.
    pub fn report(&mut self, server: ServerIndex, step: Step, slots: &[u32], servers: usize) -> Option<Closed> {
        // Of a closed step nothing is decided any more; none is open beyond the next, since no server has
        // the weights for it.
        if step != self.step {
            return None;
        }
        for slot in slots.iter().copied().filter(|slot| *slot < self.slots) {
            let told = self.told.entry(slot).or_default();
            if told.contains(&server) {
                continue;
            }
            told.push(server);
            if told.len() == if planted(Bug::QuorumOfOneServer) { 1 } else { servers } {
                self.complete.push(slot);
            }
            if self.complete.len() == self.quorum {
                return Some(self.close());
            }
        }
        None
    }

    fn close(&mut self) -> Closed {
        let mut slots = std::mem::take(&mut self.complete);
        slots.sort_unstable();
        let closed = Closed { step: self.step, slots };
        self.told.clear();
        self.step = self.step.next();
        self.dropped += u64::from(self.slots) - self.quorum as u64;
        closed
    }

    /// Slots that make a step.
    #[must_use]
    pub fn quorum(&self) -> u32 {
        self.quorum as u32
    }

    /// Steps whose slots are fixed.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.step.0 - 1
    }

    /// Slots of those steps that do not count.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A line: server, step, slots told, the slots closed with.
    type Line = (u32, u64, &'static [u32], Option<&'static [u32]>);

    fn play(quorum: u32, slots: u32, servers: usize, table: &[Line]) -> Quorum {
        let mut state = Quorum::new(quorum, slots);
        for (line, (server, step, told, expected)) in table.iter().enumerate() {
            let closed = state.report(ServerIndex(*server), Step(*step), told, servers);
            let expected = expected.map(|slots| Closed { step: Step(*step), slots: slots.to_vec() });
            assert_eq!(closed, expected, "line {line}");
        }
        state
    }

    #[test]
    fn the_first_slots_that_every_server_has_make_the_step() {
        let state = play(
            2,
            4,
            2,
            &[
                (0, 1, &[3, 1], None),
                (0, 1, &[0], None),
                (1, 1, &[2], None),
                (1, 1, &[0], None),
                (1, 1, &[1, 3], Some(&[0, 1])),
                (0, 1, &[2], None),
                (0, 2, &[2, 3], None),
                (1, 2, &[3], None),
                (1, 2, &[2], Some(&[2, 3])),
            ],
        );
        assert_eq!((state.closed(), state.dropped()), (2, 4));
    }

    #[test]
    fn a_slot_told_twice_is_told_once() {
        play(1, 4, 2, &[(0, 1, &[2, 2], None), (0, 1, &[2], None), (1, 1, &[2, 3], Some(&[2]))]);
    }

    #[test]
    fn reports_of_other_steps_and_slots_that_do_not_exist_decide_nothing() {
        play(
            1,
            4,
            1,
            &[
                (0, 2, &[0], None),
                (0, 0, &[0], None),
                (0, 1, &[4, 9], None),
                (0, 1, &[0], Some(&[0])),
                (0, 1, &[1], None),
            ],
        );
    }

    #[test]
    fn a_job_that_goes_on_closes_the_step_after_the_checkpoint() {
        let mut state = Quorum::new(1, 4).resumed(Step(7));
        assert_eq!(state.report(ServerIndex(0), Step(1), &[2], 1), None);
        assert_eq!(state.report(ServerIndex(0), Step(8), &[2], 1), Some(Closed { step: Step(8), slots: vec![2] }));
    }

    proptest! {
        /// Whatever the order, a step is closed once, with a quorum of slots that every server had told.
        #[test]
        fn a_step_is_closed_once_with_slots_that_every_server_has(
            quorum in 1u32..6, servers in 1usize..4, order in proptest::collection::vec((0usize..4, 0u32..6), 0..60),
        ) {
            let mut state = Quorum::new(quorum, 6);
            let mut told = vec![[false; 6]; servers];
            let mut closed: Option<Closed> = None;
            for (server, slot) in order {
                let server = server % servers;
                told[server][slot as usize] = true;
                if let Some(now) = state.report(ServerIndex(server as u32), Step(1), &[slot], servers) {
                    prop_assert!(closed.is_none());
                    prop_assert_eq!(now.slots.len(), quorum as usize);
                    for slot in &now.slots {
                        prop_assert!(told.iter().all(|server| server[*slot as usize]));
                    }
                    closed = Some(now);
                }
            }
            let everywhere = (0..6).filter(|slot| told.iter().all(|server| server[*slot])).count();
            prop_assert_eq!(closed.is_some(), everywhere >= quorum as usize);
        }
    }
}
