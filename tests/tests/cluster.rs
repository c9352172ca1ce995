//! Whole jobs: the trained bits do not depend on how many workers and servers there are, or on
//! whether they are threads or processes (promise P2).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use halflife_proto::ids::{Generation, JobId};
use halflife_proto::job::JobDescription;
use halflife_tests::operator::begin_together;
use halflife_tests::process::{Finished, Process, root};
use halflife_worker::computation::Computation;
use serde_json::Value;
use tempfile::TempDir;

/// digits, 8 slots, 200 steps; 128-element blocks cut it into at least 64.
const SMALL_BLOCKS: &str = "job.block_elements=128";
const DEFAULT_BLOCKS: &str = "job.block_elements=262144";
const BLOCKS_MIN: u64 = 64;

fn job() -> String {
    root().join("deploy/examples/digits.toml").to_string_lossy().into_owned()
}

fn report(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a report");
    serde_json::from_str(&text).expect("a report is JSON")
}

fn digest(report: &Value) -> String {
    let digest = report["weights_digest"].as_str().expect("a digest").to_owned();
    assert_eq!(digest.len(), 64, "{digest}");
    digest
}

fn succeeded(finished: &Finished) {
    assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
}

/// The digest of a job that runs in one process.
fn embedded(workers: usize, servers: usize, blocks: &str) -> String {
    digest(&embedded_report(workers, servers, &[blocks]))
}

/// The report of a job that runs in one process.
fn embedded_report(workers: usize, servers: usize, settings: &[&str]) -> Value {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("report.json");
    let (workers, servers) = (workers.to_string(), servers.to_string());
    let job = job();
    let arguments = ["local", "--config", &job, "--steps", "200", "--set", "job.slots=8"];
    let counts = ["--workers", &workers, "--servers", &servers, "--report", path.to_str().expect("a path")];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let finished = Process::start("halflife-worker", &[&arguments[..], &counts, &settings].concat()).finish();
    succeeded(&finished);
    report(&path)
}

/// The digests that the workers of a job of separate processes report; checks that all end well.
fn processes(workers: usize, servers: usize, settings: &[&str]) -> Vec<String> {
    let directory = TempDir::new().expect("a directory");
    let count = format!("job.servers={servers}");
    let job = job();
    let arguments = ["--config", &job, "--set", "job.steps=200", "--set", "job.slots=8", "--set", &count];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let (mut lead, url) = Process::server(&[&arguments[..], &settings].concat());
    let mut all: Vec<_> = (1..servers).map(|_| Process::server(&["--lead", &url]).0).collect();
    let reports: Vec<_> = (0..workers).map(|worker| directory.path().join(format!("{worker}.json"))).collect();
    let start = |path: &PathBuf| {
        Process::start("halflife-worker", &["train", "--server", &url, "--report", path.to_str().expect("a path")])
    };
    for worker in begin_together(&mut lead, &url, || reports.iter().map(start).collect()) {
        succeeded(&worker.finish());
    }
    all.push(lead);
    for server in all {
        let finished = server.finish();
        succeeded(&finished);
        assert!(finished.stdout.contains("finished: step 200 is complete"), "{}", finished.stdout);
    }
    reports.iter().map(|path| digest(&report(path))).collect()
}

/// Every digest must be the first one.
fn all_equal(blocks: &str, counts: &[(usize, usize)]) -> String {
    let reference = embedded(1, 1, blocks);
    for (workers, servers) in counts {
        assert_eq!(embedded(*workers, *servers, blocks), reference, "embedded, {workers} workers x {servers} servers");
        for found in processes(*workers, *servers, &[blocks]) {
            assert_eq!(found, reference, "processes, {workers} workers x {servers} servers");
        }
    }
    reference
}

#[test]
fn the_bits_do_not_depend_on_workers_servers_processes_or_blocks() {
    let every: Vec<_> = (1..=4).flat_map(|workers| (1..=3).map(move |servers| (workers, servers))).collect();
    let small = all_equal(SMALL_BLOCKS, &every);
    let whole = all_equal(DEFAULT_BLOCKS, &[(1, 3), (2, 2), (3, 1), (4, 3)]);
    assert_eq!(small, whole, "the block size changes bits");
}

