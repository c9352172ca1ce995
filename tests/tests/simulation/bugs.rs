//! The simulator is able to fail: bugs planted in the product, each found by some seed among few of its mode.

use halflife_client::planted::Bug as InClient;
use halflife_server::planted::Bug as InServer;

use crate::runner::{Planted, compute, run_seed};
use crate::say;
use crate::scenario::{Mode, Scenario};

/// Seeds that may be needed to find a bug.
const SEEDS: usize = 60;

fn is_sync(mode: Mode) -> bool {
    mode == Mode::Sync
}

fn has_quorum(mode: Mode) -> bool {
    matches!(mode, Mode::Quorum(_))
}

fn is_bounded(mode: Mode) -> bool {
    matches!(mode, Mode::Bounded(_))
}

fn has_tickets(mode: Mode) -> bool {
    mode.has_tickets()
}

/// Runs seeds of the bug's modes until one finds it.
fn is_found(is_of: fn(Mode) -> bool, planted: Planted) {
    let compute = compute();
    for seed in (0..).filter(|seed| is_of(Scenario::draw(*seed).job.mode)).take(SEEDS) {
        if let Some(violation) = run_seed(seed, planted, &compute, false).violation {
            return say(&format!("{planted:?} was found by seed {seed}: {violation}"));
        }
    }
    panic!("{planted:?} was found by none of {SEEDS} seeds");
}

/// A test for each bug, named as the fact.
macro_rules! found {
    ($($name:ident: $modes:ident, $planted:expr;)*) => {
        $(#[test]
        fn $name() {
            is_found($modes, $planted);
        })*
    };
}

found! {
    a_forgotten_dedupe_is_found: is_sync, Planted::InServer(InServer::ForgottenDedupe);
    a_covering_node_that_replaces_nothing_is_found: is_sync, Planted::InServer(InServer::CoveringNodeAdded);
    an_ignored_late_node_is_found: is_sync, Planted::InServer(InServer::LateNodeIgnored);
    a_partial_step_is_found: is_sync, Planted::InServer(InServer::PartialStepApplied);
    a_contribution_of_an_old_generation_is_found: is_sync, Planted::InServer(InServer::OldGenerationAccepted);
    a_stream_that_begins_with_stale_weights_is_found: is_sync, Planted::InServer(InServer::StaleBaseline);
    a_missing_fence_is_found: is_sync, Planted::InServer(InServer::MissingFence);
    a_heartbeat_of_a_fenced_worker_is_found: is_sync, Planted::InServer(InServer::FencedHeartbeatAccepted);
    slots_that_do_not_move_are_found: is_sync, Planted::InServer(InServer::SlotsNotMoved);
    a_joiner_that_begins_late_is_found: is_sync, Planted::InServer(InServer::JoinerBeginsLate);
    a_lease_without_a_watch_over_progress_is_found: is_sync, Planted::InServer(InServer::NoProgressWatch);
    a_quorum_decided_per_block_is_found: has_quorum, Planted::InServer(InServer::QuorumPerBlock);
    a_quorum_that_one_server_decides_is_found: has_quorum, Planted::InServer(InServer::QuorumOfOneServer);
    an_off_by_one_in_the_staleness_bound_is_found: is_bounded, Planted::InServer(InServer::StalenessOffByOne);
    a_joiner_at_the_wrong_clock_is_found: is_bounded, Planted::InServer(InServer::JoinerAtFastestClock);
    a_ticket_that_never_expires_is_found: has_tickets, Planted::InServer(InServer::TicketNeverExpires);
    a_ticket_that_is_done_on_one_server_is_found: has_tickets, Planted::InServer(InServer::DoneOnOneServer);
    a_push_counted_twice_is_found: has_tickets, Planted::InServer(InServer::PushCountedTwice);
    a_void_push_that_is_applied_is_found: has_tickets, Planted::InServer(InServer::VoidedPushApplied);
    a_mark_that_is_not_awaited_is_found: has_tickets, Planted::InClient(InClient::MarkOfOneServer);
    a_torn_version_is_found: is_sync, Planted::InClient(InClient::TornVersion);
    what_was_sent_and_not_forgotten_is_found: is_sync, Planted::InClient(InClient::SentNotForgotten);
}
