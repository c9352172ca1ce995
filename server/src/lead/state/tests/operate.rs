//! What a person does to a job.

use super::*;

#[test]
fn a_paused_job_tells_every_worker_where_to_rest_and_nobody_is_slow_meanwhile() {
    let mut state = two_workers();
    let (rests_after, effects) = state.operate(Operation::Pause);
    assert_eq!((rests_after, effects), (Ok(Step(4)), vec![Effect::HoldChanged]));
    let mut heard = Heard::default();
    let notices = state.notices(Incarnation(1), &mut heard);
    assert_eq!(notices.last(), Some(&Notice::Hold(Some(Step(4)))));
    assert_eq!(state.phase(), Phase::Paused);
    complete_everywhere(&mut state, 4);
    assert_eq!(state.operate(Operation::Pause).0, Ok(Step(4)), "it rests already");
    for second in [5, 10, 15] {
        beat(&mut state, second, 1, 5);
        beat(&mut state, second, 2, 5);
        assert_eq!(state.tick(at(second)), []);
    }
    state.operate(Operation::Resume).0.unwrap();
    assert_eq!(state.notices(Incarnation(1), &mut heard), [Notice::Hold(None)]);
    assert_eq!(state.phase(), Phase::Training);
}

#[test]
fn a_job_rests_after_a_later_step_where_workers_had_begun_it() {
    let mut state = two_workers();
    assert_eq!(state.hold(), None);
    assert_eq!(state.operate(Operation::Pause).0, Ok(Step(4)));
    complete_everywhere(&mut state, 4);
    assert_eq!(state.hold(), Some(Step(4)));
    complete_everywhere(&mut state, 5);
    assert_eq!(state.hold(), Some(Step(5)));
}

#[test]
fn a_drained_worker_hands_its_slots_on_and_is_asked_to_leave() {
    let mut state = two_workers();
    let (drained, effects) = state.operate(Operation::Drain(0));
    assert_eq!(drained, Ok(Step(4)));
    assert_eq!(told(&effects), [(1, vec![], 0), (2, vec![(0, 4)], 0)]);
    let notices = state.notices(Incarnation(1), &mut Heard::default());
    assert_eq!(notices.last(), Some(&Notice::Drained));
    assert_eq!(state.operate(Operation::Drain(0)), (Ok(Step(4)), vec![]), "once is enough");
    let refusal = state.operate(Operation::Drain(7)).0.unwrap_err();
    assert!(refusal.to_string().contains("expected one of the workers [0, 1], found 7"), "{refusal}");
}

#[test]
fn a_job_ends_early_with_the_step_that_every_server_agrees_to() {
    let mut state = two_workers();
    let ends_with = |effects: &[Effect]| {
        let step = |effect: &Effect| match effect {
            Effect::Order(_, Order::LastStep(step)) => Some(step.0),
            _ => None,
        };
        effects.iter().filter_map(step).collect::<Vec<_>>()
    };
    assert_eq!(ends_with(&state.operate(Operation::Stop).1), [4, 4]);
    assert_eq!(state.last_step(ServerIndex(0), Step(4)), []);
    assert_eq!(ends_with(&state.last_step(ServerIndex(1), Step(5))), [5, 5], "it is past 4 already");
    assert_eq!(state.last_step(ServerIndex(0), Step(4)), [], "an answer to the first question");
    assert_eq!(state.last_step(ServerIndex(0), Step(5)), []);
    let effects = state.last_step(ServerIndex(1), Step(5));
    assert!(matches!(&effects[..], [Effect::Warn(text)] if text.contains("step 5")), "{effects:?}");
    let effects = complete_everywhere(&mut state, 5);
    assert!(effects.contains(&Effect::Notify(Incarnation(1), Notice::Finished(Step(5)))), "{effects:?}");
    assert_eq!(state.phase(), Phase::Finished);
}

#[test]
fn a_job_without_workers_ends_where_it_stands() {
    let mut state = two_workers();
    state.leave(Incarnation(1));
    state.leave(Incarnation(2));
    state.operate(Operation::Stop).0.unwrap();
    state.last_step(ServerIndex(0), Step(3));
    let effects = state.last_step(ServerIndex(1), Step(3));
    assert_eq!(effects[1..], [0, 1].map(|index| Effect::Order(ServerIndex(index), Order::Finish(Step(3)))));
}
