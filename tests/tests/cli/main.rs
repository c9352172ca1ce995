//! The server's command line and job files as a user meets them: what it prints, how it ends.

mod checkpoints;
mod environment;
mod healthcheck;
mod interchange;
mod numbers;
mod operate;

use std::fs;
use std::time::{Duration, Instant};

use halflife_server::JobSpec;
use halflife_tests::operator::wait_for_a_step;
use halflife_tests::process::{Finished, Process, root};
use serde_json::Value;
use tempfile::TempDir;

fn example(name: &str) -> String {
    root().join("deploy/examples").join(name).to_string_lossy().into_owned()
}

fn server(arguments: &[&str]) -> Finished {
    Process::start("halflife-server", arguments).finish()
}

/// It fails with one line of error that holds every part.
fn fails(finished: &Finished, parts: &[&str]) {
    assert!(!finished.status.success(), "it succeeded: {}", finished.stdout);
    assert!(finished.stderr.contains("halflife-server: error: "), "{}", finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    for part in parts {
        assert!(finished.stderr.contains(part), "expected {part:?} in: {}", finished.stderr);
    }
}

#[test]
fn every_example_is_a_valid_job_and_survives_being_written() {
    let mut seen = 0;
    let examples = ["deploy/examples", "deploy/compose"].map(|directory| fs::read_dir(root().join(directory)));
    for entry in examples.into_iter().flat_map(|directory| directory.expect("examples")).flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let spec = JobSpec::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let again = JobSpec::parse("written", &spec.to_toml(), &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again, spec, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 5);
}

#[test]
fn the_reference_shows_the_defaults() {
    let text = fs::read_to_string(example("reference.toml")).expect("the reference");
    let full = JobSpec::parse("reference", &text, &[]).expect("a valid job");
    let least = "[job]\nname = \"reference\"\nsteps = 100\n[optimizer]\nalgorithm = \"adam\"\nlr = 0.001\n";
    let least = JobSpec::parse("least", least, &[]).expect("a valid job");
    assert_eq!((full.job, full.membership, full.wire), (least.job, least.membership, least.wire));
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_right_one() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("job.toml");
    let shown = path.to_str().expect("a path");
    for (text, parts) in [
        ("[job]\nname = \"x\"\nstep = 5\n", vec!["line 3", "unknown field `step`", "did you mean `steps`?"]),
        (
            "[job]\nname = \"x\"\nsteps = 5\n[optimiser]\n",
            vec!["unknown field `optimiser`", "did you mean `optimizer`?"],
        ),
        ("[job\n", vec!["line 1"]),
        (
            "[job]\nname = \"x\"\nsteps = 0\n[optimizer]\nalgorithm = \"sgd\"\nlr = 1\n",
            vec!["job.steps", "at least 1", "found 0"],
        ),
        (
            "[job]\nname = \"x\"\nsteps = 1\nblock_elements = 1000\n[optimizer]\nalgorithm = \"sgd\"\nlr = 1\n",
            vec!["job.block_elements", "power of two", "found 1000"],
        ),
        (
            "[job]\nname = \"x\"\nsteps = 1\n[wire]\nweights = \"i8\"\n[optimizer]\nalgorithm = \"sgd\"\nlr = 1\n",
            vec!["wire.weights", "f32 or bf16", "found i8"],
        ),
        (
            "[job]\nname = \"x\"\nsteps = 1\n[wire]\ngradient = \"i8\"\n[optimizer]\nlr = 1\n",
            vec!["unknown field `gradient`", "did you mean `gradients`?"],
        ),
        (
            "[job]\nname = \"x\"\nsteps = 1\n[wire]\ngradients = \"f16\"\n[optimizer]\nlr = 1\n",
            vec!["unknown variant `f16`", "bf16"],
        ),
        (
            "[job]\nname = \"x\"\nsteps = 1\nmode = \"asink\"\n[optimizer]\nlr = 1\n",
            vec!["unknown variant `asink`", "sync"],
        ),
        ("[job]\nname = \"x\"\nsteps = 1\n[optimizer]\nalgorithm = \"sgd\"\nlr = -1.0\n", vec!["[optimizer]", "lr"]),
        (
            "[job]\nname = \"x\"\nsteps = 1\n[optimizer]\nalgorithm = \"sgd\"\nlr = 1\n[model]\nkind = \"softmax\"\n",
            vec!["expected all of [model], [data] and [training], or none"],
        ),
    ] {
        fs::write(&path, text).expect("a file");
        fails(&server(&["--config", shown]), &[&[shown], &parts[..]].concat());
    }
}

#[test]
fn overrides_are_checked_like_the_file() {
    let digits = example("digits.toml");
    for (set, parts) in [
        ("job.stepz=5", ["unknown field `stepz`", "did you mean `steps`?"]),
        ("job.steps", ["--set job.steps", "expected key=value"]),
        ("job.steps.x=1", ["--set job.steps.x=1", "`steps` is a value, not a table"]),
        ("job.lease=1", ["unknown field `lease`", "expected one of"]),
    ] {
        fails(&server(&["--config", &digits, "--set", set]), &parts);
    }
}

#[test]
fn a_missing_file_an_unreachable_lead_and_a_port_in_use_are_said_plainly() {
    fails(&server(&["--config", "/no/such/job.toml"]), &["cannot read job file /no/such/job.toml", "No such file"]);
    let started = Instant::now();
    fails(
        &server(&["--lead", "http://127.0.0.1:1", "--patience", "1", "--listen", "127.0.0.1:0"]),
        &["no lead answered at http://127.0.0.1:1 within 1 s", "onnection refused"],
    );
    assert!(started.elapsed() < Duration::from_secs(30));
    fails(&server(&["--lead", "nonsense://", "--listen", "127.0.0.1:0"]), &["expected a URL such as"]);
    let (_running, url) = Process::server(&["--config", &example("digits.toml")]);
    let address = url.trim_start_matches("http://");
    fails(
        &server(&["--config", &example("digits.toml"), "--listen", address]),
        &[&format!("cannot listen on {address}"), "in use"],
    );
}

#[test]
fn a_unix_socket_of_a_living_server_is_not_taken_and_that_of_a_dead_one_is() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("s.sock");
    let socket = path.to_str().expect("a path");
    let digits = example("digits.toml");
    let arguments = ["--config", &digits, "--unix-socket", socket];
    let (living, _) = Process::server(&arguments);
    fails(
        &server(&[&["--listen", "127.0.0.1:0"], &arguments[..]].concat()),
        &["cannot listen at the Unix socket", "in use"],
    );
    let at_lead = format!("unix://{socket}");
    fails(&server(&["--lead", &at_lead, "--listen", "0.0.0.0:0"]), &["expected --advertise URL"]);
    living.signal("KILL");
    drop(living.finish());
    assert!(path.exists(), "killed processes leave it behind");
    let (next, _) = Process::server(&arguments);
    next.signal("TERM");
    assert!(next.finish().status.success() && !path.exists());
    std::fs::write(&path, "precious").expect("a file");
    fails(&server(&[&["--listen", "127.0.0.1:0"], &arguments[..]].concat()), &["cannot listen at the Unix socket"]);
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
}

