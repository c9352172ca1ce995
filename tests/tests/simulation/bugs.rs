//! The simulator is able to fail: bugs planted in the product, each found by some seed among few.
//!
//! Bugs of the other modes (an off-by-one in the staleness bound, a quorum decided per block, a ticket that never
//! expires, ...) get a line in `product bugs` of their own, once those modes are driven.

use halflife_client::planted::Bug as InClient;
use halflife_server::planted::Bug as InServer;

use crate::runner::{Planted, compute, run_seed};
use crate::say;

/// Seeds that may be needed to find a bug.
const SEEDS: u64 = 60;

/// Runs seeds until one finds the bug.
fn is_found(planted: Planted) {
    let compute = compute();
    for seed in 0..SEEDS {
        if let Some(violation) = run_seed(seed, planted, &compute, false).violation {
            return say(&format!("{planted:?} was found by seed {seed}: {violation}"));
        }
    }
    panic!("{planted:?} was found by none of {SEEDS} seeds");
}

/// A test for each bug, named as the fact.
macro_rules! found {
    ($($name:ident: $planted:expr;)*) => {
        $(#[test]
        fn $name() {
            is_found($planted);
        })*
    };
}

found! {
    a_forgotten_dedupe_is_found: Planted::InServer(InServer::ForgottenDedupe);
    a_covering_node_that_replaces_nothing_is_found: Planted::InServer(InServer::CoveringNodeAdded);
    an_ignored_late_node_is_found: Planted::InServer(InServer::LateNodeIgnored);
    a_partial_step_is_found: Planted::InServer(InServer::PartialStepApplied);
    a_contribution_of_an_old_generation_is_found: Planted::InServer(InServer::OldGenerationAccepted);
    a_stream_that_begins_with_stale_weights_is_found: Planted::InServer(InServer::StaleBaseline);
    a_missing_fence_is_found: Planted::InServer(InServer::MissingFence);
    a_heartbeat_of_a_fenced_worker_is_found: Planted::InServer(InServer::FencedHeartbeatAccepted);
    slots_that_do_not_move_are_found: Planted::InServer(InServer::SlotsNotMoved);
    a_joiner_that_begins_late_is_found: Planted::InServer(InServer::JoinerBeginsLate);
    a_lease_without_a_watch_over_progress_is_found: Planted::InServer(InServer::NoProgressWatch);
    a_torn_version_is_found: Planted::InClient(InClient::TornVersion);
    what_was_sent_and_not_forgotten_is_found: Planted::InClient(InClient::SentNotForgotten);
}
