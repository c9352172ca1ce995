//! The lead with a quorum and with tickets.

use super::*;

/// A job of two servers in this mode whose weights are initialized, with workers 1 and 2.
fn started(consistency: Consistency) -> LeadState {
    let mut state = LeadState::new(Settings { consistency, ..settings(2) });
    for index in 0..2 {
        state.register(Incarnation(900 + index), format!("http://s{index}").into(), None).unwrap();
    }
    assert!(join(&mut state, 0, 1).0.is_err());
    (0..2).for_each(|index| assert_eq!(state.placed(ServerIndex(index)), []));
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    state
}

fn asynchronous() -> Consistency {
    Consistency { mode: Mode::Async, ..Consistency::default() }
}

fn applied(state: &mut LeadState, server: u32, tickets: &[u64]) -> Vec<Effect> {
    let done = tickets.iter().copied().map(Ticket).collect();
    state.pushes(ServerIndex(server), &PushesReport { done, ..PushesReport::default() })
}

#[test]
fn a_quorum_is_closed_on_every_server_once_both_have_its_slots() {
    let mut state = started(Consistency { quorum: Some(2), ..Consistency::default() });
    complete_everywhere(&mut state, 0);
    assert_eq!(state.slots_complete(ServerIndex(0), Step(1), &[3, 2, 0]), []);
    let close = |index| Effect::Order(ServerIndex(index), Order::Close { step: Step(1), slots: vec![0, 3] });
    assert_eq!(state.slots_complete(ServerIndex(1), Step(1), &[0, 3]), [close(0), close(1)]);
    assert_eq!(state.slots_complete(ServerIndex(1), Step(1), &[2]), []);
    assert_eq!(state.quorum().map(|quorum| (quorum.closed(), quorum.dropped())), Some((1, 2)));
}

#[test]
fn once_a_job_is_to_end_no_quorum_is_closed_beyond_and_what_is_closed_is_computed() {
    let quorum = Consistency { quorum: Some(2), ..Consistency::default() };
    let close = |state: &mut LeadState, step| {
        let _ = state.slots_complete(ServerIndex(0), Step(step), &[0, 1]);
        state.slots_complete(ServerIndex(1), Step(step), &[0, 1])
    };
    let ends_with = |step| [0, 1].map(|index| Effect::Order(ServerIndex(index), Order::LastStep(Step(step))));
    let closes =
        |effects: &[Effect]| effects.iter().all(|effect| matches!(effect, Effect::Order(_, Order::Close { .. })));

    let mut state = started(quorum);
    complete_everywhere(&mut state, 0);
    assert_eq!(state.operate(Operation::Stop).1, ends_with(1));
    let effects = close(&mut state, 1);
    assert!(effects.len() == 2 && closes(&effects), "{effects:?}");
    // Servers tell of a step that they will not make: they were asked meanwhile.
    assert_eq!(close(&mut state, 2), []);

    let mut state = started(quorum);
    complete_everywhere(&mut state, 0);
    (1..=3).for_each(|step| _ = close(&mut state, step));
    assert_eq!(state.operate(Operation::Stop).1, ends_with(3));
}

#[test]
fn a_full_quorum_and_a_job_without_one_decide_nothing_about_slots() {
    for consistency in [Consistency { quorum: Some(4), ..Consistency::default() }, Consistency::default()] {
        let mut state = started(consistency);
        complete_everywhere(&mut state, 0);
        for server in 0..2 {
            assert_eq!(state.slots_complete(ServerIndex(server), Step(1), &[0, 1, 2, 3]), []);
        }
        assert!(state.quorum().is_none() && state.tickets().is_none());
        let refusal = state.ticket(Incarnation(1), 1).unwrap_err();
        assert!(refusal.to_string().contains("expected mode bounded or async, found sync"), "{refusal}");
    }
}

#[test]
fn tickets_wait_for_the_first_weights_and_nobody_owns_slots() {
    let mut state = started(asynchronous());
    assert!(state.workers().values().all(|worker| worker.assignment().nodes.is_empty()));
    assert!(state.workers()[&Incarnation(1)].assignment().initialize);
    assert_eq!(state.ticket(Incarnation(1), 1), Ok(TicketAnswer::Wait));
    assert_eq!(state.ticket(Incarnation(3), 1).unwrap_err().cause, RefusalCause::Fenced);
    assert_eq!(state.complete(ServerIndex(0), Step(0)), []);
    let ready = [1, 2].map(|worker| Effect::TicketReady(Incarnation(worker)));
    assert_eq!(state.complete(ServerIndex(1), Step(0)), ready);
    assert_eq!(state.ticket(Incarnation(1), 1), Ok(TicketAnswer::Granted(Ticket(1))));
}