#[test]
fn a_benchmark_of_a_cluster_with_another_wire_says_which_it_is() {
    let job = example("bench.toml");
    let (_server, url) = Process::server(&["--config", &job, "--set", "job.slots=1", "--set", "wire.gradients=bf16"]);
    let bench = |more: &[&str]| {
        let arguments = ["bench", "--server", &url, "--params", "5000", "--steps", "5"];
        Process::start("halflife-worker", &[&arguments[..], more].concat()).finish()
    };
    let told = bench(&[]);
    assert!(!told.status.success(), "{}", told.stdout);
    assert!(told.stderr.contains("give --gradients bf16 --weights f32"), "{}", told.stderr);
    let right = bench(&["--gradients", "bf16"]);
    assert!(right.status.success() && right.stdout.contains("verified"), "{}{}", right.stdout, right.stderr);
}

#[test]
fn signals_end_a_server_within_two_seconds_with_a_last_line() {
    for (signal, name) in [("INT", "SIGINT"), ("TERM", "SIGTERM")] {
        let (server, _) = Process::server(&["--config", &example("digits.toml")]);
        server.signal(signal);
        let asked = Instant::now();
        let finished = server.finish();
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert!(finished.status.success());
        assert_eq!(finished.stdout, format!("halflife-server: stopped at no step yet of 1000 ({name})\n"));
    }
}

#[test]
fn a_server_stopped_under_a_worker_says_where_it_stands_and_the_worker_says_why() {
    let (server, url) = Process::server(&["--config", &example("digits.toml"), "--set", "job.steps=100000000"]);
    let worker = Process::start("halflife-worker", &["train", "--server", &url]);
    wait_for_a_step(&url);
    server.signal("TERM");
    let asked = Instant::now();
    let server = server.finish();
    // One second of it is the goodbye to the worker.
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert!(server.stdout.starts_with("halflife-server: stopped at step "), "{}", server.stdout);
    let worker = worker.finish();
    assert!(!worker.status.success());
    assert!(worker.stderr.contains("halflife-worker: error: "), "{}", worker.stderr);
    assert!(worker.stderr.contains(&url) && !worker.stderr.contains("panicked"), "{}", worker.stderr);
}

