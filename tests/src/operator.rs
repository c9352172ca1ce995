//! What a person asks a lead and tells it, by way of `halflife-server`.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::Process;

/// Longest that a job may take to stand as expected.
const DEADLINE: Duration = Duration::from_secs(60);

/// What `halflife-server` prints that is told this.
fn told(arguments: &[&str]) -> String {
    let finished = Process::start("halflife-server", arguments).finish();
    assert!(finished.status.success(), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
    finished.stdout
}

/// How the job stands.
#[must_use]
pub fn status(url: &str) -> Value {
    serde_json::from_str(&told(&["status", "--json", "--lead", url])).expect("one JSON object")
}

/// Waits until the job stands so; gives how it stands then.
pub fn wait_until(url: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let status = status(url);
        if is_so(&status) {
            return status;
        }
        assert!(begun.elapsed() < DEADLINE, "never {what}: {status}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Waits until the first step is complete on every server.
pub fn wait_for_a_step(url: &str) {
    wait_until(url, "makes a step", |status| status["step"].as_u64() > Some(0));
}

/// Starts workers of a job that has not begun, and lets it begin once all of them have joined: else the first could make
/// every step before the last is there.
pub fn begin_together(lead: &mut Process, url: &str, start: impl FnOnce() -> Vec<Process>) -> Vec<Process> {
    told(&["pause", "--lead", url]);
    let workers = start();
    for _ in &workers {
        lead.wait_for_line("a worker has joined");
    }
    told(&["resume", "--lead", url]);
    workers
}
