//! Servers, the model, norms over it, the end of a job.

use super::*;

#[test]
fn a_join_waits_for_servers_and_says_how_many_are_missing() {
    let mut state = LeadState::new(settings(3));
    state.register(Incarnation(9), "http://s0".into(), None).unwrap();
    let (refused, effects) = join(&mut state, 0, 1);
    let refusal = refused.unwrap_err();
    assert_eq!((refusal.cause, effects.len()), (RefusalCause::NotReady, 0));
    assert!(refusal.to_string().contains("1 of 3"), "{refusal}");
    assert_eq!(state.phase(), Phase::WaitingForServers);
}

#[test]
fn a_server_too_many_is_refused_and_changes_nothing() {
    let mut state = placed(2);
    let refusal = state.register(Incarnation(77), "http://late".into(), None).unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::JobFull);
    assert_eq!(state.servers().len(), 2);
}

#[test]
fn another_model_is_refused_with_the_difference() {
    let mut state = placed(1);
    let other = Manifest::new(vec![Tensor::trainable("w", &[9])]).unwrap();
    let (refused, effects) = state.join(at(1), Incarnation(5), Fingerprint::default(), other);
    let refusal = refused.unwrap_err();
    assert_eq!((refusal.cause, effects), (RefusalCause::ManifestMismatch, vec![]));
    assert!(refusal.to_string().contains("expected \"w\" f32[8] trainable, found \"w\" f32[9]"), "{refusal}");
    assert!(state.workers().is_empty());
}

#[test]
fn initial_weights_must_fit_the_model() {
    let file = BTreeMap::from([("w".to_owned(), vec![8]), ("x".to_owned(), vec![1])]);
    let mut state = LeadState::new(Settings { initial_tensors: Some(file), ..settings(1) });
    state.register(Incarnation(9), "http://s0".into(), None).unwrap();
    let refusal = join(&mut state, 0, 1).0.unwrap_err();
    assert_eq!(refusal.cause, RefusalCause::ManifestMismatch);
    for line in ["\"b\" is in the model, not in the file", "\"x\" is in the file, not in the model"] {
        assert!(refusal.to_string().contains(line), "{refusal}");
    }
    assert!(state.model().is_none());
}

#[test]
fn initial_weights_are_sent_once_when_all_blocks_are_placed() {
    let file = BTreeMap::from([("w".to_owned(), vec![8]), ("b".to_owned(), vec![2])]);
    let mut state = LeadState::new(Settings { initial_tensors: Some(file), ..settings(2) });
    state.register(Incarnation(8), "http://s0".into(), None).unwrap();
    state.register(Incarnation(9), "http://s1".into(), None).unwrap();
    assert_eq!(join(&mut state, 0, 1).0.unwrap_err().cause, RefusalCause::NotReady);
    assert_eq!(state.placed(ServerIndex(1)), []);
    assert_eq!(state.placed(ServerIndex(0)), [Effect::LoadInitialWeights]);
    assert_eq!(state.placed(ServerIndex(0)), []);
    assert!(!join(&mut state, 1, 1).0.unwrap().assignment.initialize);
}

#[test]
fn a_job_finishes_with_its_slowest_server_and_ends_with_its_last_worker() {
    let mut state = placed(2);
    join(&mut state, 0, 1).0.unwrap();
    assert_eq!(state.complete(ServerIndex(0), Step(10)), []);
    let effects = state.complete(ServerIndex(1), Step(10));
    assert_eq!(effects, [Effect::Notify(Incarnation(1), Notice::Finished(Step(10)))]);
    assert_eq!(state.phase(), Phase::Finished);
    let orders = state.leave(Incarnation(1));
    let finish = |index| Effect::Order(ServerIndex(index), Order::Finish(Step(10)));
    assert_eq!(orders, [finish(0), finish(1)]);
}

#[test]
fn a_job_that_only_tools_spoke_to_keeps_its_servers() {
    let mut state = placed(1);
    assert_eq!(complete_everywhere(&mut state, 10), []);
    assert_eq!(state.phase(), Phase::Finished);
}

#[test]
fn a_lost_server_stops_a_job_that_has_a_model_and_everyone_hears_of_it() {
    let mut state = placed(2);
    join(&mut state, 0, 1).0.unwrap();
    let effects = state.server_lost(ServerIndex(1));
    assert!(matches!(
        &effects[..],
        [
            Effect::Order(ServerIndex(0), Order::Halt(_)),
            Effect::Order(ServerIndex(1), Order::Halt(_)),
            Effect::Notify(Incarnation(1), Notice::Stopped(_)),
        ]
    ));
    assert_eq!(join(&mut state, 1, 2).0.unwrap_err().cause, RefusalCause::JobStopped);
    assert_eq!(state.register(Incarnation(4), "http://new".into(), None).unwrap_err().cause, RefusalCause::JobStopped);
}

