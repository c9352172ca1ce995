//! Generations of fewer servers than the job wants.

use super::keeping::keeping;
use super::*;
use crate::lead::state::Forming;

fn forming(servers: u32, restored: Option<u64>) -> LeadState {
    let forming = Some(Forming { servers_min: 2, wait: Duration::from_secs(10) });
    LeadState::new(Settings { servers, forming, ..keeping(restored) })
}

fn register(state: &mut LeadState, server: u64) -> u32 {
    state.register(Incarnation(900 + server), format!("http://s{server}").into(), None).unwrap().0
}

fn placed_on(effects: &[Effect]) -> Vec<u32> {
    let index = |effect: &Effect| match effect {
        Effect::Order(index, Order::Place { placement, .. }) => {
            assert_eq!(placement.servers().len(), effects.len() - 1, "besides the warning");
            Some(index.0)
        }
        _ => None,
    };
    effects.iter().filter_map(index).collect()
}

#[test]
fn a_restored_job_goes_on_with_enough_servers_once_it_has_waited_for_all() {
    let mut state = forming(3, Some(4));
    assert_eq!(register(&mut state, 0), 0);
    assert!(state.tick(at(60)).is_empty(), "one is too few, however long it takes");
    assert_eq!(register(&mut state, 1), 1);
    assert!(forming(3, Some(4)).tick(at(9)).is_empty());
    assert_eq!(placed_on(&state.tick(at(61))), [0, 1]);
    assert!(state.tick(at(62)).is_empty(), "once");
    let late = state.register(Incarnation(999), "http://late".into(), None).unwrap_err();
    assert_eq!(late.cause, RefusalCause::NotReady, "{late}");
}

#[test]
fn while_there_is_time_and_when_all_are_here_nothing_is_left_out() {
    let mut state = forming(3, Some(4));
    register(&mut state, 0);
    register(&mut state, 1);
    assert!(state.tick(at(9)).is_empty());
    register(&mut state, 2);
    assert!(state.tick(at(20)).is_empty());
    assert_eq!(state.servers().len(), 3);
}

#[test]
fn a_server_whose_number_leaves_a_gap_is_let_go_and_comes_back_into_it() {
    let mut state = forming(4, Some(4));
    for server in 0..3 {
        register(&mut state, server);
    }
    state.server_lost(ServerIndex(1));
    assert_eq!(state.tick(at(10)), [Effect::LetGo(ServerIndex(2))]);
    assert!(state.tick(at(10)).is_empty(), "it is on its way");
    state.server_lost(ServerIndex(2));
    assert!(state.tick(at(11)).is_empty(), "it may come back yet");
    assert_eq!(register(&mut state, 2), 1);
    assert_eq!(placed_on(&state.tick(at(12))), [0, 1]);
}

#[test]
fn a_new_job_waits_for_its_model_with_the_servers_that_are_here() {
    let mut state = forming(3, None);
    register(&mut state, 0);
    register(&mut state, 1);
    let effects = state.tick(at(10));
    assert!(matches!(&effects[..], [Effect::Warn(_)]), "{effects:?}");
    assert_eq!(state.phase(), Phase::WaitingForWorkers);
}

#[test]
fn a_job_that_says_nothing_waits_for_all() {
    let mut state = LeadState::new(Settings { servers: 3, ..keeping(Some(4)) });
    register(&mut state, 0);
    register(&mut state, 1);
    assert!(state.tick(at(1_000_000)).is_empty());
}
