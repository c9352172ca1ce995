//! Tickets as tables: what happened, what was answered; and the bounds under any order of events.

use super::*;
use proptest::prelude::*;

/// A line of a table. Workers and servers by number.
enum Event {
    Join(u64),
    /// Worker, sequence number.
    Ask(u64, u64),
    /// Server, tickets applied on all its blocks.
    Applied(u32, &'static [u64]),
    Gone(u64),
    /// Server, ticket, blocks that had applied it, blocks that had not.
    Voided(u32, u64, u64, u64),
}
use Event::*;

fn consequences(Consequences { void, ready, finished }: &Consequences) -> String {
    let mut parts = Vec::new();
    parts.extend(void.iter().map(|ticket| format!("void {}", ticket.0)));
    parts.extend(ready.iter().map(|worker| format!("ready {}", worker.0)));
    parts.extend(finished.then(|| "finished".to_owned()));
    parts.join(", ")
}

fn feed(tickets: &mut Tickets, servers: usize, event: &Event) -> String {
    match event {
        Join(worker) => {
            tickets.join(Incarnation(*worker));
            String::new()
        }
        Ask(worker, sequence) => match tickets.ask(Incarnation(*worker), *sequence) {
            Ok(TicketAnswer::Granted(ticket)) => ticket.0.to_string(),
            Ok(TicketAnswer::Wait) => "wait".to_owned(),
            Ok(TicketAnswer::Finished(step)) => format!("end {}", step.0),
            Err(refusal) => format!("{:?}", refusal.cause),
        },
        Applied(server, done) => {
            let done: Vec<_> = done.iter().copied().map(Ticket).collect();
            consequences(&tickets.applied(ServerIndex(*server), &done, servers))
        }
        Gone(worker) => consequences(&tickets.remove(Incarnation(*worker))),
        Voided(server, ticket, applied, missing) => {
            let answer = VoidedTicket { ticket: Ticket(*ticket), applied: *applied, missing: *missing };
            consequences(&tickets.voided(ServerIndex(*server), &[answer], servers))
        }
    }
}

/// Plays a table for a job of 4 steps.
fn play(bound: Option<u64>, servers: usize, table: &[(Event, &str)]) -> Tickets {
    let mut tickets = Tickets::new(Step(4), bound);
    for (line, (event, expected)) in table.iter().enumerate() {
        assert_eq!(feed(&mut tickets, servers, event), *expected, "line {line}");
    }
    tickets
}

#[test]
fn each_ticket_is_given_once_and_the_next_when_it_is_done_on_every_server() {
    let tickets = play(
        None,
        2,
        &[
            (Ask(1, 1), "Fenced"),
            (Join(1), ""),
            (Ask(1, 1), "1"),
            (Ask(1, 1), "1"),
            (Ask(1, 2), "wait"),
            (Applied(0, &[1]), ""),
            (Ask(1, 2), "wait"),
            (Applied(0, &[1]), ""),
            (Applied(1, &[1]), "ready 1"),
            (Ask(1, 1), "1"),
            (Ask(1, 2), "2"),
            (Ask(1, 1), "Malformed"),
            (Ask(1, 4), "Malformed"),
            (Join(1), ""),
            (Ask(1, 2), "2"),
        ],
    );
    assert_eq!((tickets.granted(), tickets.done(), tickets.settled()), (2, 1, Step(1)));
}

#[test]
fn everyone_hears_of_the_end_once_the_last_ticket_is_done() {
    let tickets = play(
        None,
        1,
        &[
            (Join(1), ""),
            (Join(2), ""),
            (Ask(1, 1), "1"),
            (Ask(2, 1), "2"),
            (Applied(0, &[2, 1]), ""),
            (Ask(1, 2), "3"),
            (Ask(2, 2), "4"),
            (Applied(0, &[4]), ""),
            (Ask(2, 3), "wait"),
            (Applied(0, &[3]), "ready 2, finished"),
            (Ask(2, 3), "end 4"),
            (Ask(1, 3), "end 4"),
            (Ask(1, 2), "3"),
        ],
    );
    assert_eq!((tickets.done(), tickets.void(), tickets.settled()), (4, 0, Step(4)));
    assert!(tickets.is_finished());
}

#[test]
fn a_bounded_worker_waits_for_the_slowest() {
    let tickets = play(
        Some(1),
        1,
        &[
            (Join(1), ""),
            (Join(2), ""),
            (Ask(1, 1), "1"),
            (Applied(0, &[1]), ""),
            (Ask(1, 2), "2"),
            (Applied(0, &[2]), ""),
            (Ask(1, 3), "wait"),
            (Ask(2, 1), "3"),
            (Applied(0, &[3]), "ready 1"),
            (Ask(1, 3), "4"),
        ],
    );
    assert_eq!(tickets.clock_staleness().max(), 1);
}

#[test]
fn with_bound_0_all_workers_keep_step() {
    play(
        Some(0),
        1,
        &[
            (Join(1), ""),
            (Join(2), ""),
            (Ask(1, 1), "1"),
            (Applied(0, &[1]), ""),
            (Ask(1, 2), "wait"),
            (Ask(2, 1), "2"),
            (Applied(0, &[2]), "ready 1"),
        ],
    );
}

#[test]
fn a_joiner_begins_at_the_slowest_clock() {
    let tickets = play(
        Some(1),
        1,
        &[
            (Join(1), ""),
            (Ask(1, 1), "1"),
            (Applied(0, &[1]), ""),
            (Ask(1, 2), "2"),
            (Applied(0, &[2]), ""),
            (Join(2), ""),
            (Ask(1, 3), "3"),
            (Applied(0, &[3]), ""),
            (Ask(1, 4), "4"),
        ],
    );
    assert_eq!([1, 2].map(|worker| tickets.clock(Incarnation(worker))), [Some(3), Some(2)]);
}

#[test]
fn a_death_lets_go_of_those_who_waited_once_no_server_takes_its_push_any_more() {
    let tickets = play(
        Some(0),
        2,
        &[
            (Join(1), ""),
            (Join(2), ""),
            (Ask(1, 1), "1"),
            (Ask(2, 1), "2"),
            (Applied(0, &[1, 2]), ""),
            (Applied(1, &[1]), ""),
            (Ask(1, 2), "wait"),
            (Gone(2), "void 2"),
            (Ask(2, 1), "Fenced"),
            (Applied(1, &[2]), ""),
            (Gone(2), ""),
            (Voided(0, 2, 3, 0), ""),
            (Voided(0, 2, 3, 0), ""),
            // Its push may be on its way to server 1, computed at weights of before.
            (Ask(1, 2), "wait"),
            (Voided(1, 2, 1, 4), "ready 1"),
            (Ask(1, 2), "3"),
            (Applied(0, &[3]), ""),
            (Applied(1, &[3]), ""),
        ],
    );
    assert_eq!((tickets.done(), tickets.void(), tickets.torn()), (2, 1, 1));
}

#[test]
fn a_void_push_is_torn_only_if_some_blocks_had_it_and_counts_if_all_had() {
    let gone = [(Join(1), ""), (Ask(1, 1), "1"), (Gone(1), "void 1")];
    for (first, second, done, void, torn) in
        [((0, 2), (0, 5), 0, 1, 0), ((2, 0), (0, 5), 0, 1, 1), ((1, 1), (5, 0), 0, 1, 1), ((2, 0), (5, 0), 1, 0, 0)]
    {
        let mut tickets = play(None, 2, &gone);
        assert_eq!(feed(&mut tickets, 2, &Voided(0, 1, first.0, first.1)), "");
        assert_eq!(tickets.settled(), Step(0));
        assert_eq!(feed(&mut tickets, 2, &Voided(1, 1, second.0, second.1)), "");
        assert_eq!((tickets.done(), tickets.void(), tickets.torn()), (done, void, torn));
        assert_eq!(tickets.settled(), Step(1));
    }
}

#[test]
fn a_job_whose_last_ticket_is_void_is_at_its_end() {
    play(
        None,
        1,
        &[
            (Join(1), ""),
            (Join(2), ""),
            (Ask(1, 1), "1"),
            (Ask(2, 1), "2"),
            (Applied(0, &[1, 2]), ""),
            (Ask(1, 2), "3"),
            (Ask(2, 2), "4"),
            (Applied(0, &[3]), ""),
            (Ask(1, 3), "wait"),
            (Gone(2), "void 4"),
            (Voided(0, 4, 0, 3), "ready 1, finished"),
            (Ask(1, 3), "end 4"),
        ],
    );
}

/// A ticket being pushed, with the version read and the servers to come.
type Pushing = (Ticket, u64, Vec<u32>);

/// A world of workers that ask, push to every server in any order, die and join.
struct World {
    tickets: Tickets,
    bound: Option<u64>,
    servers: usize,
    /// Incarnation; next sequence number; what is being pushed.
    workers: Vec<(Incarnation, u64, Option<Pushing>)>,
    /// Every worker that ever took part.
    joined: u64,
    /// Updates of server 0's only block.
    version: u64,
    applied: Vec<Vec<Ticket>>,
    staleness_max: u64,
}

impl World {
    fn new(bound: Option<u64>, servers: usize) -> World {
        let (tickets, applied) = (Tickets::new(Step(200), bound), vec![Vec::new(); servers]);
        World { tickets, bound, servers, workers: Vec::new(), joined: 0, version: 0, applied, staleness_max: 0 }
    }

