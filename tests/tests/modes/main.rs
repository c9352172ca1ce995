//! The modes other than sync: whole jobs finish, count every push once, and learn.
//!
//! `contract`: the same over the bare contract. `links`: over links that are cut and torn.

mod contract;
mod links;

use std::path::Path;

use halflife_tests::operator::wait_until;
use halflife_tests::process::{Finished, Process, root};
use serde_json::Value;
use tempfile::TempDir;

/// With 300, staleness on a busy machine once cost an asynchronous run 5 points; with these it does not show.
const STEPS: u64 = 600;
/// Tensors of the model, each one block: what a push updates.
const BLOCKS: u64 = 4;
/// The default job in sync: 97 % and more.
const ACCURACY_MIN: f64 = 0.93;

fn job() -> String {
    root().join("deploy/examples/digits.toml").to_string_lossy().into_owned()
}

fn report(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a report")).expect("a report is JSON")
}

fn succeeded(finished: &Finished) {
    assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
}

/// The report of a job that runs in one process.
fn local(workers: usize, servers: usize, settings: &[&str]) -> Value {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("report.json");
    let (workers, servers, steps, job) = (workers.to_string(), servers.to_string(), STEPS.to_string(), job());
    let arguments = ["local", "--config", &job, "--steps", &steps, "--workers", &workers, "--servers", &servers];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let report_to = ["--report", path.to_str().expect("a path")];
    succeeded(&Process::start("halflife-worker", &[&arguments[..], &settings, &report_to].concat()).finish());
    report(&path)
}

#[test]
fn a_quorum_of_all_slots_changes_no_bit() {
    let reference = local(1, 1, &[]);
    let found = local(3, 2, &["job.quorum=8", "job.block_elements=1024"]);
    assert_eq!(found["weights_digest"], reference["weights_digest"]);
    assert_eq!(found["bit_reproducible"], true);
}

#[test]
fn a_job_with_a_quorum_finishes_and_learns() {
    let found = local(4, 2, &["job.quorum=6", "job.block_elements=1024"]);
    assert!(found["test_accuracy"].as_f64().expect("a number") > ACCURACY_MIN, "{found}");
    assert_eq!((&found["step"], &found["bit_reproducible"]), (&STEPS.into(), &false.into()));
}

#[test]
fn every_push_of_four_workers_counts_once_and_the_staleness_is_within_its_bound() {
    for (settings, bound) in [
        (&["job.mode=async"][..], None),
        (&["job.mode=bounded", "job.staleness=1"], Some(1)),
        (&["job.mode=async", "wire.gradients=bf16", "wire.weights=bf16"], None),
    ] {
        let found = local(4, 2, settings);
        let tickets = &found["tickets"];
        assert_eq!((&tickets["done"], &tickets["voided"]), (&STEPS.into(), &0.into()), "{settings:?}");
        assert_eq!(tickets["update_staleness"]["count"], STEPS * BLOCKS, "one update for each push and block");
        assert!(found["test_accuracy"].as_f64().expect("a number") > ACCURACY_MIN, "{settings:?}: {found}");
        assert_eq!(found["bit_reproducible"], false);
        if let Some(bound) = bound {
            let max = |kind: &str| tickets[kind]["max"].as_u64().expect("a number");
            assert!(max("clock_staleness") <= bound, "P3: {tickets}");
            assert!(max("update_staleness") <= 3 * (2 * bound + 1), "{tickets}");
        }
    }
}

#[test]
fn one_worker_alone_is_never_stale() {
    let found = local(1, 2, &["job.mode=async"]);
    for kind in ["clock_staleness", "update_staleness"] {
        assert_eq!(found["tickets"][kind]["max"], 0, "{found}");
    }
    let accuracy = found["test_accuracy"].as_f64().expect("a number");
    assert!(accuracy > 0.96, "as good as sync: {accuracy}");
}

/// A worker is killed while it holds a ticket, and the others wait for it: its lease ends that.
#[test]
fn a_killed_workers_tickets_are_void_and_the_job_finishes_with_the_same_weights_for_all() {
    let directory = TempDir::new().expect("a directory");
    let (job, steps) = (job(), format!("job.steps={STEPS}"));
    let settings = ["--config", &job, "--set", &steps, "--set", "job.servers=2"];
    let mode = ["--set", "job.mode=bounded", "--set", "job.staleness=2"];
    let membership = ["--set", "membership.heartbeat_ms=200", "--set", "membership.lease_ms=2000"];
    let (mut lead, url) = Process::server(&[&settings[..], &mode, &membership].concat());
    let (follower, _) = Process::server(&["--lead", &url]);
    // It holds its first ticket until it is killed.
    let killed = Process::start("halflife-worker", &["train", "--server", &url, "--delay-ms", "60000"]);
    lead.wait_for_line("a worker has joined");
    wait_until(&url, "gives the first ticket", |status| status["tickets"]["granted"] == 1);
    let reports: Vec<_> = (0..2).map(|worker| directory.path().join(format!("{worker}.json"))).collect();
    let workers: Vec<_> = reports
        .iter()
        .map(|path| {
            let path = path.to_str().expect("a path");
            Process::start("halflife-worker", &["train", "--server", &url, "--report", path])
        })
        .collect();
    for _ in 0..2 {
        lead.wait_for_line("a worker has joined");
    }
    killed.signal("KILL");
    assert!(!killed.finish().status.success());
    lead.wait_for_line("is void: its worker is gone");
    for worker in workers {
        succeeded(&worker.finish());
    }
    succeeded(&lead.finish());
    succeeded(&follower.finish());
    let reports: Vec<Value> = reports.iter().map(|path| report(path)).collect();
    assert_eq!(reports[0]["weights_digest"], reports[1]["weights_digest"]);
    for report in &reports {
        let tickets = &report["tickets"];
        let counts = ["done", "voided", "torn"].map(|count| tickets[count].as_u64().expect("a number"));
        assert_eq!(counts, [STEPS - 1, 1, 0], "{tickets}");
        assert!(tickets["clock_staleness"]["max"].as_u64().expect("a number") <= 2, "P3: {tickets}");
    }
}