#[test]
fn before_there_is_a_model_another_server_may_take_a_lost_ones_place() {
    let mut state = LeadState::new(settings(2));
    state.register(Incarnation(8), "http://s0".into(), None).unwrap();
    state.register(Incarnation(9), "http://s1".into(), None).unwrap();
    state.server_lost(ServerIndex(1));
    assert_eq!(state.phase(), Phase::WaitingForServers);
    assert_eq!(state.register(Incarnation(10), "http://s2".into(), None), Ok(ServerIndex(1)));
}

#[test]
fn the_total_of_a_norm_goes_out_once_every_block_has_told_its_part() {
    let mut state = placed(2);
    join(&mut state, 0, 1).0.unwrap();
    let part = |step, blocks: &[(u32, u32, f64)]| {
        let block = |(tensor, index, sum): &(u32, u32, f64)| {
            let id = BlockId { tensor: halflife_proto::ids::TensorIndex(*tensor), index: *index };
            (id, [*sum, 0.0])
        };
        Partial { step: Step(step), stage: 0, blocks: blocks.iter().map(block).collect() }
    };
    // w has 4 blocks, b one
    assert_eq!(state.partial(part(1, &[(0, 0, 1.0), (0, 2, 4.0)])), []);
    assert_eq!(state.partial(part(1, &[(0, 0, 1.0), (0, 2, 4.0)])), [], "told twice");
    let effects = state.partial(part(1, &[(0, 1, 2.0), (0, 3, 8.0), (1, 0, 16.0)]));
    let total =
        |index| Effect::Order(ServerIndex(index), Order::Total(Total { step: Step(1), stage: 0, sums: [31.0, 0.0] }));
    assert_eq!(effects, [total(0), total(1)]);
    assert_eq!(state.partial(part(2, &[(0, 0, 1.0)])), []);
    assert_eq!(state.partial(part(1, &[(0, 1, 2.0)])), [], "late");
}

#[test]
fn a_model_of_too_many_blocks_is_refused_before_anything_is_placed() {
    let mut state = LeadState::new(settings(1));
    state.register(Incarnation(9), "http://s0".into(), None).unwrap();
    let huge = Manifest::new((0..100).map(|i| Tensor::trainable(format!("t{i}"), &[1 << 40])).collect()).unwrap();
    let (refused, effects) = state.join(at(0), Incarnation(1), Fingerprint::default(), huge);
    assert_eq!((refused.unwrap_err().cause, effects), (RefusalCause::TooLarge, vec![]));
    assert!(state.model().is_none());
}

#[test]
fn a_stopped_job_can_still_be_read_from() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    state.halted(Refusal::new(RefusalCause::NonfiniteData, "NaN"));
    assert!(state.admit_model(manifest()).0.is_ok());
    assert_eq!(join(&mut state, 1, 2).0.unwrap_err().cause, RefusalCause::JobStopped);
}

#[test]
fn a_worker_for_whose_gradients_a_server_has_no_memory_is_refused_at_the_join() {
    let demand = Demand { state_bytes: 16, gradient_bytes: 4, slots: 4, pushes: 0 };
    let mut state = LeadState::new(Settings { demand, ..settings(1) });
    let bound = NonZeroU64::new(demand.reserved(10, 2));
    state.register(Incarnation(900), "http://s0".into(), bound).unwrap();
    assert_eq!(join(&mut state, 0, 1).0.unwrap_err().cause, RefusalCause::NotReady);
    state.placed(ServerIndex(0));
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    let (refused, effects) = join(&mut state, 0, 3);
    assert_eq!((refused.unwrap_err().cause, effects), (RefusalCause::OutOfMemory, vec![]));
    assert_eq!(state.workers().len(), 2);
    let mut state = LeadState::new(Settings { demand, ..settings(1) });
    state.register(Incarnation(900), "http://s0".into(), NonZeroU64::new(1000)).unwrap();
    assert_eq!(join(&mut state, 0, 1).0.unwrap_err().cause, RefusalCause::OutOfMemory);
    assert!(state.model().is_none() && state.holdings().is_empty());
}