#[test]
fn a_lost_server_ends_the_job_everywhere_with_its_name() {
    let digits = example("digits.toml");
    let endless = ["--config", &digits, "--set", "job.servers=2", "--set", "job.steps=100000000"];
    for lose_the_lead in [false, true] {
        let (mut lead, url) = Process::server(&endless);
        let (follower, follower_url) = Process::server(&["--lead", &url]);
        let worker = Process::start("halflife-worker", &["train", "--server", &url]);
        wait_for_a_step(&url);
        if lose_the_lead {
            lead.signal("KILL");
            let follower = follower.finish();
            fails(&follower, &["the lead is gone; stopped at step "]);
        } else {
            follower.signal("KILL");
            let line = lead.wait_for_line("the job has stopped");
            assert!(line.contains("server 1") && line.contains(&follower_url), "{line}");
            assert!(line.contains("no checkpoints"), "{line}");
        }
        let worker = worker.finish();
        if !lose_the_lead {
            lead.signal("TERM");
            fails(&lead.finish(), &["the job stopped at step ", "server 1", "no checkpoints"]);
        }
        assert!(!worker.status.success());
        let named = if lose_the_lead { &url } else { &follower_url };
        assert!(
            worker.stderr.contains("halflife-worker: error: ") && worker.stderr.contains(named),
            "{}",
            worker.stderr
        );
        assert!(!worker.stderr.contains("panicked"), "{}", worker.stderr);
    }
}

#[test]
fn a_follower_checks_the_job_it_was_told_to_expect() {
    let digits = example("digits.toml");
    let (_lead, url) = Process::server(&["--config", &digits, "--set", "job.servers=2"]);
    fails(
        &server(&["--config", &digits, "--lead", &url, "--listen", "127.0.0.1:0"]),
        &["runs another job than --config says", "servers = 1", "servers = 2"],
    );
    let expected = ["--config", &digits, "--set", "job.servers=2", "--lead", &url];
    let (_follower, _) = Process::server(&expected);
    fails(
        &server(&["--lead", &url, "--listen", "127.0.0.1:0"]),
        &["refused this server", "expected 2 servers, all registered"],
    );
}

#[test]
fn a_lead_warns_where_the_bits_depend_on_the_workers() {
    for (gradients, warns) in [("i8", true), ("bf16", false)] {
        let wire = format!("wire.gradients={gradients}");
        let (lead, _) = Process::server(&["--config", &example("digits.toml"), "--set", &wire]);
        lead.signal("TERM");
        let said = lead.finish().stderr;
        assert_eq!(said.contains("P2 is off") && said.contains("error feedback"), warns, "{gradients}: {said}");
    }
}

fn report(arguments: &[&str]) -> Value {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("report.json");
    let all = [&["local", "--report", path.to_str().expect("a path")], arguments].concat();
    let finished = Process::start("halflife-worker", &all).finish();
    assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    serde_json::from_str(&fs::read_to_string(&path).expect("a report")).expect("JSON")
}

#[test]
fn a_job_begins_from_a_weights_file_exactly() {
    let directory = TempDir::new().expect("a directory");
    let weights = directory.path().join("model.safetensors");
    let weights = weights.to_str().expect("a path");
    let first = report(&["--steps", "60", "--weights", weights]);
    let init = format!("job.init_from={weights}");
    let small = "job.block_elements=64";
    let same = report(&[
        "--steps",
        "1",
        "--seed",
        "9",
        "--servers",
        "3",
        "--set",
        &init,
        "--set",
        small,
        "--set",
        "optimizer.lr=0",
    ]);
    assert_eq!(same["weights_digest"], first["weights_digest"], "lr 0 leaves the file's weights as they are");
    let other = report(&["--steps", "60", "--set", &init]);
    assert_ne!(other["weights_digest"], first["weights_digest"]);
}

#[test]
fn a_weights_file_that_does_not_fit_is_refused_with_the_difference() {
    let directory = TempDir::new().expect("a directory");
    let weights = directory.path().join("model.safetensors");
    let shown = weights.to_str().expect("a path");
    let init = format!("job.init_from={shown}");
    let digits = example("digits.toml");
    fails(&server(&["--config", &digits, "--set", &init]), &["cannot read initial weights", shown]);
    fs::write(&weights, b"not safetensors").expect("a file");
    fails(&server(&["--config", &digits, "--set", &init]), &["expected a safetensors file", shown]);
    report(&["--steps", "1", "--weights", shown, "--set", "model.hidden=[8]"]);
    let finished = Process::start("halflife-worker", &["local", "--steps", "1", "--set", &init]).finish();
    assert!(!finished.status.success());
    for part in ["job.init_from does not fit the worker's model", "[256, 64]", "[8, 64]"] {
        assert!(finished.stderr.contains(part), "expected {part:?} in: {}", finished.stderr);
    }
}