#[test]
fn the_tickets_of_a_worker_that_is_gone_are_void_on_every_server() {
    let mut state = started(asynchronous());
    complete_everywhere(&mut state, 0);
    for worker in [1, 2] {
        assert_eq!(state.ticket(Incarnation(worker), 1), Ok(TicketAnswer::Granted(Ticket(worker))));
    }
    state.heartbeat(at(4), Incarnation(2), Step(2), vec![], true).unwrap();
    let effects = state.tick(at(6));
    let void = |index, ticket| Effect::Order(ServerIndex(index), Order::Void(vec![Ticket(ticket)]));
    assert!(effects.contains(&void(0, 1)) && effects.contains(&void(1, 1)), "{effects:?}");
    assert_eq!(state.ticket(Incarnation(1), 2).unwrap_err().cause, RefusalCause::Fenced);
    let effects = state.leave(Incarnation(2));
    assert!(effects.contains(&void(0, 2)) && effects.contains(&void(1, 2)), "{effects:?}");
    assert_eq!(state.complete_step(), Some(Step(0)));
    for (server, applied, missing) in [(0, 3, 0), (1, 0, 2)] {
        let answer = |ticket| VoidedTicket { ticket: Ticket(ticket), applied, missing };
        let voided = vec![answer(1), answer(2)];
        state.pushes(ServerIndex(server), &PushesReport { voided, ..PushesReport::default() });
    }
    let tickets = state.tickets().unwrap();
    assert_eq!((tickets.void(), tickets.torn(), state.complete_step()), (2, 2, Some(Step(2))));
}

#[test]
fn a_paused_job_gives_no_ticket_and_a_drained_worker_gets_none() {
    let mut state = started(asynchronous());
    complete_everywhere(&mut state, 0);
    let granted = |ticket| Ok(TicketAnswer::Granted(Ticket(ticket)));
    assert_eq!(state.ticket(Incarnation(1), 1), granted(1));
    assert_eq!(state.operate(Operation::Pause).0, Ok(Step(1)));
    assert_eq!(state.ticket(Incarnation(2), 1), Ok(TicketAnswer::Wait));
    assert_eq!(state.ticket(Incarnation(1), 1), granted(1), "it has it");
    state.operate(Operation::Resume).0.unwrap();
    assert_eq!(state.ticket(Incarnation(2), 1), granted(2));
    (0..2).for_each(|server| drop(applied(&mut state, server, &[1, 2])));
    state.operate(Operation::Drain(1)).0.unwrap();
    assert_eq!(state.ticket(Incarnation(2), 2), Ok(TicketAnswer::Wait));
    assert_eq!(state.ticket(Incarnation(1), 2), granted(3));
    assert_eq!(state.tick(at(4)), [], "nobody's slots are to be moved");
}

#[test]
fn an_operators_end_lets_the_tickets_finish_that_are_out() {
    let mut state = started(asynchronous());
    complete_everywhere(&mut state, 0);
    for worker in [1, 2] {
        state.ticket(Incarnation(worker), 1).unwrap();
    }
    let (_, effects) = state.operate(Operation::Stop);
    assert_eq!(effects, [], "two are out");
    assert!(state.ends_early());
    (0..2).for_each(|server| drop(applied(&mut state, server, &[1])));
    assert_eq!(state.ticket(Incarnation(1), 2), Ok(TicketAnswer::Wait));
    applied(&mut state, 0, &[2]);
    let effects = applied(&mut state, 1, &[2]);
    assert!(effects.contains(&Effect::Notify(Incarnation(1), Notice::Finished(Step(2)))), "{effects:?}");
    assert_eq!(state.ticket(Incarnation(1), 2), Ok(TicketAnswer::Finished(Step(2))));
}

#[test]
fn a_job_with_tickets_finishes_when_all_are_settled() {
    let mut state = started(asynchronous());
    complete_everywhere(&mut state, 0);
    for ticket in 1..=10 {
        let answer = state.ticket(Incarnation(1), ticket);
        assert_eq!(answer, Ok(TicketAnswer::Granted(Ticket(ticket))));
        applied(&mut state, 0, &[ticket]);
        let effects = applied(&mut state, 1, &[ticket]);
        let finished = effects.contains(&Effect::Notify(Incarnation(1), Notice::Finished(Step(10))));
        assert_eq!((finished, state.complete_step()), (ticket == 10, Some(Step(ticket))));
    }
    assert_eq!(state.phase(), Phase::Finished);
    assert_eq!(state.ticket(Incarnation(2), 1), Ok(TicketAnswer::Finished(Step(10))));
}
