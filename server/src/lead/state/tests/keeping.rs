//! Jobs that keep checkpoints: when one is ordered, what waits for it, and going back to one.

use halflife_proto::ids::{Generation, TensorIndex};
use halflife_proto::membership::{CheckpointName, CheckpointPlan, SavedFile};

use super::*;
use crate::lead::state::{Keeping, Restored};

const FILE: SavedFile = SavedFile { bytes: 1, header_bytes: 1, header_blake3: [0; 32], index_blake3: [0; 32] };

pub(super) fn keeping(restored: Option<u64>) -> Settings {
    let restore = restored.map(|step| CheckpointName { step: Step(step), generation: Generation(1) });
    let plan = CheckpointPlan { nonce: "n".to_owned(), restore };
    let restored = restored.map(|_| Restored { model: manifest(), voided: 0, torn: 0 });
    Settings { checkpoints: Some(Keeping { every: 4, plan, restored }), ..settings(2) }
}

fn register(state: &mut LeadState) -> Vec<Effect> {
    for index in 0..2 {
        let url = format!("http://s{index}");
        assert_eq!(state.restore_once_complete(), []);
        state.register(Incarnation(900 + index), url.as_str().into(), None).unwrap();
    }
    state.restore_once_complete()
}

/// The orders to all servers among the effects, once each.
fn orders(effects: &[Effect]) -> Vec<Order> {
    let of = |index| {
        let of_server = move |effect: &Effect| match effect {
            Effect::Order(ServerIndex(found), order) if *found == index => Some(order.clone()),
            _ => None,
        };
        effects.iter().filter_map(of_server).collect::<Vec<_>>()
    };
    assert_eq!(of(0), of(1));
    of(0)
}

/// A job whose blocks are placed, which is about to be initialized; worker 1 has joined.
fn begun() -> LeadState {
    let mut state = LeadState::new(keeping(None));
    assert_eq!(register(&mut state), []);
    assert_eq!(join(&mut state, 0, 1).0.unwrap_err().cause, RefusalCause::NotReady);
    assert_eq!(state.placed(ServerIndex(0)), []);
    assert_eq!(orders(&state.placed(ServerIndex(1))), [Order::Cut(Step(0))]);
    join(&mut state, 0, 1).0.unwrap();
    state
}

/// Everything servers say of a checkpoint, up to the commit.
fn save(state: &mut LeadState, step: u64) -> Vec<Effect> {
    for index in [0, 1].map(ServerIndex) {
        state.cut_taken(index, Step(step));
    }
    assert_eq!(state.saved(ServerIndex(0), Step(step), FILE), []);
    state.saved(ServerIndex(1), Step(step), FILE)
}

fn hold(state: &LeadState) -> Option<Notice> {
    let holds = |notice: &Notice| matches!(notice, Notice::Hold(_));
    state.notices(Incarnation(1), &mut Heard::default()).into_iter().find(holds)
}

#[test]
fn nobody_computes_before_step_0_is_durable_and_then_the_next_is_ordered() {
    let mut state = begun();
    complete_everywhere(&mut state, 0);
    assert_eq!(hold(&state), Some(Notice::Hold(Some(Step(0)))));
    assert!(state.awaits_first_checkpoint());
    let files = vec![(ServerIndex(0), FILE), (ServerIndex(1), FILE)];
    assert_eq!(save(&mut state, 0), [Effect::Commit(Written { step: Step(0), files, tickets: None })]);
    let effects = state.checkpoint_ended(Step(0), None);
    assert_eq!(orders(&effects), [Order::Durable(Step(0)), Order::Cut(Step(4))]);
    assert!(effects.contains(&Effect::HoldChanged));
    assert_eq!((hold(&state), state.awaits_first_checkpoint()), (None, false));
    assert_eq!(state.checkpoint_ended(Step(0), None), [], "once");
}

#[test]
fn nobody_is_taken_for_slow_while_the_first_or_the_last_checkpoint_is_made() {
    let mut state = begun();
    let beat = |state: &mut LeadState, second, step| {
        state.heartbeat(at(second), Incarnation(1), Step(step), Vec::new(), true).unwrap();
        state.tick(at(second))
    };
    complete_everywhere(&mut state, 0);
    for second in 1..20 {
        assert_eq!(beat(&mut state, second, 1), []);
    }
    save(&mut state, 0);
    state.checkpoint_ended(Step(0), None);
    complete_everywhere(&mut state, 10);
    for second in 20..40 {
        assert_eq!(beat(&mut state, second, 10), []);
    }
}

