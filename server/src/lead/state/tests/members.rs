//! Workers come, live, leave and die; who computes which slots.

use super::*;

#[test]
fn the_first_worker_gets_all_slots_and_initializes() {
    let mut state = placed(2);
    let joined = join(&mut state, 1, 1).0.unwrap();
    assert_eq!((joined.number, nodes(&joined.assignment)), (0, vec![(0, 4)]));
    assert!(joined.assignment.initialize);
    assert_eq!(joined.step, None);
    assert_eq!(state.phase(), Phase::Initializing);
}

#[test]
fn joining_again_gives_the_same_answer() {
    let mut state = placed(1);
    let first = join(&mut state, 1, 1).0.unwrap();
    let (again, effects) = join(&mut state, 2, 1);
    assert_eq!((again.unwrap(), effects), (first, vec![]));
}

#[test]
fn a_joiner_takes_its_share_from_a_later_step_on() {
    let mut state = placed(2);
    join(&mut state, 1, 1).0.unwrap();
    complete_everywhere(&mut state, 3);
    let (joined, effects) = join(&mut state, 2, 2);
    let joined = joined.unwrap();
    assert_eq!((joined.step, nodes(&joined.assignment), effects), (Some(Step(3)), vec![], vec![]));
    beat(&mut state, 3, 2, 4);
    assert_eq!(told(&state.tick(at(3))), [(1, vec![(0, 2)], 5), (2, vec![(2, 4)], 5)]);
    assert!(!state.workers()[&Incarnation(2)].assignment().initialize);
}

#[test]
fn a_joiner_that_never_gets_the_weights_costs_the_others_nothing() {
    let mut state = two_workers();
    for second in 10..20 {
        let incarnation = second;
        assert_eq!(join(&mut state, second, incarnation).1, []);
        (1..=2).for_each(|worker| beat(&mut state, second, worker, 4));
        state.heartbeat(at(second), Incarnation(incarnation), Step(0), vec![], false).unwrap();
        assert_eq!(told(&state.tick(at(second))), []);
        state.heartbeat(at(second), Incarnation(incarnation), Step(4), vec![ServerIndex(1)], true).unwrap();
        assert_eq!(told(&state.tick(at(second))), [], "it cannot reach a server");
    }
    assert_eq!(nodes(state.workers()[&Incarnation(1)].assignment()), [(0, 2)]);
    assert_eq!(nodes(state.workers()[&Incarnation(2)].assignment()), [(2, 4)]);
}

#[test]
fn a_joiner_gets_slots_at_once_where_the_others_are_gone() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    complete_everywhere(&mut state, 3);
    join(&mut state, 1, 2).0.unwrap();
    assert_eq!(told(&state.leave(Incarnation(1))), [(2, vec![(0, 4)], 0)]);
}

#[test]
fn a_worker_that_joins_alone_begins_with_the_step_under_way() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    complete_everywhere(&mut state, 3);
    state.leave(Incarnation(1));
    let joined = join(&mut state, 1, 2).0.unwrap();
    assert_eq!((nodes(&joined.assignment), joined.assignment.from_step), (vec![(0, 4)], Step(0)));
}

#[test]
fn surplus_workers_stand_by() {
    let mut state = placed(1);
    for worker in 1..=4 {
        join(&mut state, 1, worker).0.unwrap();
    }
    let spare = join(&mut state, 1, 5).0.unwrap();
    assert!(spare.assignment.nodes.is_empty());
}

#[test]
fn a_silent_worker_is_fenced_and_its_slots_move_at_once() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    complete_everywhere(&mut state, 0);
    state.heartbeat(at(4), Incarnation(2), Step(1), vec![], true).unwrap();
    assert_eq!(state.tick(at(5)), []);
    let effects = state.tick(at(6));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Notify(Incarnation(1), Notice::Fenced(_)))));
    assert_eq!(told(&effects), [(2, vec![(0, 4)], 0)]);
    let refusal = state.heartbeat(at(6), Incarnation(1), Step(1), vec![], true).unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::Fenced);
}