/// Nothing but the Unix sockets can carry it: the URLs that servers advertise lead nowhere.
#[test]
fn workers_on_the_servers_host_go_through_unix_sockets() {
    let directory = TempDir::new().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (first, second, report_path, job) = (path("0.sock"), path("1.sock"), path("report.json"), job());
    let nowhere = ["--advertise", "http://127.0.0.1:1"];
    let settings = ["--set", "job.steps=200", "--set", "job.slots=8", "--set", "job.servers=2", "--set", SMALL_BLOCKS];
    let local = ["--config", &job, "--unix-socket", &first];
    let lead =
        Process::start("halflife-server", &[&["--listen", "127.0.0.1:0"], &local[..], &settings, &nowhere].concat());
    let at_lead = format!("unix://{first}");
    let follower = Process::start(
        "halflife-server",
        &[&["--listen", "127.0.0.1:0", "--lead", &at_lead, "--unix-socket", &second], &nowhere[..]].concat(),
    );
    let worker = Process::start("halflife-worker", &["train", "--server", &at_lead, "--report", &report_path]);
    succeeded(&worker.finish());
    for server in [lead, follower] {
        succeeded(&server.finish());
    }
    assert_eq!(digest(&report(Path::new(&report_path))), embedded(1, 1, SMALL_BLOCKS));
    assert!(!Path::new(&first).exists() && !Path::new(&second).exists(), "a socket's file goes with its server");
}

/// Rounding is no reason for the bits to depend on who computed what: each slot is rounded alone.
#[test]
fn bf16_both_ways_changes_the_bits_once_and_not_with_workers_servers_or_blocks() {
    const BF16: [&str; 2] = ["wire.gradients=bf16", "wire.weights=bf16"];
    let with = |blocks| [BF16[0], BF16[1], blocks];
    let reference = digest(&embedded_report(1, 1, &with(DEFAULT_BLOCKS)));
    assert_ne!(reference, embedded(1, 1, DEFAULT_BLOCKS), "the wire is lossy");
    for blocks in [DEFAULT_BLOCKS, SMALL_BLOCKS] {
        for (workers, servers) in [(1, 3), (2, 1), (2, 3), (4, 1), (4, 3)] {
            let report = embedded_report(workers, servers, &with(blocks));
            assert_eq!(digest(&report), reference, "embedded, {workers} workers x {servers} servers, {blocks}");
            assert_eq!(report["bit_reproducible"], true);
        }
    }
    for found in processes(2, 3, &with(SMALL_BLOCKS)) {
        assert_eq!(found, reference, "each worker tells the digest of the f32 masters");
    }
    for one_way in BF16 {
        let one = digest(&embedded_report(1, 1, &[one_way, DEFAULT_BLOCKS]));
        let other = digest(&embedded_report(4, 3, &[one_way, SMALL_BLOCKS]));
        assert_eq!(one, other, "{one_way}");
        assert_ne!(one, reference, "{one_way}");
    }
}

#[test]
fn i8_gradients_train_and_promise_no_bits() {
    for (workers, servers, blocks) in [(1, 1, DEFAULT_BLOCKS), (3, 2, SMALL_BLOCKS)] {
        let report = embedded_report(workers, servers, &["wire.gradients=i8", blocks]);
        let accuracy = report["test_accuracy"].as_f64().expect("an accuracy");
        assert!(accuracy > 0.95, "{accuracy} after 200 steps");
        assert_eq!((&report["bit_reproducible"], &report["wire"]["gradients"]), (&false.into(), &"i8".into()));
    }
}

#[test]
fn the_small_blocks_really_are_many_and_on_every_server() {
    let spec =
        halflife_server::JobSpec::load(Path::new(&job()), &[SMALL_BLOCKS.to_owned(), "job.servers=3".to_owned()])
            .expect("a valid job");
    let workload = spec.workload.expect("a workload");
    let job = JobDescription {
        id: JobId("digits".to_owned()),
        generation: Generation(1),
        seed: 1,
        slots: spec.job.slots,
        steps: spec.job.steps,
        block_elements: spec.job.block_elements,
        combine: spec.job.combine,
        consistency: spec.job.consistency(),
        workload_toml: String::new(),
        spec_revision: 0,
        optimizer_toml: String::new(),
        wire: spec.wire,
        keeps_checkpoints: false,
    };
    let computation = Computation::prepare(&workload, &job).expect("a model");
    let urls = (0..3).map(|index| format!("http://{index}").into()).collect();
    let placement =
        halflife_server::placement::balance(computation.manifest(), 1, spec.job.block_elements, false, urls)
            .expect("a placement");
    let mut per_server = [0u64; 3];
    for owners in placement.owners().iter().flatten() {
        per_server[owners[0].0 as usize] += 1;
    }
    assert!(per_server.iter().sum::<u64>() >= BLOCKS_MIN, "{per_server:?}");
    assert!(per_server.iter().all(|blocks| *blocks >= 10), "{per_server:?}");
}