#[test]
fn help_names_every_argument() {
    let finished = server(&["--help"]);
    for argument in [
        "--config",
        "--set",
        "--listen",
        "--lead",
        "--advertise",
        "--unix-socket",
        "--compute-threads",
        "--io-threads",
        "--memory-max",
        "--patience",
    ] {
        assert!(finished.stdout.contains(argument), "{argument}");
    }
}

/// What `explain` prints, with runs of blanks as one.
fn explained(arguments: &[&str]) -> String {
    let finished = server(&[&["explain"], arguments].concat());
    assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.stderr, "");
    finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn explain_tells_a_job_and_a_preset() {
    let digits = example("digits.toml");
    let job = explained(&["--config", &digits, "--set", "optimizer.weight_decay.value=0.2", "--at", "7", "900"]);
    for part in ["value = 0.2", "d = lr 0.2", "step epoch lr d 7 0.53 0.0024 0.00048 900 80.08", "6. Warnings"] {
        assert!(job.contains(part), "expected {part:?} in: {job}");
    }
    let preset = explained(&["--preset", "pytorch-adamw", "--steps", "200000", "--steps-per-epoch", "1000"]);
    for part in ["steps = 200000", "half-life 69,314 steps 69.31 epochs", "1e-5 TF contrib"] {
        assert!(preset.contains(part), "expected {part:?} in: {preset}");
    }
    // With a job file, a preset fills in what the job leaves open.
    let both = explained(&["--config", &digits, "--preset", "loshchilov-hutter"]);
    assert!(both.contains("scaled_by = \"schedule\"") && both.contains("value = 0.1"), "{both}");
}

#[test]
fn what_explain_prints_is_a_job() {
    let finished = server(&["explain", "--preset", "bert"]);
    let (_, text) = finished.stdout.split_once("# A job file").expect("the configuration");
    let (text, _) = text.split_once("\n2. Update rule").expect("the next section");
    let job = JobSpec::parse("printed", &format!("#{text}"), &[]).expect("a valid job");
    assert_eq!((job.job.name.as_str(), job.job.steps), ("bert", 1000));
}

#[test]
fn explain_refuses_what_it_cannot_explain() {
    let digits = example("digits.toml");
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--preset", "pytorch-adamv"], &["unknown preset `pytorch-adamv`", "did you mean", "loshchilov-hutter-code"]),
        (&["--preset", "pytorch-adamw", "--set", "optimizer.lr=-1"], &["--preset pytorch-adamw", "lr"]),
        (&["--config", "/no/such/job.toml"], &["cannot read job file /no/such/job.toml", "No such file"]),
        (&["--config", &digits, "--set", "job.stepz=5"], &["unknown field `stepz`", "did you mean `steps`?"]),
        (&["--config", &digits, "--at", "0"], &["--at 0", "from 1 to 1000"]),
        (&[], &["expected --config FILE, --preset NAME or both"]),
    ];
    for (arguments, parts) in cases {
        let finished = server(&[&["explain"], arguments].concat());
        fails(&finished, parts);
        assert_eq!(finished.stdout, "");
    }
}

#[test]
fn help_shows_serving_and_explaining() {
    let serving = server(&["--help"]).stdout;
    assert!(serving.contains("explain") && serving.contains("A server of a halflife job"), "{serving}");
    let explaining = server(&["explain", "--help"]).stdout;
    for argument in ["--config", "--set", "--preset", "--steps", "--steps-per-epoch", "--at"] {
        assert!(explaining.contains(argument), "{argument}");
    }
    let neither = server(&[]);
    assert!(!neither.status.success() && neither.stderr.contains("--config"), "{}", neither.stderr);
}

#[test]
fn explain_counts_the_built_in_data_as_the_worker_does() {
    let explained = server(&["explain", "--config", &example("digits.toml")]).stdout;
    let trained = report(&["--steps", "1"]);
    let samples_per_step = trained["slots"].as_f64().unwrap() * trained["samples_per_slot"].as_f64().unwrap();
    let epoch = trained["train_samples"].as_f64().unwrap() / samples_per_step;
    assert!(explained.contains(&format!("An epoch is {epoch:.2} steps")), "{explained}");
}
