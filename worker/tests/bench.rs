//! `halflife-worker bench` as its users see it: real processes, real sockets.

// A step that fails is a test that fails; clippy sees tests only inside #[test] functions.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halflife-worker"));
    command.arg("bench").args(arguments).env_remove("RUST_LOG");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_benchmark_verifies_the_weights_of_the_job_and_of_its_bound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.json");
    let line = "--params 20000 --workers 2 --servers 2 --steps 20 --warmup 3 --block-elements 512 --bound --json";
    let arguments: Vec<&str> = line.split(' ').chain([path.to_str().unwrap()]).collect();
    let output = bench(&arguments).output().unwrap();
    assert_success(&output);
    let report = json(&path);
    assert_eq!(report["verified"]["passed"], true, "{report}");
    let workers = report["verified"]["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for worker in workers {
        // 23 steps and the initial weights; both ends of 40 blocks, and the middle of 4 tensors.
        assert_eq!((worker["level"].as_str(), worker["versions"].as_u64()), (Some("bits"), Some(24)), "{worker}");
        assert_eq!((worker["positions"].as_u64(), worker["step"].as_u64()), (Some(84), Some(23)), "{worker}");
    }
    assert_eq!(report["verified"]["bound"].as_array().unwrap().len(), 2);
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(parts.iter().map(|part| part["steps"].as_u64()).collect::<Vec<_>>(), [Some(20), Some(20)]);
    assert_eq!(report["bound_ratio"]["time"]["count"], 20);
    assert!(report["bound_ratio"]["cpu"]["median"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(report["memory"]["servers"].as_array().unwrap().len(), 2);
    let shown = text(&output.stdout);
    assert!(shown.contains("every bit at 84 positions") && shown.contains("job / bound"), "{shown}");
}

#[test]
fn two_jobs_are_compared_in_turns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.json");
    let other = "optimizer.weight_decay={mode=\"none\"}";
    let arguments = ["--params", "3000", "--steps", "12", "--compare", other, "--json", path.to_str().unwrap()];
    assert_success(&bench(&arguments).output().unwrap());
    let report = json(&path);
    assert_eq!((&report["verified"]["passed"], &report["parts"][1]["name"]), (&true.into(), &"other".into()));
    assert!(report["compare_ratio"]["time"]["median"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_rule_with_norms_is_measured_without_prediction() {
    let output = bench(&["--params", "3000", "--steps", "3", "--set", "optimizer.algorithm=lamb"]).output().unwrap();
    assert_success(&output);
    assert!(text(&output.stdout).contains("that every step up to 5 came once"), "{}", text(&output.stdout));
}

#[test]
fn a_sweep_writes_a_table_and_a_picture() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("sweep");
    let arguments =
        ["--sweep-params", "1024,5000", "--sweep-blocks", "1024,4096", "--sweep-dtypes", "f32", "--steps", "5"];
    let output = bench(&arguments).arg("--sweep").arg(&place).output().unwrap();
    assert_success(&output);
    let table = fs::read_to_string(place.join("sweep.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 3, "{table}");
    assert!(fs::read_to_string(place.join("sweep.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn what_cannot_be_measured_is_said() {
    for (arguments, expected) in [
        (&["--workers", "0"][..], "--workers: expected 1 to 256, found 0"),
        (&["--server", "http://127.0.0.1:1", "--servers", "2"], "leave out --servers"),
        (&["--server", "http://127.0.0.1:1", "--patience", "1"], "worker 0: gave up on http://127.0.0.1:1"),
        (&["--params", "1000", "--set", "optimizer.lr=-1"], "the benchmark's bench.toml"),
        (&["--json", "none/report.json"], "cannot write none/report.json"),
        (&["--params", "1000", "--bound", "--set", "optimizer.algorithm=lamb"], "--bound needs an optimizer"),
    ] {
        let output = bench(arguments).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("halflife-worker: error: ") && stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked") && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}

#[cfg(target_os = "linux")]
mod processes {
    use super::*;

    const ENDLESS: [&str; 8] = ["--params", "100000", "--workers", "2", "--servers", "2", "--steps", "100000000"];

    /// The processes that `parent` has started, once there are `count` of them.
    fn children(parent: u32, count: usize) -> Vec<u32> {
        let begin = Instant::now();
        loop {
            let found = children_now(parent);
            if found.len() == count {
                return found;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{} of {count} processes", found.len());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn children_now(parent: u32) -> Vec<u32> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        processes.filter_map(number).filter(|process| parent_of(*process) == Some(parent)).collect()
    }

    /// The parent of a process that lives, also one that is not waited for.
    fn parent_of(process: u32) -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        (fields.next()? != "Z").then_some(())?;
        fields.next()?.parse().ok()
    }

    fn signal(name: &str, process: u32) {
        let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
        assert!(sent.unwrap().success());
    }

    fn assert_ended(processes: &[u32]) {
        let begin = Instant::now();
        while processes.iter().any(|process| parent_of(*process).is_some()) {
            assert!(begin.elapsed() < Duration::from_secs(10), "{processes:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn no_process_outlives_the_controller() {
        for (name, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
            let controller = bench(&ENDLESS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let started = children(controller.id(), 4);
            std::thread::sleep(Duration::from_millis(200));
            signal(name, controller.id());
            let begin = Instant::now();
            let output = controller.wait_with_output().unwrap();
            assert!(begin.elapsed() < Duration::from_secs(2), "took {:?}", begin.elapsed());
            assert_eq!(output.status.code(), code, "{}", text(&output.stderr));
            if code.is_some() {
                let last = format!("halflife-worker: stopped by SIG{name}; every process of the benchmark has ended\n");
                assert_eq!(text(&output.stdout), last);
            }
            assert_ended(&started);
        }
    }

    #[test]
    fn a_process_that_dies_is_named() {
        let controller = bench(&ENDLESS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let started = children(controller.id(), 4);
        std::thread::sleep(Duration::from_millis(300));
        signal("KILL", *started.iter().min().unwrap());
        let output = controller.wait_with_output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("server 0 has died (signal: 9 (SIGKILL))"), "{stderr}");
        assert_ended(&started);
    }
}