/// The digest and final train loss of an embedded job of 40 steps.
fn short(optimizer: &str, workers: usize, servers: usize, blocks: &str) -> (String, f64) {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("report.json");
    let (workers, servers, job) = (workers.to_string(), servers.to_string(), job());
    let arguments = ["local", "--config", &job, "--steps", "40", "--set", optimizer, "--set", blocks];
    let counts = ["--workers", &workers, "--servers", &servers, "--report", path.to_str().expect("a path")];
    succeeded(&Process::start("halflife-worker", &[&arguments[..], &counts].concat()).finish());
    let report = report(&path);
    (digest(&report), report["train_loss"].as_f64().expect("a loss"))
}

/// Rules that need norms over a tensor or the model, whose blocks and servers must not show (rule 6).
#[test]
fn norms_over_tensors_and_the_model_change_no_bit_either() {
    for optimizer in [
        "optimizer={preset=\"optax-lamb\",lr=0.02}",
        "optimizer={preset=\"pytorch-adafactor\",lr=0.05}",
        "optimizer={preset=\"bert\",lr=0.01}",
        "optimizer={preset=\"pytorch-adamw\",lr=0.01,gradient=[{op=\"clip_norm\",max_norm=0.05,form=\"tf\"},\
         {op=\"clip_global_norm\",max_norm=0.1,form=\"optax\"}]}",
    ] {
        let (reference, loss) = short(optimizer, 1, 1, DEFAULT_BLOCKS);
        assert!(loss < 2.0, "{optimizer} learns: {loss}");
        for (workers, servers, blocks) in
            [(1, 1, SMALL_BLOCKS), (3, 3, SMALL_BLOCKS), (2, 2, "job.block_elements=1024")]
        {
            let found = short(optimizer, workers, servers, blocks).0;
            assert_eq!(found, reference, "{optimizer}: {workers} workers x {servers} servers, {blocks}");
        }
    }
}

#[test]
fn workers_that_die_leave_and_join_change_no_bit() {
    workers_come_and_go(1500, &[SMALL_BLOCKS]);
}

#[test]
fn workers_that_die_leave_and_join_change_no_bit_of_a_bf16_wire_either() {
    workers_come_and_go(600, &[SMALL_BLOCKS, "wire.gradients=bf16", "wire.weights=bf16"]);
}

/// Workers that are killed, told to go, and come in between do not change a bit.
fn workers_come_and_go(steps: u32, settings: &[&str]) {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("report.json");
    let shown = path.to_str().expect("a path");
    let job = job();
    let steps = format!("job.steps={steps}");
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let settings = [&["--config", &job, "--set", &steps][..], &settings].concat();
    let reference = Process::start("halflife-worker", &[&["local", "--report", shown], &settings[..]].concat());
    succeeded(&reference.finish());
    let expected = digest(&report(&path));

    let membership =
        ["--set", "membership.heartbeat_ms=50", "--set", "membership.lease_ms=1000", "--set", "job.servers=2"];
    let (mut lead, url) = Process::server(&[&settings[..], &membership].concat());
    let (follower, _) = Process::server(&["--lead", &url]);
    let worker = || Process::start("halflife-worker", &["train", "--server", &url]);
    // Slow enough for the job to last until the others have come and gone.
    let slowly = ["train", "--server", &url, "--delay-ms", "5", "--report", shown];
    let reporting = Process::start("halflife-worker", &slowly);
    lead.wait_for_line("a worker has joined");
    let killed = worker();
    lead.wait_for_line("a worker has joined");
    let leaving = worker();
    lead.wait_for_line("a worker has joined");
    std::thread::sleep(Duration::from_millis(200));
    killed.signal("KILL");
    assert!(!killed.finish().status.success());
    lead.wait_for_line("was silent for over 1000 ms");
    let late = worker();
    lead.wait_for_line("a worker has joined");
    leaving.signal("TERM");
    let left = leaving.finish();
    assert!(left.stdout.contains("stopped by SIGTERM; step "), "{}{}", left.stdout, left.stderr);
    succeeded(&late.finish());
    succeeded(&reporting.finish());
    succeeded(&lead.finish());
    succeeded(&follower.finish());
    assert_eq!(digest(&report(&path)), expected);
}

#[test]
fn another_seed_gives_other_bits() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("report.json");
    let shown = path.to_str().expect("a path");
    let digests: Vec<_> = ["1", "2"]
        .iter()
        .map(|seed| {
            let job = job();
            let arguments = ["local", "--config", &job, "--steps", "20", "--seed", seed, "--report", shown];
            succeeded(&Process::start("halflife-worker", &arguments).finish());
            digest(&report(&path))
        })
        .collect();
    assert_ne!(digests[0], digests[1]);
}
