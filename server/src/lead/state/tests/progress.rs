//! Workers that live but hold the job up.

use super::*;

fn asked_for_missing(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Order(_, Order::AskMissing(Step(4))))).count()
}

fn slots(begin: u32, end: u32) -> SlotRange {
    SlotRange { begin, end }
}

#[test]
fn a_worker_that_lives_but_holds_a_step_up_shares_its_slots_and_comes_back_once_it_has_caught_up() {
    let mut state = two_workers();
    beat(&mut state, 4, 1, 4);
    beat(&mut state, 4, 2, 3);
    assert_eq!(state.tick(at(5)), []);
    beat(&mut state, 6, 1, 4);
    beat(&mut state, 6, 2, 3);
    assert_eq!(asked_for_missing(&state.tick(at(6))), 2, "every server");
    assert_eq!(state.missing(at(6), Step(4), &[]), [], "a server that lacks nothing");
    let effects = state.missing(at(6), Step(4), &[slots(3, 4)]);
    assert_eq!(told(&effects), [(1, vec![(0, 4)], 0), (2, vec![], 0)]);
    assert!(matches!(&effects[0], Effect::Warn(text) if text.contains("worker 1 holds step 4 up")), "{effects:?}");
    assert_eq!(state.missing(at(6), Step(4), &[slots(0, 4)]), [], "the new owner gets its time");
    complete_everywhere(&mut state, 4);
    beat(&mut state, 10, 1, 5);
    beat(&mut state, 10, 2, 5);
    assert_eq!(told(&state.tick(at(10))), [], "it stands back for a lease");
    beat(&mut state, 12, 1, 5);
    beat(&mut state, 12, 2, 5);
    assert_eq!(told(&state.tick(at(12))), [(1, vec![(0, 2)], 6), (2, vec![(2, 4)], 6)]);
}

#[test]
fn a_worker_that_follows_a_fast_job_comes_back_although_it_is_never_seen_at_the_step_under_way() {
    let mut state = LeadState::new(Settings { steps: Step(10_000), ..settings(1) });
    state.register(Incarnation(900), "http://s0".into(), None).unwrap();
    assert!(join(&mut state, 0, 1).0.is_err());
    state.placed(ServerIndex(0));
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    complete_everywhere(&mut state, 3);
    state.heartbeat(at(1), Incarnation(2), Step(4), vec![ServerIndex(0)], true).unwrap();
    assert_eq!(told(&state.tick(at(1))).len(), 2, "it stands back");
    // 100 steps a second; a heartbeat is some steps old when it arrives.
    let mut back = Vec::new();
    for second in 2..9 {
        complete_everywhere(&mut state, 100 * second);
        beat(&mut state, second, 1, 100 * second - 5);
        beat(&mut state, second, 2, if second < 7 { 50 } else { 100 * second - 5 });
        back.extend(told(&state.tick(at(second))).iter().map(|_| second));
    }
    assert_eq!(back, [7, 7], "once its lease of standing back is over and it is where the job was a heartbeat ago");
    assert_eq!(state.workers()[&Incarnation(2)].lag, 6);
}

#[test]
fn where_everybody_is_slow_nobody_stands_back() {
    let mut state = two_workers();
    beat(&mut state, 6, 1, 4);
    beat(&mut state, 6, 2, 4);
    assert_eq!(asked_for_missing(&state.tick(at(6))), 2);
    assert_eq!(state.missing(at(6), Step(4), &[slots(0, 1), slots(3, 4)]), []);
}

#[test]
fn a_worker_that_cannot_reach_a_server_loses_its_slots_until_it_can() {
    let mut state = two_workers();
    state.heartbeat(at(1), Incarnation(2), Step(4), vec![ServerIndex(1)], true).unwrap();
    let effects = state.tick(at(1));
    assert_eq!(told(&effects), [(1, vec![(0, 4)], 0), (2, vec![], 0)]);
    assert!(matches!(&effects[0], Effect::Warn(text) if text.contains("cannot reach server 1")), "{effects:?}");
    beat(&mut state, 3, 1, 4);
    beat(&mut state, 3, 2, 4);
    assert_eq!(told(&state.tick(at(5))), []);
    beat(&mut state, 6, 1, 4);
    beat(&mut state, 6, 2, 4);
    assert_eq!(told(&state.tick(at(6))), [(1, vec![(0, 2)], 5), (2, vec![(2, 4)], 5)]);
}

#[test]
fn a_worker_that_stands_back_helps_where_there_is_nobody_else_however_far_it_is() {
    let mut state = two_workers();
    state.heartbeat(at(1), Incarnation(2), Step(3), vec![ServerIndex(1)], true).unwrap();
    assert_eq!(told(&state.tick(at(1))), [(1, vec![(0, 4)], 0), (2, vec![], 0)]);
    // It reaches every server again, but has missed a version of which the servers have gone on in part.
    beat(&mut state, 2, 2, 3);
    state.heartbeat(at(2), Incarnation(1), Step(4), vec![ServerIndex(0)], true).unwrap();
    assert_eq!(told(&state.tick(at(2))), [(1, vec![], 0), (2, vec![(0, 4)], 0)]);
}

#[test]
fn where_everybody_stood_back_whoever_is_cut_off_still_loses_its_slots_to_the_others() {
    let mut state = two_workers();
    join(&mut state, 0, 3).0.unwrap();
    beat(&mut state, 0, 3, 4);
    state.tick(at(0));
    for (second, worker) in [(1, 2), (2, 3)] {
        state.heartbeat(at(second), Incarnation(worker), Step(4), vec![ServerIndex(1)], true).unwrap();
        state.tick(at(second));
    }
    beat(&mut state, 3, 3, 4);
    assert_eq!(told(&state.leave(Incarnation(1))), [(2, vec![(0, 2)], 0), (3, vec![(2, 4)], 0)]);
    assert_eq!(told(&state.tick(at(3))), [(2, vec![], 0), (3, vec![(0, 4)], 0)]);
}

#[test]
fn spares_that_come_and_go_do_not_excuse_who_holds_a_step_up() {
    let mut state = placed(1);
    for worker in 1..=6 {
        join(&mut state, 0, worker).0.unwrap();
    }
    complete_everywhere(&mut state, 3);
    state.tick(at(0));
    state.leave(Incarnation(6));
    for second in [3, 5, 6] {
        (1..=5).for_each(|worker| _ = state.heartbeat(at(second), Incarnation(worker), Step(4), Vec::new(), true));
        if second == 5 {
            state.leave(Incarnation(5));
        }
        assert_eq!(asked_for_missing(&state.tick(at(second))), usize::from(second == 6), "second {second}");
    }
}

#[test]
fn an_initializer_that_sends_nothing_is_followed_by_another() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    state.tick(at(0));
    beat(&mut state, 6, 1, 0);
    beat(&mut state, 6, 2, 0);
    let effects = state.tick(at(6));
    let initializes = |effect: &Effect| matches!(effect, Effect::Notify(Incarnation(2), Notice::Assignment(assignment)) if assignment.initialize);
    assert!(effects.iter().any(initializes), "{effects:?}");
}
