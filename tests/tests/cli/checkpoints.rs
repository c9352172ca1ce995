//! `halflife-server checkpoint ...` as a person meets it: what it shows, what it refuses, how it ends.

use std::fs;
use std::path::{Path, PathBuf};

use halflife_tests::process::{Finished, Process};
use serde_json::Value;
use tempfile::TempDir;

use super::{example, fails, server};

/// A job file with a store beside it.
struct Job {
    directory: TempDir,
    file: String,
}

impl Job {
    fn new(text: &str) -> Job {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("job.toml");
        fs::write(&path, text).expect("a job file");
        Job { file: path.to_string_lossy().into_owned(), directory }
    }

    /// The digits for 40 steps, ended and made longer every 10: each end has a checkpoint, of a generation of its own.
    fn trained() -> Job {
        let digits = fs::read_to_string(example("digits.toml")).expect("the example");
        let job = Job::new(&format!("{digits}\n[checkpoint]\nlocation = \"kept\"\nevery = 1000\nkeep_last = 9\n"));
        for steps in ["job.steps=10", "job.steps=20", "job.steps=30", "job.steps=40"] {
            let arguments = ["local", "--config", &job.file, "--set", steps, "--set", "optimizer.lr=0.005"];
            let trained = Process::start("halflife-worker", &arguments).finish();
            assert!(trained.status.success(), "{}", trained.stderr);
        }
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn checkpoint(&self, arguments: &[&str]) -> Finished {
        let with_config = [&["checkpoint"], arguments, &["--config", &self.file]].concat();
        server(&with_config)
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let finished = self.checkpoint(arguments);
        assert!(finished.status.success(), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
        finished.stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.succeeds(arguments)).expect("one JSON object")
    }
}

/// One byte in the middle of a file becomes another.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("the file");
}

#[test]
fn a_store_is_listed_inspected_verified_exported_and_pruned_without_a_server() {
    let job = Job::trained();
    let listed = job.json(&["list", "--json"]);
    let steps: Vec<_> = listed["checkpoints"].as_array().unwrap().iter().map(|entry| entry["step"].as_u64()).collect();
    assert_eq!(steps, [0, 10, 20, 30, 40].map(Some));
    assert_eq!(listed["newest"], "000000000040-g00000004");
    let text = job.succeeds(&["list"]);
    assert!(text.contains("a restart goes on from it") && text.contains(" UTC "), "{text}");
    let by_place = server(&["checkpoint", "list", &job.text("kept")]);
    assert_eq!(by_place.stdout, text);

    let inspected = job.json(&["inspect", "20", "--json"]);
    assert_eq!((inspected["step"].as_u64(), inspected["schedule"]["next_step"].as_u64()), (Some(20), Some(21)));
    assert!(inspected["ledger"][0]["half_life_steps"].as_f64().unwrap() > 0.0, "{inspected}");
    let text = job.succeeds(&["inspect"]);
    for part in [
        "000000000040-g00000004",
        "half-life (steps)",
        "digests",
        "settings from step 1",
        "trainable",
        "undone_steps 0",
    ] {
        assert!(text.contains(part), "expected {part:?} in {text}");
    }

    let verified = job.json(&["verify", "--all", "--json"]);
    assert!(verified["checkpoints"].as_array().unwrap().iter().all(|entry| entry["whole"] == true), "{verified}");

    let (weights, state) = (job.text("w.safetensors"), job.text("s.safetensors"));
    job.succeeds(&["export", "--weights", &weights, "--torch-state", &state]);
    let (again, state_again) = (job.text("w2.safetensors"), job.text("s2.safetensors"));
    job.succeeds(&["export", "40", "--weights", &again, "--torch-state", &state_again]);
    assert!(fs::read(&weights).unwrap() == fs::read(&again).unwrap(), "the same bytes each time");
    assert!(fs::read(&state).unwrap() == fs::read(&state_again).unwrap());

    let would = job.succeeds(&["prune", "--keep-last", "2", "--dry-run"]);
    assert!(would.contains("3 would be deleted") && would.contains("2 would stay"), "{would}");
    assert_eq!(job.json(&["list", "--json"])["checkpoints"].as_array().unwrap().len(), 5);
    let done = job.succeeds(&["prune", "--keep-last", "2", "--keep-every", "20"]);
    assert!(done.contains("000000000010-g00000001  deleted") && done.contains("4 stay"), "{done}");
    // By the job file, which keeps 9.
    assert!(job.succeeds(&["prune"]).contains("0 deleted"));

    damage(&job.path("kept/checkpoints/000000000030-g00000003/server-0000.safetensors"));
    let damaged = job.checkpoint(&["verify", "30"]);
    fails(&damaged, &["server-0000.safetensors", "tensor", "block", "expected BLAKE3"]);
    let all = job.checkpoint(&["verify", "--all"]);
    fails(&all, &["found 1 of 4 damaged"]);
    assert!(all.stdout.contains("DAMAGED") && all.stdout.contains("whole"), "{}", all.stdout);
    fails(&job.checkpoint(&["export", "30", "--weights", &weights]), &["expected BLAKE3"]);
}