    fn join(&mut self) {
        self.joined += 1;
        self.workers.push((Incarnation(self.joined), 1, None));
        self.tickets.join(Incarnation(self.joined));
    }

    fn act(&mut self, choice: usize) {
        if self.workers.is_empty() {
            return self.join();
        }
        let index = choice % self.workers.len();
        let (worker, sequence, push) = &mut self.workers[index];
        let Some((ticket, read, to_come)) = push else {
            if let TicketAnswer::Granted(ticket) = self.tickets.ask(*worker, *sequence).unwrap() {
                // What is applied now is read now: the mark makes sure of it.
                *push = Some((ticket, self.version, (0..self.servers as u32).collect()));
            }
            return;
        };
        let server = to_come.remove(choice / 7 % to_come.len());
        if server == 0 {
            self.staleness_max = self.staleness_max.max(self.version - *read);
            self.version += 1;
        }
        self.applied[server as usize].push(*ticket);
        self.tickets.applied(ServerIndex(server), &[*ticket], self.servers);
        if to_come.is_empty() {
            (*sequence, *push) = (*sequence + 1, None);
        }
    }

    fn die(&mut self, choice: usize) {
        if self.workers.is_empty() {
            return;
        }
        let (worker, ..) = self.workers.remove(choice % self.workers.len());
        for ticket in self.tickets.remove(worker).void {
            for server in 0..self.servers {
                let applied = u64::from(self.applied[server].contains(&ticket));
                let answer = VoidedTicket { ticket, applied, missing: 1 - applied };
                self.tickets.voided(ServerIndex(server as u32), &[answer], self.servers);
            }
        }
    }

