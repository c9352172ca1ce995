//! The lead of a job that keeps checkpoints.

use halflife_proto::membership::{CheckpointPlan, SavedFile};

use super::*;

const FILE: SavedFile = SavedFile { bytes: 1, header_bytes: 1, header_blake3: [0; 32], index_blake3: [0; 32] };

/// A job of two servers that keeps every fourth step, with workers 1 and 2, at step 0, which is durable.
fn kept(consistency: Consistency) -> LeadState {
    let plan = CheckpointPlan { nonce: String::new(), restore: None };
    let keeping = Keeping { every: 4, plan, restored: None };
    let mut state = LeadState::new(Settings { consistency, checkpoints: Some(keeping), ..settings(2) });
    for index in 0..2 {
        state.register(Incarnation(900 + index), format!("http://s{index}").into(), None).unwrap();
    }
    assert!(join(&mut state, 0, 1).0.is_err());
    (0..2).for_each(|index| _ = state.placed(ServerIndex(index)));
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    complete_everywhere(&mut state, 0);
    write(&mut state, 0);
    state.checkpoint_ended(Step(0), None);
    state
}

/// Every server sets the step aside and writes it: what is to be committed.
fn write(state: &mut LeadState, step: u64) -> Vec<Written> {
    let servers = [ServerIndex(0), ServerIndex(1)];
    servers.iter().for_each(|server| _ = state.cut_taken(*server, Step(step)));
    let effects = servers.iter().flat_map(|server| state.saved(*server, Step(step), FILE)).collect::<Vec<_>>();
    let written = |effect| match effect {
        Effect::Commit(written) => Some(written),
        _ => None,
    };
    effects.into_iter().filter_map(written).collect()
}

fn push(state: &mut LeadState, ticket: u64) {
    for server in [0, 1] {
        state.pushes(ServerIndex(server), &PushesReport { done: vec![Ticket(ticket)], ..PushesReport::default() });
    }
}

#[test]
fn a_checkpoint_counts_no_ticket_that_was_void_after_it_was_set_aside() {
    let mut state = kept(Consistency { mode: Mode::Async, ..Consistency::default() });
    for ticket in 1..=4 {
        assert_eq!(state.ticket(Incarnation(1), ticket), Ok(TicketAnswer::Granted(Ticket(ticket))));
        push(&mut state, ticket);
    }
    (0..2).for_each(|server| _ = state.cut_taken(ServerIndex(server), Step(4)));
    assert_eq!(state.ticket(Incarnation(2), 1), Ok(TicketAnswer::Granted(Ticket(5))));
    state.leave(Incarnation(2));
    for server in [0, 1] {
        let voided = vec![VoidedTicket { ticket: Ticket(5), applied: 0, missing: 1 }];
        state.pushes(ServerIndex(server), &PushesReport { voided, ..PushesReport::default() });
    }
    assert_eq!(state.tickets().map(|tickets| tickets.void()), Some(1));
    assert_eq!(write(&mut state, 4)[0].tickets, Some((0, 0)));
}

#[test]
fn a_finished_job_goes_back_for_the_workers_that_still_read_its_last_weights() {
    let mut state = kept(Consistency::default());
    complete_everywhere(&mut state, 10);
    for step in [4, 8, 10] {
        write(&mut state, step);
        state.checkpoint_ended(Step(step), None);
    }
    assert_eq!(state.phase(), Phase::Finished);
    state.leave(Incarnation(1));
    let effects = state.server_lost(ServerIndex(1));
    assert!(matches!(effects[..], [Effect::Recover(_)]), "{effects:?}");
    assert_eq!(state.phase(), Phase::Restoring);
    let mut state = kept(Consistency::default());
    complete_everywhere(&mut state, 10);
    write(&mut state, 10);
    state.checkpoint_ended(Step(10), None);
    (1..=2).for_each(|worker| _ = state.leave(Incarnation(worker)));
    assert_eq!(state.server_lost(ServerIndex(1)), [], "nobody needs it any more");
}