#[test]
fn when_the_initializer_dies_the_next_one_initializes() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    let effects = state.leave(Incarnation(1));
    assert!(effects.iter().any(|effect| {
        matches!(effect, Effect::Notify(Incarnation(2), Notice::Assignment(assignment)) if assignment.initialize)
    }));
}

#[test]
fn every_slot_is_always_assigned_to_someone_living() {
    let mut state = placed(1);
    for worker in 1..=6 {
        join(&mut state, 0, worker).0.unwrap();
    }
    for leaver in [3, 1, 6, 2, 5] {
        state.leave(Incarnation(leaver));
        let mut slots: Vec<u32> = state
            .workers()
            .values()
            .flat_map(|worker| worker.assignment().nodes.iter().flat_map(|node| node.begin..node.end))
            .collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3], "after {leaver} left");
    }
}

#[test]
fn mixed_fingerprints_are_warned_of() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    let other = Fingerprint { device: "cuda:0".into(), ..Fingerprint::default() };
    let (_, effects) = state.join(at(1), Incarnation(2), other, manifest());
    assert!(matches!(&effects[0], Effect::Warn(text) if text.contains("P2 is off")), "{effects:?}");
}

/// Nodes in effect for a worker at a step, by what its join answered and its notices said.
fn in_effect(state: &LeadState, worker: u64, joined: &Assignment, step: u64) -> Vec<(u32, u32)> {
    let mut known = vec![joined.clone()];
    for notice in state.notices(Incarnation(worker), &mut Heard::default()) {
        if let Notice::Assignment(assignment) = notice
            && assignment.epoch > known.last().unwrap().epoch
        {
            known.push(assignment);
        }
    }
    known.iter().rfind(|assignment| assignment.from_step <= Step(step)).map_or(Vec::new(), nodes)
}

#[test]
fn the_step_under_way_is_somebodys_even_when_notices_come_late() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    complete_everywhere(&mut state, 5);
    let second = join(&mut state, 1, 2).0.unwrap().assignment;
    // The second worker has not opened its notices yet when the first leaves and a third comes.
    state.leave(Incarnation(1));
    let third = join(&mut state, 2, 3).0.unwrap().assignment;
    beat(&mut state, 2, 3, 6);
    state.tick(at(2));
    assert_eq!(in_effect(&state, 2, &second, 6), [(0, 4)]);
    assert_eq!(in_effect(&state, 3, &third, 6), []);
    assert_eq!(in_effect(&state, 2, &second, 7), [(0, 2)]);
    assert_eq!(in_effect(&state, 3, &third, 7), [(2, 4)]);
    // An answer that got lost and is asked for again says the same of the step under way.
    let again = join(&mut state, 3, 2).0.unwrap().assignment;
    assert_eq!(in_effect(&state, 2, &again, 6), [(0, 4)]);
}

#[test]
fn many_deaths_at_once_move_the_slots_once() {
    let mut state = placed(1);
    for worker in 1..=100 {
        join(&mut state, 0, worker).0.unwrap();
    }
    state.heartbeat(at(6), Incarnation(50), Step(1), vec![], true).unwrap();
    let effects = state.tick(at(7));
    assert_eq!(told(&effects), [(50, vec![(0, 4)], 0)]);
}

#[test]
fn notices_are_told_once_and_a_worker_that_is_gone_hears_so() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    let mut heard = Heard::default();
    assert_eq!(state.notices(Incarnation(1), &mut heard).len(), 1);
    assert_eq!(state.notices(Incarnation(1), &mut heard), []);
    complete_everywhere(&mut state, 10);
    assert_eq!(state.notices(Incarnation(1), &mut heard), [Notice::Finished(Step(10))]);
    assert_eq!(state.notices(Incarnation(1), &mut heard), []);
    state.leave(Incarnation(1));
    assert!(matches!(state.notices(Incarnation(1), &mut heard)[..], [Notice::Fenced(_)]));
}
