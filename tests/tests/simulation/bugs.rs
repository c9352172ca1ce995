//! The simulator is able to fail: bugs planted in the product, each found by some seed among few of its mode.

use halflife_checkpoint::planted::Bug as InStore;
use halflife_client::planted::Bug as InClient;
use halflife_server::planted::Bug as InServer;

use crate::runner::{Planted, compute, run_seed};
use crate::say;
use crate::scenario::{Ending, Mode, Scenario};

/// Seeds that may be needed to find a bug.
const SEEDS: usize = 60;

/// Which seeds a bug is looked for in.
type Kind = fn(&Scenario) -> bool;

const IS_SYNC: Kind = |Scenario { job, .. }| job.mode == Mode::Sync && job.checkpoints.is_none();
const HAS_QUORUM: Kind = |Scenario { job, .. }| matches!(job.mode, Mode::Quorum(_)) && job.checkpoints.is_none();
const IS_BOUNDED: Kind = |Scenario { job, .. }| matches!(job.mode, Mode::Bounded(_)) && job.checkpoints.is_none();
const HAS_TICKETS: Kind = |Scenario { job, .. }| job.mode.has_tickets() && job.checkpoints.is_none();
const KEEPS: Kind = |Scenario { job, .. }| job.checkpoints.is_some();
const KEEPS_QUORUM: Kind = |Scenario { job, .. }| matches!(job.mode, Mode::Quorum(_)) && job.checkpoints.is_some();
const KEEPS_TICKETS: Kind = |Scenario { job, .. }| job.mode.has_tickets() && job.checkpoints.is_some();
const KEEPS_AND_ENDS_EARLY: Kind = |Scenario { job, ending, .. }| {
    job.checkpoints.is_some() && !job.mode.has_tickets() && matches!(ending, Ending::Early { .. })
};

/// Runs seeds of the bug's jobs until one finds it.
fn is_found(kind: Kind, planted: Planted) {
    let compute = compute();
    for seed in (0..).filter(|seed| kind(&Scenario::draw(*seed))).take(SEEDS) {
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
    a_forgotten_dedupe_is_found: IS_SYNC, Planted::InServer(InServer::ForgottenDedupe);
    a_covering_node_that_replaces_nothing_is_found: IS_SYNC, Planted::InServer(InServer::CoveringNodeAdded);
    an_ignored_late_node_is_found: IS_SYNC, Planted::InServer(InServer::LateNodeIgnored);
    a_partial_step_is_found: IS_SYNC, Planted::InServer(InServer::PartialStepApplied);
    a_contribution_of_an_old_generation_is_found: IS_SYNC, Planted::InServer(InServer::OldGenerationAccepted);
    a_stream_that_begins_with_stale_weights_is_found: IS_SYNC, Planted::InServer(InServer::StaleBaseline);
    a_missing_fence_is_found: IS_SYNC, Planted::InServer(InServer::MissingFence);
    a_heartbeat_of_a_fenced_worker_is_found: IS_SYNC, Planted::InServer(InServer::FencedHeartbeatAccepted);
    slots_that_do_not_move_are_found: IS_SYNC, Planted::InServer(InServer::SlotsNotMoved);
    a_joiner_that_begins_late_is_found: IS_SYNC, Planted::InServer(InServer::JoinerBeginsLate);
    a_lease_without_a_watch_over_progress_is_found: IS_SYNC, Planted::InServer(InServer::NoProgressWatch);
    a_quorum_decided_per_block_is_found: HAS_QUORUM, Planted::InServer(InServer::QuorumPerBlock);
    a_quorum_that_one_server_decides_is_found: HAS_QUORUM, Planted::InServer(InServer::QuorumOfOneServer);
    an_off_by_one_in_the_staleness_bound_is_found: IS_BOUNDED, Planted::InServer(InServer::StalenessOffByOne);
    a_joiner_at_the_wrong_clock_is_found: IS_BOUNDED, Planted::InServer(InServer::JoinerAtFastestClock);
    a_ticket_that_never_expires_is_found: HAS_TICKETS, Planted::InServer(InServer::TicketNeverExpires);
    a_ticket_that_is_done_on_one_server_is_found: HAS_TICKETS, Planted::InServer(InServer::DoneOnOneServer);
    a_push_counted_twice_is_found: HAS_TICKETS, Planted::InServer(InServer::PushCountedTwice);
    a_void_push_that_is_applied_is_found: HAS_TICKETS, Planted::InServer(InServer::VoidedPushApplied);
    a_mark_that_is_not_awaited_is_found: HAS_TICKETS, Planted::InClient(InClient::MarkOfOneServer);
    a_torn_version_is_found: IS_SYNC, Planted::InClient(InClient::TornVersion);
    what_was_sent_and_not_forgotten_is_found: IS_SYNC, Planted::InClient(InClient::SentNotForgotten);
    a_contribution_from_before_a_restore_is_found: KEEPS, Planted::InServer(InServer::OldGenerationAccepted);
    a_cut_that_is_too_late_is_found: KEEPS, Planted::InServer(InServer::CutTooLate);
    planes_that_are_not_copied_are_found: KEEPS, Planted::InServer(InServer::PlanesNotCopied);
    a_commit_before_all_is_saved_is_found: KEEPS, Planted::InServer(InServer::CommittedBeforeAllSaved);
    updates_that_do_not_come_back_are_found: KEEPS, Planted::InServer(InServer::UpdatesNotRestored);
    tickets_beyond_a_cut_are_found: KEEPS_TICKETS, Planted::InServer(InServer::TicketsBeyondTheCut);
    a_step_that_is_durable_before_its_commit_is_found: KEEPS, Planted::InServer(InServer::DurableBeforeCommit);
    an_end_before_the_last_checkpoint_is_found: KEEPS, Planted::InServer(InServer::FinishedBeforeLastCheckpoint);
    an_end_that_a_block_is_past_is_found: KEEPS_AND_ENDS_EARLY, Planted::InServer(InServer::EndsBehindABlock);
    a_quorum_that_is_closed_beyond_the_end_is_found: KEEPS_AND_ENDS_EARLY,
        Planted::InServer(InServer::ClosedBeyondTheEnd);
    a_quorum_that_is_not_resumed_is_found: KEEPS_QUORUM, Planted::InServer(InServer::QuorumNotResumed);
    a_late_commit_that_is_continued_is_found: KEEPS, Planted::InStore(InStore::LateCommitContinued);
    a_claim_that_counts_at_once_is_found: KEEPS, Planted::InStore(InStore::ClaimCountsAtOnce);
    a_checkpoint_that_is_continued_and_thrown_away_is_found: KEEPS, Planted::InStore(InStore::ContinuedPruned);
}