#[test]
fn a_store_that_fails_stops_nobody() {
    let mut state = begun();
    complete_everywhere(&mut state, 0);
    let effects = state.save_failed(ServerIndex(1), Step(0), "no space");
    assert!(matches!(&effects[0], Effect::Warn(text) if text.contains("server 1: no space")), "{effects:?}");
    assert_eq!(orders(&effects), [Order::Cut(Step(4))]);
    assert_eq!(hold(&state), None);
    assert_eq!(state.saved(ServerIndex(0), Step(0), FILE), [], "the rest of it comes too late");
}

#[test]
fn a_server_whose_blocks_never_change_sets_them_aside_when_another_does() {
    let frozen = Tensor { role: Role::Frozen, ..Tensor::trainable("frozen", &[8]) };
    let model = Manifest::new(vec![frozen, Tensor::trainable("w", &[2])]).unwrap();
    let mut state = LeadState::new(Settings { block_elements: 8, ..keeping(None) });
    assert_eq!(register(&mut state), []);
    assert!(state.join(at(0), Incarnation(1), Fingerprint::default(), model).0.is_err());
    let [changing, frozen] =
        match state.model().unwrap().1.server_of(BlockId { tensor: TensorIndex(1), index: 0 }).unwrap() {
            ServerIndex(0) => [0, 1],
            _ => [1, 0],
        }
        .map(ServerIndex);
    let cut = |index| Effect::Order(index, Order::Cut(Step(0)));
    assert_eq!(state.placed(frozen), []);
    assert_eq!(state.placed(changing), [cut(changing)]);
    assert_eq!(state.cut_taken(changing, Step(0)), [cut(frozen)]);
    assert_eq!(state.cut_taken(changing, Step(0)), [], "once");
}

/// A job whose first weights are durable.
fn begun_and_kept() -> LeadState {
    let mut state = begun();
    complete_everywhere(&mut state, 0);
    save(&mut state, 0);
    state.checkpoint_ended(Step(0), None);
    state
}

#[test]
fn a_server_past_the_step_moves_the_cut() {
    let mut state = begun_and_kept();
    assert_eq!(orders(&state.cut_passed(ServerIndex(0), Step(4), Step(5))), [Order::Cut(Step(8))]);
    assert_eq!(state.cut_passed(ServerIndex(0), Step(4), Step(5)), []);
    assert_eq!(
        orders(&state.cut_passed(ServerIndex(0), Step(8), Step(9))),
        [Order::Cut(Step(10))],
        "the last step is cut, too"
    );
}

#[test]
fn the_job_is_finished_once_its_last_checkpoint_is_made() {
    let mut state = begun_and_kept();
    state.cut_passed(ServerIndex(0), Step(4), Step(9));
    assert_eq!(complete_everywhere(&mut state, 10), []);
    assert_ne!(state.phase(), Phase::Finished);
    save(&mut state, 10);
    let effects = state.checkpoint_ended(Step(10), None);
    assert!(effects.contains(&Effect::Notify(Incarnation(1), Notice::Finished(Step(10)))), "{effects:?}");
    assert_eq!(state.phase(), Phase::Finished);
    assert_eq!(orders(&state.leave(Incarnation(1))), [Order::Finish(Step(10))]);
}

#[test]
fn a_lost_server_sends_the_job_back_and_everybody_must_join_again() {
    let mut state = begun();
    complete_everywhere(&mut state, 0);
    let why = "server 1 (http://s1) is lost".to_owned();
    assert_eq!(state.server_lost(ServerIndex(1)), [Effect::Recover(why)]);
    assert_eq!(state.server_lost(ServerIndex(0)), [], "once");
    assert_eq!(state.phase(), Phase::Restoring);
    assert_eq!(join(&mut state, 1, 2).0.unwrap_err().cause, RefusalCause::NotReady);
    let notices = state.notices(Incarnation(1), &mut Heard::default());
    assert!(matches!(&notices[..], [Notice::Fenced(refusal)] if refusal.message.contains("last checkpoint")));
}

#[test]
fn a_server_that_comes_too_early_may_try_again() {
    let mut state = begun();
    let refused = state.register(Incarnation(77), "http://s1".into(), None).unwrap_err();
    assert_eq!(refused.cause, RefusalCause::NotReady);
}

