//! `checkpoint export` and `import`: a job that goes on elsewhere, and what is refused with nothing written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use halflife_server::interchange::{GROUPS_KEY, OPTIMIZER_KEY, Stored, TensorFile};
use halflife_tests::process::Finished;
use serde_json::Value;
use tempfile::TempDir;

use super::{fails, server};

const ADAMW: &str = "preset = \"pytorch-adamw\"\nlr = 0.1";

fn values(values: &[f32]) -> Stored {
    Stored::f32(&[values.len() as u64], values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

/// Files of a model of two tensors, and a directory for jobs.
struct Files {
    directory: TempDir,
    weights: TensorFile,
    state: TensorFile,
}

impl Files {
    fn new() -> Files {
        let mut weights = TensorFile::default();
        weights.push("b".to_owned(), values(&[1.0, -2.0, 3.0, -4.0, 5.0]));
        weights.push("a".to_owned(), values(&[0.5]));
        let mut state = TensorFile::default();
        for (name, arrays) in [("b", [[0.1; 5], [0.2; 5]]), ("a", [[0.3; 5], [0.4; 5]])] {
            let length = if name == "a" { 1 } else { 5 };
            state.push(format!("{name}.step"), Stored::count(40));
            state.push(format!("{name}.exp_avg"), values(&arrays[0][..length]));
            state.push(format!("{name}.exp_avg_sq"), values(&arrays[1][..length]));
        }
        let group =
            r#"[{"lr":0.1,"weight_decay":0.01,"betas":[0.9,0.999],"eps":1e-8,"amsgrad":false,"names":["a","b"]}]"#;
        state.metadata =
            BTreeMap::from([(OPTIMIZER_KEY.to_owned(), "AdamW".to_owned()), (GROUPS_KEY.to_owned(), group.to_owned())]);
        Files { directory: TempDir::new().expect("a directory"), weights, state }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }

    /// Imports into a store of this name.
    fn import(&self, store: &str, optimizer: &str, more: &[&str]) -> Finished {
        let (job, weights, state) = (self.path("job.toml"), self.path("w.safetensors"), self.path("s.safetensors"));
        let text = format!(
            "[job]\nname = \"j\"\nsteps = 100\nblock_elements = 4\n[checkpoint]\nlocation = \"{store}\"\nevery = 50\n[optimizer]\n{optimizer}\n"
        );
        fs::write(&job, text).expect("a job file");
        self.weights.write(Path::new(&weights)).expect("weights");
        self.state.write(Path::new(&state)).expect("state");
        let files = ["--config", &job, "--weights", &weights, "--torch-state", &state];
        server(&[&["checkpoint", "import"][..], &files, more].concat())
    }
}

#[test]
fn what_is_imported_is_a_whole_checkpoint_that_exports_as_it_came() {
    let files = Files::new();
    let imported = files.import("kept", ADAMW, &["--step", "42"]);
    assert!(imported.status.success(), "{}", imported.stderr);
    assert!(imported.stdout.contains("2 tensors; the job goes on with step 43"), "{}", imported.stdout);
    assert!(!imported.stdout.contains("note:"), "{}", imported.stdout);
    let store = files.path("kept");
    let inspected = server(&["checkpoint", "inspect", "--json", &store]);
    let inspected: Value = serde_json::from_str(&inspected.stdout).expect("JSON");
    assert_eq!((inspected["step"].as_u64(), inspected["blocks"].as_u64()), (Some(42), Some(3)));
    assert_eq!(inspected["revisions"][0]["from_step"], 43);
    assert_eq!(inspected["ledger"][0]["steps"], 42);
    assert!(server(&["checkpoint", "verify", &store]).status.success());
    let (weights, state) = (files.path("w2.safetensors"), files.path("s2.safetensors"));
    let exported = server(&["checkpoint", "export", &store, "--weights", &weights, "--torch-state", &state]);
    assert!(exported.status.success(), "{}", exported.stderr);
    let (weights, state) =
        (TensorFile::read(Path::new(&weights)).unwrap(), TensorFile::read(Path::new(&state)).unwrap());
    assert_eq!((weights.tensors, weights.order), (files.weights.tensors.clone(), files.weights.order.clone()));
    assert_eq!(state.tensors, files.state.tensors);
    // The same model again: the record keeps the order.
    fails(&files.import("kept", ADAMW, &["--step", "42"]), &["expected a place that holds no job yet, found job \"j-"]);
}

#[test]
fn a_changed_rate_is_told_and_missing_state_begins_at_zero() {
    let files = Files::new();
    let other = files.import("kept", "preset = \"pytorch-adamw\"\nlr = 0.2", &["--step", "42"]);
    assert!(other.stdout.contains("note: lr of param_groups[0] was 0.1, and is 0.2"), "{}", other.stdout);
    let (job, weights) = (files.path("job.toml"), files.path("w.safetensors"));
    let store = format!("checkpoint.location={}", files.path("bare"));
    let bare = ["--config", &job, "--weights", &weights, "--step", "7", "--set", &store];
    let bare = server(&[&["checkpoint", "import"][..], &bare].concat());
    assert!(bare.status.success() && bare.stdout.contains("begins at zero"), "{}{}", bare.stdout, bare.stderr);
}

#[test]
fn what_is_not_the_jobs_is_refused_and_nothing_is_written() {
    type Spoil = fn(&mut Files);
    let cases: [(&str, &str, Spoil, &str); 9] = [
        (ADAMW, "101", |_| {}, "--step 101: expected at most 100, the job's steps"),
        ("preset = \"pytorch-sgd\"\nlr = 0.1", "1", |_| {}, "expected the state of torch.optim.SGD"),
        ("preset = \"pytorch-adam\"\nlr = 0.1", "1", |_| {}, "expected the state of torch.optim.Adam, as"),
        ("preset = \"optax-lion\"\nlr = 0.1", "1", |_| {}, "optimizer.algorithm: expected adam or sgd"),
        ("preset = \"pytorch-adamw\"\nlr = 0.1\nbetas = [0.8, 0.999]", "1", |_| {}, "param_groups[0].betas"),
        (
            ADAMW,
            "1",
            |files| {
                files.weights.order.retain(|name| name != "a");
            },
            "\"a\": expected a trainable tensor of the model, found none",
        ),
        (
            ADAMW,
            "1",
            |files| {
                files.weights.tensors.insert("a".to_owned(), values(&[0.5, 0.6]));
            },
            "tensor \"a.exp_avg\": expected F32[2], found F32[1]",
        ),
        (
            ADAMW,
            "1",
            |files| {
                files.weights.tensors.insert("a".to_owned(), values(&[f32::INFINITY]));
            },
            "tensor \"a\": expected finite values",
        ),
        (
            ADAMW,
            "1",
            |files| {
                files.state.order.retain(|key| key != "a.exp_avg_sq");
            },
            "tensor \"a.exp_avg_sq\": expected F32[1], found none",
        ),
    ];
    for (optimizer, step, spoil, part) in cases {
        let mut files = Files::new();
        spoil(&mut files);
        fails(&files.import("kept", optimizer, &["--step", step]), &[part]);
        assert!(!files.directory.path().join("kept").exists(), "{part}");
    }
}

#[test]
fn an_optimizer_that_torch_has_no_state_for_exports_its_weights_alone() {
    let files = Files::new();
    let (job, weights) = (files.path("job.toml"), files.path("w.safetensors"));
    assert!(!files.import("kept", "preset = \"optax-lion\"\nlr = 0.1", &["--step", "1"]).status.success());
    let imported = server(&["checkpoint", "import", "--config", &job, "--weights", &weights, "--step", "1"]);
    assert!(imported.status.success(), "{}", imported.stderr);
    let (out, state) = (files.path("out.safetensors"), files.path("out-state.safetensors"));
    let refused = server(&["checkpoint", "export", "--config", &job, "--weights", &out, "--torch-state", &state]);
    fails(&refused, &["optimizer.algorithm: expected adam or sgd", "found lion"]);
    assert!(!Path::new(&out).exists(), "nothing is written");
    assert!(server(&["checkpoint", "export", "--config", &job, "--weights", &out]).status.success());
}
