//! The binary as its users see it: results, errors, exit codes, signals. Every job is a whole one over
//! real sockets.

// A step that fails is a test that fails; clippy sees tests only inside #[test] functions.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use halflife_proto::manifest::{Manifest, Tensor};
use halflife_worker::digest::weights_digest;
use halflife_worker::weights_file;

/// 74 blocks in all.
const JOB: &str = r#"
[job]
name = "small"
seed = 3
steps = 30
slots = 8
block_elements = 32

[optimizer]
algorithm = "adam"
lr = 0.01
weight_decay = { mode = "decoupled", value = 0.1, scaled_by = "lr" }

[model]
kind = "mlp"
hidden = [32]

[data]
kind = "digits"
holdout_fraction = 0.1

[training]
samples_per_slot = 4
eval_every = 10
"#;

/// A directory with `job.toml` in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        fs::write(place.path("job.toml"), JOB).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `halflife-worker` with these arguments, run here.
    fn worker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_halflife-worker"));
        command.current_dir(self.0.path()).args(arguments).env_remove("RAYON_NUM_THREADS").env_remove("RUST_LOG");
        command
    }

    fn local(&self, arguments: &[&str]) -> Output {
        self.worker(&[&["local", "--config", "job.toml"], arguments].concat()).output().unwrap()
    }

    fn report(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_local_job_ends_with_a_summary_a_report_and_weights() {
    let place = Place::new();
    let output = place.local(&["--report", "report.json", "--weights", "model.safetensors"]);
    assert_success(&output);
    let (report, summary) = (place.report("report.json"), text(&output.stdout));
    let digest = report["weights_digest"].as_str().unwrap();
    assert!(summary.contains("30 steps in") && summary.contains("test    accuracy") && summary.contains(digest));
    let steps: Vec<_> = report["evaluations"].as_array().unwrap().iter().map(|at| at["step"].as_u64()).collect();
    assert_eq!(steps, [Some(10), Some(20), Some(30)]);
    assert_eq!(report["evaluations"][2]["test_accuracy"], report["test_accuracy"]);
    let losses = ["train_loss", "holdout_loss", "test_loss"].map(|name| report[name].as_f64().unwrap());
    assert!(losses.iter().all(|loss| *loss < std::f64::consts::LN_10), "{losses:?}");
    let samples = ["train_samples", "holdout_samples", "test_samples"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(samples, [1293, 144, 360]);
    assert_eq!(
        weights_digest(&manifest(), &weights_file::read(&place.path("model.safetensors"), &manifest()).unwrap()),
        digest
    );
}

#[test]
fn a_gradient_takes_one_thread_unless_the_user_says_otherwise() {
    let place = Place::new();
    for (set, expected) in [(None, "cpu, 1 thread(s)"), (Some("2"), "cpu, 2 thread(s)")] {
        let mut command = place.worker(&["local", "--config", "job.toml", "--steps", "1", "--report", "r.json"]);
        if let Some(threads) = set {
            command.env("RAYON_NUM_THREADS", threads);
        }
        assert_success(&command.output().unwrap());
        assert!(place.report("r.json")["fingerprint"].as_str().unwrap().contains(expected));
    }
}

fn manifest() -> Manifest {
    let tensors = [("layers.0.weight", &[32, 64][..]), ("layers.0.bias", &[32]), ("layers.1.weight", &[10, 32])];
    let mut tensors = tensors.map(|(name, shape)| Tensor::trainable(name, shape)).to_vec();
    tensors.push(Tensor::trainable("layers.1.bias", &[10]));
    Manifest::new(tensors).unwrap()
}

#[test]
fn servers_workers_and_blocks_change_no_bit() {
    let place = Place::new();
    let digest = |arguments: &[&str]| {
        assert_success(&place.local(&[&["--report", "report.json"], arguments].concat()));
        place.report("report.json")["weights_digest"].as_str().unwrap().to_owned()
    };
    let expected = digest(&[]);
    assert_eq!(digest(&["--servers", "3", "--workers", "2"]), expected);
    assert_eq!(digest(&["--servers", "2", "--workers", "3"]), expected);
    assert_eq!(digest(&["--set", "job.block_elements=262144", "--workers", "4"]), expected);
    assert_ne!(digest(&["--seed", "4"]), expected);
    assert_ne!(digest(&["--steps", "29"]), expected);
}

#[test]
fn softmax_regression_and_csv_data_train_too() {
    let place = Place::new();
    let rows: String =
        (0..200).map(|row| format!("{},{},{}\n", row % 7, 9 - row % 10, u8::from(row % 10 > 4))).collect();
    fs::write(place.path("some.csv"), rows).unwrap();
    let set = ["--set", "model={kind=\"softmax\"}", "--set", "data={kind=\"csv\",path=\"some.csv\",scale=10.0}"];
    let output =
        place.local(&[&set[..], &["--steps", "200", "--set", "optimizer.lr=0.1", "--report", "r.json"]].concat());
    assert_success(&output);
    let report = place.report("r.json");
    assert_eq!((report["parameters"].as_u64(), report["test_samples"].as_u64()), (Some(6), Some(40)));
    assert!(report["test_accuracy"].as_f64().unwrap() > 0.9, "{report}");
}

#[test]
fn errors_are_one_clear_message_and_a_failing_exit() {
    let place = Place::new();
    fs::write(place.path("bad.csv"), "0,1,0\n0,x,1\n").unwrap();
    fs::write(place.path("bad.toml"), JOB.replace("samples_per_slot", "sample_per_slot")).unwrap();
    let local = |arguments: &[&'static str]| [&["local", "--config", "job.toml"], arguments].concat();
    let cases = [
        (local(&["--set", "data={kind=\"csv\",path=\"bad.csv\"}"]), "bad.csv, line 2: expected a number from 0 to 1"),
        (local(&["--set", "data={kind=\"csv\",path=\"none.csv\"}"]), "cannot read none.csv"),
        (local(&["--set", "data={kind=\"idx\",directory=\"none\"}"]), "cannot read none/train-images-idx3-ubyte"),
        (local(&["--set", "model.hiden=[3]"]), "did you mean `hidden`?"),
        (local(&["--steps", "0"]), "job.steps: expected at least 1"),
        (local(&["--report", "none/report.json"]), "cannot write none/report.json"),
        (local(&["--weights", "."]), "cannot write ."),
        (vec!["local", "--config", "bad.toml"], "did you mean `samples_per_slot`?"),
        (vec!["local", "--config", "none.toml"], "none.toml"),
        (vec!["train", "--server", "http://127.0.0.1:1", "--patience", "1"], "cannot connect to http://127.0.0.1:1"),
        (
            vec!["train", "--etcd", "http://127.0.0.1:1", "--job", "digits", "--patience", "1"],
            "cannot connect to /halflife/digits/lead in etcd: etcd at http://127.0.0.1:1: ",
        ),
        (
            vec!["train", "--server", "https://127.0.0.1:1"],
            "--server \"https://127.0.0.1:1\": expected http://HOST:PORT, unix:///PATH or dns:HOST:PORT",
        ),
        (
            vec!["train", "--server", "nonsense"],
            "--server \"nonsense\": expected http://HOST:PORT, unix:///PATH or dns:HOST:PORT",
        ),
    ];
    for (arguments, expected) in cases {
        let output = place.worker(&arguments).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("halflife-worker: error: ") && stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked") && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_nonfinite_gradient_stops_the_job_with_its_step() {
    let output = Place::new().local(&["--set", "optimizer.lr=1e38", "--set", "optimizer.weight_decay.value=0.0"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the job has stopped: the gradient of step"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_local_job_within_two_seconds() {
    for (signal, code, workers) in [("INT", 130, "1"), ("TERM", 143, "3")] {
        let place = Place::new();
        let steps = "100000000";
        let arguments = [
            "local",
            "--config",
            "job.toml",
            "--steps",
            steps,
            "--servers",
            "2",
            "--workers",
            workers,
            "--set",
            "training.eval_every=0",
        ];
        let output = stopped_by(signal, place.worker(&arguments), &place.path("stderr"), "step ");
        let last = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{last}");
        assert!(last.contains(&format!("stopped by SIG{signal}; step ")), "{last}");
        assert!(last.trim_end().ends_with("of 100000000 was complete"), "{last}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_worker_that_waits_for_its_lead() {
    let place = Place::new();
    let mut command = place.worker(&["train", "--server", "http://127.0.0.1:1"]);
    command.env("RUST_LOG", "info");
    let output = stopped_by("TERM", command, &place.path("stderr"), "no lead answers yet");
    assert_eq!(output.status.code(), Some(143));
}

/// Signals the command once it says this on standard error.
#[cfg(unix)]
fn stopped_by(signal: &str, mut command: Command, stderr: &Path, says: &str) -> Output {
    let file = fs::File::create(stderr).unwrap();
    let child = command.stdout(Stdio::piped()).stderr(file).spawn().unwrap();
    let begin = Instant::now();
    while !fs::read_to_string(stderr).unwrap().contains(says) {
        assert!(begin.elapsed() < Duration::from_secs(30), "no {says:?}: {}", fs::read_to_string(stderr).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(signal, child.id());
    let signalled = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(signalled.elapsed() < Duration::from_secs(2), "took {:?}", signalled.elapsed());
    output
}

#[cfg(unix)]
fn kill(signal: &str, process: u32) {
    let sent = Command::new("kill").args([format!("-{signal}"), process.to_string()]).status();
    assert!(sent.unwrap().success());
}
