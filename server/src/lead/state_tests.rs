//! The lead's decisions as tables: what happened, what it did about it.

use std::time::Duration;

use super::*;
use halflife_proto::hello::Fingerprint;
use halflife_proto::job::Consistency;
use halflife_proto::manifest::Tensor;
use halflife_proto::membership::Assignment;
use halflife_proto::membership::Operation;
use halflife_proto::slots::SlotRange;
use halflife_proto::slots::SlotTree;

const LEASE: Duration = Duration::from_secs(5);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn manifest() -> Manifest {
    Manifest::new(vec![Tensor::trainable("w", &[8]), Tensor::trainable("b", &[2])]).unwrap()
}

fn settings(servers: u32) -> Settings {
    Settings {
        servers,
        slots: SlotTree::new(4).unwrap(),
        steps: Step(10),
        block_elements: 2,
        initial_tensors: None,
        whole_tensors: false,
        lease: LEASE,
        consistency: Consistency::default(),
        demand: Demand::default(),
    }
}

fn join(state: &mut LeadState, seconds: u64, worker: u64) -> (Result<Joined, Refusal>, Vec<Effect>) {
    state.join(at(seconds), Incarnation(worker), Fingerprint::default(), manifest())
}

/// A job of `servers` servers whose blocks are placed.
fn placed(servers: u32) -> LeadState {
    let mut state = LeadState::new(settings(servers));
    for index in 0..servers {
        let url = format!("http://s{index}");
        assert_eq!(state.register(Incarnation(900 + u64::from(index)), url.into(), None), Ok(ServerIndex(index)));
    }
    let (refused, effects) = join(&mut state, 0, 1);
    assert_eq!(refused.unwrap_err().cause, RefusalCause::NotReady);
    assert_eq!(effects.len(), servers as usize);
    for index in 0..servers {
        assert_eq!(state.placed(ServerIndex(index)), []);
    }
    state
}

fn nodes(assignment: &Assignment) -> Vec<(u32, u32)> {
    assignment.nodes.iter().map(|node| (node.begin, node.end)).collect()
}

/// Incarnation, nodes, from_step.
type Told = (u64, Vec<(u32, u32)>, u64);

/// The assignments that workers were told of.
fn told(effects: &[Effect]) -> Vec<Told> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notify(worker, Notice::Assignment(assignment)) => {
                Some((worker.0, nodes(assignment), assignment.from_step.0))
            }
            _ => None,
        })
        .collect()
}

fn complete_everywhere(state: &mut LeadState, step: u64) -> Vec<Effect> {
    let servers = state.servers().len() as u32;
    (0..servers).flat_map(|index| state.complete(ServerIndex(index), Step(step))).collect()
}

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
fn mixed_fingerprints_are_warned_of() {
    let mut state = placed(1);
    join(&mut state, 0, 1).0.unwrap();
    let other = Fingerprint { device: "cuda:0".into(), ..Fingerprint::default() };
    let (_, effects) = state.join(at(1), Incarnation(2), other, manifest());
    assert!(matches!(&effects[0], Effect::Warn(text) if text.contains("P2 is off")), "{effects:?}");
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

// ---- modes ----

use halflife_proto::ids::Ticket;
use halflife_proto::job::Mode;
use halflife_proto::membership::{PushesReport, TicketAnswer, VoidedTicket};

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

/// A job of two workers (1 and 2) at step 3 complete; both compute step 4.
fn two_workers() -> LeadState {
    let mut state = placed(2);
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    complete_everywhere(&mut state, 3);
    state.tick(at(0));
    state
}

fn beat(state: &mut LeadState, second: u64, worker: u64, step: u64) {
    state.heartbeat(at(second), Incarnation(worker), Step(step), vec![], true).unwrap();
}

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