#[test]
fn places_and_names_that_are_not_there_are_said_plainly() {
    let job = Job::new("[job]\nname = \"j\"\nsteps = 9\n[optimizer]\nlr = 0.1\n");
    fails(&job.checkpoint(&["list"]), &["expected a section [checkpoint]"]);
    fails(
        &server(&["checkpoint", "list", &job.text("nowhere")]),
        &["expected a directory with checkpoints", "nowhere"],
    );
    assert!(!job.path("nowhere").exists(), "a place that is only looked at is not made");
    fs::create_dir(job.path("empty")).expect("a directory");
    let empty = job.text("empty");
    assert!(server(&["checkpoint", "list", &empty]).stdout.contains("no checkpoints"));
    fails(&server(&["checkpoint", "inspect", &empty]), &["expected a checkpoint, found none"]);
    fails(&server(&["checkpoint", "inspect", &empty, "7"]), &["expected checkpoint 7, found []"]);
    fails(&server(&["checkpoint", "verify", &empty, "latest"]), &["a checkpoint's step, or its name", "\"latest\""]);
    fails(&server(&["checkpoint", "inspect"]), &["expected LOCATION or --config FILE"]);
    fails(&server(&["checkpoint", "now", "--lead", "http://127.0.0.1:1"]), &["no lead answers"]);
}

#[test]
fn a_checkpoint_on_demand_is_committed_when_the_command_ends() {
    let digits = fs::read_to_string(example("digits.toml")).expect("the example");
    let job = Job::new(&format!("{digits}\n[checkpoint]\nlocation = \"kept\"\nevery = 100000\n"));
    let endless = ["--config", &job.file, "--set", "job.steps=1000000", "--set", "optimizer.lr=0.005"];
    let (mut lead, url) = Process::server(&endless);
    let unready = server(&["checkpoint", "now", "--lead", &url, "--timeout", "0"]);
    fails(&unready, &[]);
    let _worker = Process::start("halflife-worker", &["train", "--server", &url]);
    lead.wait_for_line("a checkpoint is committed");
    let made = server(&["checkpoint", "now", "--lead", &url]);
    assert!(made.status.success() && made.stdout.contains("is committed"), "{}{}", made.stdout, made.stderr);
    let name = made.stdout.split_whitespace().nth(1).expect("its name").to_owned();
    let listed = job.json(&["list", "--json"]);
    let kept = listed["checkpoints"].as_array().unwrap();
    assert!(kept.iter().any(|entry| entry["id"] == name.as_str() && entry["step"].as_u64() > Some(0)), "{listed}");

    // Of a job that rests, once: the second time it is there.
    assert!(server(&["pause", "--lead", &url]).status.success());
    let [first, second] = [(); 2].map(|()| server(&["checkpoint", "now", "--lead", &url, "--timeout", "20"]));
    assert!(first.status.success(), "{}", first.stderr);
    assert_eq!((second.stdout, second.stderr), (first.stdout, String::new()));

    let without = ["--config", &example("digits.toml"), "--set", "job.steps=1000000", "--set", "optimizer.lr=0.005"];
    let (_lead, url) = Process::server(&without);
    fails(&server(&["checkpoint", "now", "--lead", &url]), &["refused", "[checkpoint]"]);
}
