//! What becomes of tickets, as servers tell it to the lead: done, void, torn; and that the lead counts the same.

use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{Step, Ticket};
use halflife_proto::membership::VoidedTicket;
use halflife_server::lead::Tickets;

use super::{Fate, Kept, Ledger};
use crate::replay::Replay;

impl Ledger<'_> {
    /// A server will refuse these from now on.
    pub fn refuse(&mut self, server: usize, tickets: &[Ticket]) {
        self.refused.extend(tickets.iter().map(|ticket| (server, *ticket)));
    }

    /// A server has told the lead of tickets that are on all its `blocks`; `servers` servers have any.
    pub fn done(&mut self, server: usize, blocks: &[BlockId], tickets: &[Ticket], servers: usize) -> Kept {
        for ticket in tickets {
            for block in blocks {
                self.note_known(*block, *ticket).ok_or_else(|| format!("{ticket} is told as done without {block}"))?;
            }
            let given = self.given(*ticket)?;
            if given.fate != Fate::Open || !given.servers.insert(server) || given.servers.len() < servers {
                continue;
            }
            given.fate = Fate::Done;
            let worker = given.worker;
            self.clocks.entry(worker).and_modify(|clock| *clock += 1);
        }
        Ok(())
    }

    /// A server has told the lead what its `blocks` had taken of void tickets.
    pub fn voided(&mut self, server: usize, blocks: &[BlockId], answers: &[VoidedTicket], servers: usize) -> Kept {
        for answer in answers {
            let ticket = answer.ticket;
            let taken = blocks.iter().filter(|block| self.note_known(**block, ticket).is_some()).count() as u64;
            let missing = blocks.len() as u64 - taken;
            if (answer.applied, answer.missing) != (taken, missing) {
                return Err(format!("{answer:?} is told, but {taken} blocks have taken it, and {missing} have not"));
            }
            let given = self.given(ticket)?;
            if given.fate != Fate::Voiding || blocks.is_empty() || !given.servers.insert(server) {
                continue;
            }
            given.taken += taken;
            given.missing += missing;
            if given.servers.len() == servers {
                given.fate = match (given.taken, given.missing) {
                    (_, 0) => Fate::Done,
                    (0, _) => Fate::Void,
                    _ => Fate::Torn,
                };
            }
        }
        Ok(())
    }

    /// The version that the push made, which the lead knows of by now; `None` if the block has not taken it.
    fn note_known(&mut self, block: BlockId, ticket: Ticket) -> Option<()> {
        let replay = self.blocks.get(&block)?;
        let version = replay.version_of(replay.pushes().iter().position(|taken| *taken == ticket)?);
        let known = self.known.entry(block).or_default();
        *known = version.max(*known);
        Some(())
    }

    /// The lead counts as this does.
    pub fn check_counts(&self, lead: &Tickets) -> Kept {
        let of = |fate: &[Fate]| self.tickets.iter().filter(|given| fate.contains(&given.fate)).count() as u64;
        let expected = (of(&[Fate::Done]), of(&[Fate::Void, Fate::Torn]), of(&[Fate::Torn]));
        let found = (lead.done(), lead.void(), lead.torn());
        match found == expected {
            true => Ok(()),
            false => {
                Err(format!("P1: of done, void and torn tickets the lead counts {found:?}, expected {expected:?}"))
            }
        }
    }

    /// The job is over: every ticket is settled, and every block has what that says.
    pub fn check_end(&self, lead: &Tickets) -> Kept {
        self.finish(Step(self.last))?;
        self.check_counts(lead)?;
        for (number, given) in (1..).zip(&self.tickets) {
            let has = |replay: &&Replay| replay.pushes().contains(&Ticket(number));
            let taken = self.blocks.values().filter(has).count();
            let is_right = match given.fate {
                Fate::Done => taken == self.blocks.len(),
                Fate::Void => taken == 0,
                Fate::Torn => taken > 0 && taken < self.blocks.len(),
                Fate::Open | Fate::Voiding => false,
            };
            if !is_right {
                return Err(format!("P1: {} is {:?}, and {taken} blocks have it", Ticket(number), given.fate));
            }
        }
        let told = lead.update_staleness();
        let (found, expected) = ((told.count(), told.max()), (self.updates, self.staleness_max));
        match found == expected {
            true => Ok(()),
            false => Err(format!("updates and their largest staleness: {found:?} are told, there were {expected:?}")),
        }
    }
}