#[test]
fn a_job_that_goes_on_places_its_blocks_by_itself_and_initializes_nothing() {
    let mut state = LeadState::new(keeping(Some(4)));
    let effects = register(&mut state);
    let placed = |effect: &Effect| matches!(effect, Effect::Order(_, Order::Place { checkpoint: Some(plan), .. }) if plan.restore.is_some());
    assert!(effects.len() == 2 && effects.iter().all(placed), "{effects:?}");
    assert_eq!(join(&mut state, 0, 1).0.unwrap_err().cause, RefusalCause::NotReady);
    assert_eq!((state.placed(ServerIndex(0)), state.placed(ServerIndex(1))), (vec![], vec![]));
    assert_eq!((state.phase(), join(&mut state, 0, 1).0.is_err()), (Phase::Restoring, true));
    state.complete(ServerIndex(0), Step(4));
    assert_eq!(orders(&state.complete(ServerIndex(1), Step(4))), [Order::Cut(Step(8))]);
    let joined = join(&mut state, 1, 1).0.unwrap();
    assert_eq!((joined.step, joined.assignment.initialize), (Some(Step(4)), false));
    assert_eq!(hold(&state), None);
}

#[test]
fn a_checkpoint_on_demand_names_its_step_and_needs_a_store() {
    let mut state = begun_and_kept();
    // The regular one is ordered, and not taken by anybody yet: it may be far away.
    let (step, effects) = state.operate(Operation::Checkpoint);
    assert_eq!((step, orders(&effects)), (Ok(Step(1)), vec![Order::Cut(Step(1))]));
    save(&mut state, 1);
    assert_eq!(state.operate(Operation::Checkpoint), (Ok(Step(1)), vec![]), "what is set aside is older");
    assert_eq!(orders(&state.checkpoint_ended(Step(1), None)), [Order::Durable(Step(1)), Order::Cut(Step(2))]);
    let refused = placed(2).operate(Operation::Checkpoint).0.unwrap_err();
    assert!(refused.to_string().contains("[checkpoint]"), "{refused}");
}

#[test]
fn a_checkpoint_on_demand_of_a_job_that_stands_still_is_of_where_it_stands_and_made_once() {
    for (pauses, stands_at) in [(true, 3), (false, 2)] {
        let mut state = begun();
        complete_everywhere(&mut state, 0);
        save(&mut state, 0);
        state.checkpoint_ended(Step(0), None);
        complete_everywhere(&mut state, 2);
        if pauses {
            assert_eq!(state.operate(Operation::Pause), (Ok(Step(3)), vec![Effect::HoldChanged]));
            complete_everywhere(&mut state, 3);
        } else {
            state.leave(Incarnation(1));
        }
        let (step, effects) = state.operate(Operation::Checkpoint);
        assert_eq!((step, orders(&effects)), (Ok(Step(stands_at)), vec![Order::Cut(Step(stands_at))]));
        save(&mut state, stands_at);
        state.checkpoint_ended(Step(stands_at), None);
        assert_eq!(state.operate(Operation::Checkpoint), (Ok(Step(stands_at)), vec![]));
    }
}

#[test]
fn a_pause_orders_what_a_person_waits_for_anew_where_it_is_ordered_beyond() {
    let mut state = begun_and_kept();
    state.operate(Operation::Checkpoint).0.unwrap();
    assert_eq!(orders(&state.cut_passed(ServerIndex(0), Step(1), Step(2))), [Order::Cut(Step(4))]);
    complete_everywhere(&mut state, 1);
    let (hold, effects) = state.operate(Operation::Pause);
    assert_eq!((hold, orders(&effects)), (Ok(Step(2)), vec![Order::Cut(Step(2))]));
}

#[test]
fn a_checkpoint_on_demand_is_of_the_last_step_where_the_last_worker_leaves_before_the_next() {
    let mut state = begun_and_kept();
    complete_everywhere(&mut state, 1);
    let (asked, effects) = state.operate(Operation::Checkpoint);
    assert_eq!((asked, orders(&effects)), (Ok(Step(2)), vec![Order::Cut(Step(2))]));
    assert_eq!(orders(&state.leave(Incarnation(1))), [Order::Cut(Step(1))]);
}

/// A server has applied the push of a ticket to all its blocks.
fn tell_done(state: &mut LeadState, server: u32, ticket: u64) -> Vec<Effect> {
    state.pushes(ServerIndex(server), &PushesReport { done: vec![Ticket(ticket)], ..PushesReport::default() })
}

/// An asynchronous job that goes on from the checkpoint of step 4, with worker 1.
fn restored_with_tickets() -> LeadState {
    let consistency = Consistency { mode: Mode::Async, ..Consistency::default() };
    let mut state = LeadState::new(Settings { consistency, ..keeping(Some(4)) });
    assert_eq!(orders(&register(&mut state)).len(), 1);
    (0..2).for_each(|index| _ = state.placed(ServerIndex(index)));
    complete_everywhere(&mut state, 4);
    join(&mut state, 0, 1).0.unwrap();
    state
}

