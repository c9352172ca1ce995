//! What a person does to a job that runs: look, pause, resume, drain, stop.

use std::time::Duration;

use halflife_tests::operator::{status, wait_until};
use halflife_tests::process::{Finished, Process};
use serde_json::Value;
use tempfile::TempDir;

use super::{example, fails, server};

/// A lead, its URL and two workers at it, with more steps than anyone waits for.
fn job() -> (Process, String, Vec<Process>) {
    let digits = example("digits.toml");
    let endless = ["--config", &digits, "--set", "job.steps=1000000", "--set", "optimizer.lr=0.005"];
    let (mut lead, url) = Process::server(&endless);
    let mut workers = Vec::new();
    for _ in 0..2 {
        workers.push(Process::start("halflife-worker", &["train", "--server", &url]));
        lead.wait_for_line("a worker has joined");
    }
    (lead, url, workers)
}

fn succeeded(finished: Finished) -> String {
    assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    finished.stdout
}

fn step(url: &str) -> u64 {
    status(url)["step"].as_u64().expect("a step")
}

#[test]
fn a_job_is_seen_paused_resumed_drained_and_ended() {
    let (lead, url, workers) = job();
    // The second one is arriving until it has shown that it has the weights.
    wait_until(&url, "trains with two workers", |status| {
        let active = |workers: &Vec<Value>| workers.iter().filter(|worker| worker["state"] == "active").count();
        status["step"].as_u64() > Some(3) && status["workers"].as_array().map(active) == Some(2)
    });
    let text = succeeded(server(&["status", "--lead", &url]));
    for part in ["training", "of 1000000", "active", "0-3", "4-7", "P2 bit-reproducible: holds", &url] {
        assert!(text.contains(part), "expected {part:?} in {text}");
    }

    let text = succeeded(server(&["pause", "--lead", &url]));
    let rests_after: u64 = text
        .split("after step ")
        .nth(1)
        .and_then(|rest| rest.split(';').next())
        .expect("a step")
        .parse()
        .expect("a number");
    let paused = wait_until(&url, "rests", |status| status["step"].as_u64() >= Some(rests_after));
    // Workers may have begun a later step before they heard: then it rests after that one.
    let rests_after = paused["step"].as_u64().max(Some(rests_after));
    assert_eq!((&paused["phase"], paused["hold"].as_u64()), (&"paused".into(), rests_after));
    std::thread::sleep(Duration::from_millis(300));
    let rested_at = step(&url);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(step(&url), rested_at, "nothing moves");
    succeeded(server(&["resume", "--lead", &url]));
    wait_until(&url, "goes on", |status| status["step"].as_u64() > Some(rested_at));

    fails(&server(&["drain", "7", "--lead", &url]), &["expected one of the workers [0, 1], found 7"]);
    succeeded(server(&["drain", "0", "--lead", &url]));
    let mut workers = workers.into_iter();
    let drained = succeeded(workers.next().expect("two workers").finish());
    assert!(drained.contains("drained by the job's operator; step "), "{drained}");
    let alone = wait_until(&url, "goes on with one worker", |status| {
        status["workers"].as_array().is_some_and(|workers| workers.len() == 1)
    });
    assert_eq!(alone["workers"][0]["slots"], serde_json::json!([[0, 8]]));

    succeeded(server(&["stop", "--lead", &url]));
    let ended = succeeded(workers.next().expect("two workers").finish());
    assert!(ended.contains("weights digest"), "{ended}");
    assert!(succeeded(lead.finish()).contains("finished: step "));
}

#[test]
fn a_watched_status_is_a_line_a_second_until_the_end() {
    let directory = TempDir::new().expect("a directory");
    let report = directory.path().join("report.json");
    let digits = example("digits.toml");
    let (_lead, url) = Process::server(&["--config", &digits, "--set", "job.steps=100"]);
    let mut watching = Process::start("halflife-server", &["status", "--watch", "--json", "--lead", &url]);
    watching.wait_for_output("phase");
    let shown = report.to_str().expect("a path");
    let worker = Process::start("halflife-worker", &["train", "--server", &url, "--report", shown]);
    succeeded(worker.finish());
    // The lead may be gone before the last line: then the watch ends as one of a lead that is lost.
    let watched = watching.finish();
    let phases: Vec<String> = watched
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON")["phase"].to_string())
        .collect();
    assert_eq!(phases.first().map(String::as_str), Some("\"waiting_for_workers\""), "{watched:?}");
    let lead_is_gone = !watched.status.success() && watched.stderr.contains("no lead answers at");
    assert!(lead_is_gone || phases.last().is_some_and(|phase| phase == "\"finished\""), "{watched:?}");
}

#[test]
fn nobody_there_is_said_so() {
    fails(&server(&["status", "--lead", "http://127.0.0.1:1"]), &["no lead answers at http://127.0.0.1:1"]);
    fails(&server(&["stop", "--lead", "nonsense"]), &["expected a URL such as http://10.0.0.1:7070"]);
}

#[test]
fn a_model_that_needs_more_memory_than_a_server_may_use_is_refused_with_the_sum() {
    let digits = example("digits.toml");
    let (_lead, url) = Process::server(&["--config", &digits, "--memory-max", "1M"]);
    let finished = Process::start("halflife-worker", &["train", "--server", &url]).finish();
    assert!(!finished.status.success());
    for part in
        ["memory of server 0", "expected at most --memory-max 1048576 bytes, found", "19210 elements of 16 bytes"]
    {
        assert!(finished.stderr.contains(part), "expected {part:?} in {}", finished.stderr);
    }
    let wrong = server(&["--config", &digits, "--memory-max", "8T"]);
    assert!(wrong.stderr.contains("expected a number of bytes such as 8G or 500M, found \"8T\""), "{}", wrong.stderr);
}

#[test]
fn any_server_of_the_job_may_be_asked() {
    let (mut lead, url) = Process::server(&["--config", &example("digits.toml"), "--set", "job.servers=2"]);
    let (follower, at_follower) = Process::server(&["--lead", &url]);
    lead.wait_for_line("index=server 1");
    assert_eq!(status(&at_follower)["job_id"], status(&url)["job_id"]);
    succeeded(server(&["stop", "--lead", &at_follower]));
    for process in [lead, follower] {
        let finished = process.finish();
        assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    }
}
