//! What becomes of pushes on a server in the asynchronous modes: which are on all its blocks, which are
//! void, and how stale they were.
//!
//! A plain counter. Blocks decide for themselves what they take; this only counts what they have settled,
//! and keeps the news until the lead is told. Of a void push it tells once every block that had taken it has
//! applied it: what the lead counts as settled changes no weights any more.

use std::collections::BTreeMap;

use halflife_proto::ids::{Step, Ticket};
use halflife_proto::membership::{PushesReport, VoidedTicket};
use halflife_proto::refusal::{Refusal, RefusalCause};

use crate::block::Settled;
use crate::ticket_set::TicketSet;

/// Counts the blocks of each push.
#[derive(Debug)]
pub(crate) struct PushTally {
    /// Blocks that change.
    blocks: usize,
    /// Pushes that some blocks have settled and others not.
    under_way: BTreeMap<Ticket, usize>,
    /// Pushes that all blocks have settled.
    complete: TicketSet,
    /// Those, and the void ones: what the lead has out no more.
    closed: TicketSet,
    voided: BTreeMap<Ticket, Voided>,
    news: PushesReport,
}

/// How far a void ticket is.
#[derive(Clone, Copy, Debug)]
enum Voided {
    /// Blocks are asked.
    Asked,
    /// Some block that had taken the push has not applied it yet.
    Due(VoidedTicket),
    /// The lead is told.
    Told(VoidedTicket),
}

impl PushTally {
    /// Of `blocks` blocks that change.
    pub(crate) fn new(blocks: usize) -> PushTally {
        let (under_way, voided, news) = (BTreeMap::new(), BTreeMap::new(), PushesReport::default());
        PushTally { blocks, under_way, complete: TicketSet::default(), closed: TicketSet::default(), voided, news }
    }

    /// The job goes on where every ticket up to `settled` was done or void.
    pub(crate) fn resume(&mut self, settled: Step) {
        self.closed = TicketSet::up_to(settled.0);
    }

    /// Whether the lead can have given this ticket. It cannot while more are missing before it than it has out at a time; so
    /// what waits, and what is known of each ticket, is bounded whatever is sent here.
    ///
    /// # Errors
    /// `STEP_AHEAD` for one that it cannot have given.
    pub(crate) fn check(&self, ticket: Ticket) -> Result<(), Refusal> {
        let last = self.closed.last_allowed();
        if ticket.0 <= last {
            return Ok(());
        }
        let expected = format!("at most ticket {last}");
        Err(Refusal::mismatch(RefusalCause::StepAhead, "push with a ticket that is not given yet", expected, ticket))
    }

    /// A push came again that is on all blocks; whether there is something to tell. The lead passes over what it has not
    /// given, and may have given this ticket only after a stranger's push: without another word its worker would wait for ever.
    pub(crate) fn came_again(&mut self, ticket: Ticket) -> bool {
        let is_news = self.complete.contains(ticket.0) && !self.news.done.contains(&ticket);
        if is_news {
            self.news.done.push(ticket);
        }
        is_news
    }

    /// A block has applied a push and sent the weights; whether there is something to tell.
    pub(crate) fn settled(&mut self, Settled { ticket, staleness }: Settled) -> bool {
        let counts = &mut self.news.update_staleness;
        match counts.iter_mut().find(|(value, _)| *value == staleness) {
            Some((_, updates)) => *updates += 1,
            None => counts.push((staleness, 1)),
        }
        let blocks = self.under_way.entry(ticket).or_default();
        *blocks += 1;
        let blocks = *blocks;
        match self.voided.get(&ticket).copied() {
            Some(Voided::Due(answer)) if blocks as u64 == answer.applied => {
                self.tell(answer);
                true
            }
            Some(_) => false,
            None if blocks < self.blocks => false,
            None => {
                self.under_way.remove(&ticket);
                self.complete.insert(ticket.0);
                self.closed.insert(ticket.0);
                self.news.done.push(ticket);
                true
            }
        }
    }

    /// A ticket is void; false when that was known and is answered again, or when there is no block that a push
    /// could be on: the lead waits for the servers that have some, and for as many answers.
    pub(crate) fn void(&mut self, ticket: Ticket) -> bool {
        if self.blocks == 0 {
            return false;
        }
        match self.voided.get(&ticket) {
            Some(Voided::Told(answer)) => {
                self.news.voided.push(*answer);
                false
            }
            Some(Voided::Asked | Voided::Due(_)) => false,
            None => {
                self.voided.insert(ticket, Voided::Asked);
                self.closed.insert(ticket.0);
                true
            }
        }
    }

    /// What blocks had taken of a void ticket.
    pub(crate) fn answer(&mut self, answer: VoidedTicket) {
        let settled = match self.complete.contains(answer.ticket.0) {
            true => self.blocks,
            false => self.under_way.get(&answer.ticket).copied().unwrap_or_default(),
        };
        match settled as u64 == answer.applied {
            true => self.tell(answer),
            false => _ = self.voided.insert(answer.ticket, Voided::Due(answer)),
        }
    }

