//! A seeded simulator: the decision code of lead, servers and workers in virtual time, over a network and processes
//! that fail in every way the seed thinks of, with every promise checked after every event.
//!
//! What is real: `LeadState`, `Shard` and its blocks, `Outbox` with its framing, `WorkState`, `Assembly`, `BlockPlan`,
//! `Shipment`, `NodeSum`. What is written again here, small: the edges that tokio and tonic make of them (`lead.rs`,
//! `tickets.rs`, `server.rs`, `sessions.rs`, `worker.rs`, `streams.rs`, `working.rs`, `pushing.rs`), those of checkpoints
//! (`keeping.rs`, over `store.rs`) and of coming back (`recovering.rs`).
//!
//! A third of the seeds are jobs that keep checkpoints: their servers and lead crash, too (`server_faults.rs`), the job
//! goes back and comes to the same (`cuts.rs`).
//!
//! A seed draws one mode. What the weights must be follows from it (`promises.rs`): in sync mode from an undisturbed
//! run, with a quorum from the slots that the lead fixes (`reference.rs`), in the asynchronous modes from the pushes
//! that each block takes (`ledger.rs`, `replay.rs`).
//!
//!     SIMULATION_SEED=17 cargo test -p halflife-tests --test simulation promises      one seed, with its trace
//!     SIMULATION_SEEDS=200 ...                                                        so many seeds
//!     SIMULATION_MINUTES=120 SIMULATION_FIRST=1000000 ...                             until time is up

mod bugs;
mod coverage;
mod cuts;
mod event;
mod faults;
mod gradient;
mod keeping;
mod lead;
mod leaving;
mod ledger;
mod liveness;
mod network;
mod probe;
mod promises;
mod pushing;
mod quorum;
mod random;
mod recovering;
mod reference;
mod replay;
mod runner;
mod scale;
mod scenario;
mod server;
mod server_faults;
mod sessions;
mod standing_by;
mod store;
mod streams;
mod strike;
mod tickets;
mod trace;
mod worker;
mod working;
mod world;

use std::io::Write as _;
use std::str::FromStr;
use std::time::{Duration, Instant};

use runner::{Planted, Summary, compute, run_many, run_seed};

/// What `.ci/run` has time for: 1 to 3 minutes on 2 cores.
const SEEDS: u64 = 10_000;
/// What so many seeds do not meet so often proves too little.
const MET_MIN: u64 = 100;

/// A setting of the environment.
fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")))
}

/// Says something even when tests succeed.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    let compute = compute();
    for seed in [1, 2, 3, 4, 5, 6, 7, 8] {
        let runs = [(); 2].map(|()| run_seed(seed, Planted::Nothing, &compute, false));
        let [first, second] = runs.map(|run| (run.hash, run.events, run.violation));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.1 > 1_000, "seed {seed}: {} events", first.1);
    }
}

#[test]
fn promises_hold_whatever_fails() {
    if let Some(seed) = setting("SIMULATION_SEED") {
        let report = run_seed(seed, Planted::Nothing, &compute(), true);
        say(&format!("seed {seed}: {} events, hash {:016x}\n{}", report.events, report.hash, report.coverage));
        assert_eq!(report.violation, None, "seed {seed}");
        return;
    }
    let until = setting("SIMULATION_MINUTES").map(|minutes: u64| Instant::now() + Duration::from_secs(60 * minutes));
    let count = if until.is_some() { u64::MAX } else { setting("SIMULATION_SEEDS").unwrap_or(SEEDS) };
    let summary = run_many(setting("SIMULATION_FIRST").unwrap_or(0), count, until);
    show(&summary);
    assert!(summary.failures.is_empty(), "{} seeds broke promises", summary.failures.len());
    if summary.seeds >= SEEDS {
        let missed = summary.coverage.missed(MET_MIN);
        assert!(missed.is_empty(), "met less than {MET_MIN} times: {missed:#?}");
    }
}

fn show(summary: &Summary) {
    let Summary { seeds, events, virtual_s, took, coverage, longest_stalls_us, failures } = summary;
    say(&format!("{coverage}"));
    let per_minute = *seeds as f64 / took.as_secs_f64() * 60.0;
    say(&format!(
        "{seeds} seeds, {events} contributions and blocks, {virtual_s} s of virtual time in {:.1} s: {per_minute:.0} seeds a minute",
        took.as_secs_f64()
    ));
    let [light, open, hidden] = longest_stalls_us.map(|stall| stall / 1000);
    say(&format!(
        "longest stall while somebody was well: {light} ms of broken connections, {open} ms of silent workers, {hidden} ms of workers cut off"
    ));
    for (seed, violation) in failures {
        say(&format!("seed {seed}: {violation}"));
        say(&format!(
            "    SIMULATION_SEED={seed} cargo test -p halflife-tests --test simulation promises_hold_whatever_fails"
        ));
    }
}