#[test]
fn a_checkpoint_on_demand_between_tickets_is_of_those_that_were_given() {
    let mut state = restored_with_tickets();
    assert_eq!(state.operate(Operation::Checkpoint), (Ok(Step(4)), vec![]), "it goes on from it");
    assert_eq!(state.ticket(Incarnation(1), 1), Ok(TicketAnswer::Granted(Ticket(5))));
    assert_eq!(state.operate(Operation::Checkpoint), (Ok(Step(5)), vec![]), "it is open");
    tell_done(&mut state, 0, 5);
    assert_eq!(orders(&tell_done(&mut state, 1, 5)), [Order::Cut(Step(5))]);
    state.operate(Operation::Pause).0.unwrap();
    save(&mut state, 5);
    state.checkpoint_ended(Step(5), None);
    assert_eq!(state.operate(Operation::Checkpoint), (Ok(Step(5)), vec![]));
}

#[test]
fn a_checkpoint_counts_no_ticket_that_was_void_after_it_was_set_aside() {
    let mut state = restored_with_tickets();
    join(&mut state, 0, 2).0.unwrap();
    for ticket in 5..=8 {
        assert_eq!(state.ticket(Incarnation(1), ticket - 4), Ok(TicketAnswer::Granted(Ticket(ticket))));
        for index in 0..2 {
            tell_done(&mut state, index, ticket);
        }
    }
    (0..2).for_each(|index| _ = state.cut_taken(ServerIndex(index), Step(8)));
    assert_eq!(state.ticket(Incarnation(2), 1), Ok(TicketAnswer::Granted(Ticket(9))));
    state.leave(Incarnation(2));
    for index in [0, 1].map(ServerIndex) {
        let voided = vec![VoidedTicket { ticket: Ticket(9), applied: 0, missing: 1 }];
        state.pushes(index, &PushesReport { voided, ..PushesReport::default() });
    }
    assert_eq!(state.tickets().map(|tickets| tickets.void()), Some(1));
    let effects = save(&mut state, 8);
    assert!(matches!(&effects[..], [Effect::Commit(Written { tickets: Some((0, 0)), .. })]), "{effects:?}");
}

/// A job that is at its end, which worker 1 does not know yet.
fn finished() -> LeadState {
    let mut state = begun();
    for step in [0, 4, 8, 10] {
        complete_everywhere(&mut state, step);
        save(&mut state, step);
        state.checkpoint_ended(Step(step), None);
    }
    assert_eq!(state.phase(), Phase::Finished);
    state
}

#[test]
fn a_finished_job_goes_back_for_the_workers_that_still_read_its_last_weights() {
    let mut state = finished();
    let effects = state.server_lost(ServerIndex(1));
    assert!(matches!(effects[..], [Effect::Recover(_)]), "{effects:?}");
    assert_eq!(state.phase(), Phase::Restoring);
    let mut state = finished();
    state.leave(Incarnation(1));
    assert_eq!(state.server_lost(ServerIndex(1)), [], "nobody needs it any more");
}

#[test]
fn a_job_that_was_at_its_end_when_it_was_started_again_waits_for_latecomers() {
    let mut state = LeadState::new(keeping(Some(10)));
    register(&mut state);
    for index in [0, 1].map(ServerIndex) {
        state.placed(index);
    }
    complete_everywhere(&mut state, 10);
    assert_eq!(state.phase(), Phase::Finished);
    let may_go = |effects: &[Effect]| effects.contains(&Effect::Order(ServerIndex(1), Order::Finish(Step(10))));
    let leases = |number: u32| number * LEASE;
    let pass = |state: &mut LeadState, now| {
        state.clock(now);
        may_go(&state.tick(now))
    };
    assert!(!pass(&mut state, leases(100)), "nobody has come yet");
    join(&mut state, 0, 1).0.unwrap();
    assert!(!may_go(&state.leave(Incarnation(1))), "others may be about to come");
    assert!(!pass(&mut state, leases(101)));
    join(&mut state, 0, 2).0.unwrap();
    assert!(!may_go(&state.leave(Incarnation(2))));
    assert!(!pass(&mut state, leases(102)), "the time counts from the last");
    assert!(pass(&mut state, leases(103)));
    assert!(!pass(&mut state, leases(200)), "told once");
}

#[test]
fn a_server_with_a_push_at_work_tries_again_alone() {
    let mut state = restored_with_tickets();
    for ticket in 5..=8 {
        state.ticket(Incarnation(1), ticket - 4).unwrap();
        for index in 0..2 {
            tell_done(&mut state, index, ticket);
        }
    }
    let again = Effect::Order(ServerIndex(1), Order::Cut(Step(8)));
    assert_eq!(state.cut_passed(ServerIndex(1), Step(8), Step(9)), [again], "the other has the right state already");
    assert_eq!(state.cut_passed(ServerIndex(1), Step(7), Step(9)), [], "an answer to an earlier order");
}