    fn check(&self) {
        for applied in &self.applied {
            let mut once = applied.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), applied.len(), "a ticket was given to two pushes");
        }
        let clocks: Vec<u64> = self.workers.iter().filter_map(|(worker, ..)| self.tickets.clock(*worker)).collect();
        assert!(self.tickets.torn() <= self.tickets.void());
        if let Some(bound) = self.bound {
            assert!(self.tickets.clock_staleness().max() <= bound, "P3");
            assert!(self.staleness_max <= (self.joined - 1) * (2 * bound + 1), "{}", self.staleness_max);
            let (min, max) = (clocks.iter().min().copied(), clocks.iter().max().copied());
            assert!(max.unwrap_or(0) - min.unwrap_or(0) <= bound + 1, "{clocks:?}");
        }
    }
}

proptest! {
    #[test]
    fn in_any_order_no_ticket_is_given_twice_and_the_bounds_hold(
        bound in proptest::option::of(0u64..4),
        servers in 1usize..4,
        events in proptest::collection::vec((0u8..40, any::<usize>()), 50..400),
    ) {
        let mut world = World::new(bound, servers);
        world.join();
        world.join();
        for (kind, choice) in events {
            match kind {
                0 => world.join(),
                1 => world.die(choice),
                _ => world.act(choice),
            }
            world.check();
        }
    }

    #[test]
    fn as_long_as_somebody_works_every_ticket_is_settled(
        bound in proptest::option::of(0u64..4),
        choices in proptest::collection::vec(any::<usize>(), 50),
    ) {
        let mut world = World::new(bound, 2);
        (0..3).for_each(|_| world.join());
        for (turn, choice) in choices.iter().cycle().take(20_000).enumerate() {
            if turn == 100 {
                world.die(*choice);
            }
            world.act(choice.wrapping_add(turn));
        }
        prop_assert!(world.tickets.is_finished());
        let Tickets { done, voided, .. } = world.tickets;
        prop_assert_eq!(done + voided, 200);
    }
}

#[test]
fn no_more_tickets_are_out_than_servers_reckon_with() {
    let mut tickets = Tickets::new(Step(10_000), None);
    let ask = |tickets: &mut Tickets, worker| feed(tickets, 1, &Ask(worker, 1));
    for worker in 1..=TICKETS_OUT_MAX {
        feed(&mut tickets, 1, &Join(worker));
        assert_eq!(ask(&mut tickets, worker), worker.to_string());
    }
    feed(&mut tickets, 1, &Join(9999));
    assert_eq!(ask(&mut tickets, 9999), "wait");
    // A void one is out until every server has closed it.
    assert_eq!(feed(&mut tickets, 1, &Gone(7)), "void 7");
    assert_eq!(ask(&mut tickets, 9999), "wait");
    assert_eq!(feed(&mut tickets, 1, &Voided(0, 7, 0, 1)), "ready 9999");
    assert_eq!(ask(&mut tickets, 9999), "4097");
    feed(&mut tickets, 1, &Join(5000));
    assert_eq!(ask(&mut tickets, 5000), "wait");
    assert_eq!(feed(&mut tickets, 1, &Applied(0, &[3])), "ready 5000");
    assert_eq!(ask(&mut tickets, 5000), "4098");
}