    fn tell(&mut self, answer: VoidedTicket) {
        self.under_way.remove(&answer.ticket);
        self.voided.insert(answer.ticket, Voided::Told(answer));
        self.news.voided.push(answer);
    }

    /// Whether a ticket is void.
    pub(crate) fn is_void(&self, ticket: Ticket) -> bool {
        self.voided.contains_key(&ticket)
    }

    /// What was not told yet.
    pub(crate) fn take_news(&mut self) -> Option<PushesReport> {
        (!self.news.is_empty()).then(|| std::mem::take(&mut self.news))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(tally: &mut PushTally, ticket: u64, staleness: u64) -> bool {
        tally.settled(Settled { ticket: Ticket(ticket), staleness })
    }

    #[test]
    fn a_push_is_told_once_it_is_on_all_blocks_with_how_stale_it_was() {
        let mut tally = PushTally::new(2);
        assert!(!settled(&mut tally, 1, 0) && !settled(&mut tally, 2, 1));
        assert!(settled(&mut tally, 2, 0));
        let update_staleness = vec![(0, 2), (1, 1)];
        let expected = PushesReport { done: vec![Ticket(2)], voided: Vec::new(), update_staleness };
        assert_eq!(tally.take_news(), Some(expected));
        assert_eq!(tally.take_news(), None);
    }

    #[test]
    fn a_push_that_comes_again_is_told_again_once_it_is_on_all_blocks() {
        let mut tally = PushTally::new(2);
        assert!(!settled(&mut tally, 5, 0) && !tally.came_again(Ticket(5)));
        assert!(settled(&mut tally, 5, 0) && !tally.came_again(Ticket(5)), "the lead will hear of it anyway");
        tally.take_news();
        assert!(tally.came_again(Ticket(5)) && !tally.came_again(Ticket(5)));
        assert_eq!(tally.take_news().unwrap().done, [Ticket(5)]);
    }

    #[test]
    fn a_ticket_that_the_lead_cannot_have_given_is_refused() {
        let mut tally = PushTally::new(1);
        let last = |tally: &PushTally| (1..).find(|ticket| tally.check(Ticket(*ticket)).is_err()).unwrap() - 1;
        assert_eq!(last(&tally), 4096);
        settled(&mut tally, 7, 0);
        assert_eq!(last(&tally), 4097);
        tally.void(Ticket(8));
        assert_eq!(last(&tally), 4098, "a void one is not out any more");
        assert_eq!(tally.check(Ticket(u64::MAX)).unwrap_err().cause, RefusalCause::StepAhead);
        tally.resume(Step(100));
        assert_eq!(last(&tally), 4196);
    }

    #[test]
    fn a_void_push_is_never_told_as_done_and_its_answer_stays_the_same() {
        let mut tally = PushTally::new(2);
        settled(&mut tally, 7, 0);
        assert!(tally.void(Ticket(7)));
        let answer = VoidedTicket { ticket: Ticket(7), applied: 1, missing: 1 };
        tally.answer(answer);
        assert!(!tally.void(Ticket(7)));
        let news = tally.take_news().unwrap();
        assert_eq!((news.done, news.voided), (Vec::new(), vec![answer, answer]));
        assert!(tally.is_void(Ticket(7)) && !tally.is_void(Ticket(8)));
    }

    #[test]
    fn a_void_push_that_waits_in_a_block_is_told_once_it_is_applied() {
        let mut tally = PushTally::new(3);
        settled(&mut tally, 7, 0);
        assert!(tally.void(Ticket(7)));
        assert!(!settled(&mut tally, 7, 3), "not all blocks have been asked");
        let answer = VoidedTicket { ticket: Ticket(7), applied: 3, missing: 0 };
        tally.answer(answer);
        assert!(!tally.void(Ticket(7)));
        assert_eq!(tally.take_news().unwrap().voided, []);
        assert!(settled(&mut tally, 7, 0));
        let news = tally.take_news().unwrap();
        assert_eq!((news.done, news.voided, news.update_staleness), (Vec::new(), vec![answer], vec![(0, 1)]));
    }

    #[test]
    fn a_push_that_was_done_here_is_told_at_once_when_it_is_void() {
        let mut tally = PushTally::new(1);
        assert!(settled(&mut tally, 7, 0) && tally.void(Ticket(7)));
        let answer = VoidedTicket { ticket: Ticket(7), applied: 1, missing: 0 };
        tally.answer(answer);
        assert_eq!(tally.take_news().unwrap().voided, [answer]);
    }

    #[test]
    fn a_server_without_blocks_that_change_does_not_answer_for_the_others() {
        let mut tally = PushTally::new(0);
        assert!(!tally.void(Ticket(7)));
        assert_eq!(tally.take_news(), None);
    }
}
