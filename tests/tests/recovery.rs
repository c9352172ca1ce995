//! Servers, the lead and workers that are killed, in a job that keeps checkpoints: everything comes back by itself,
//! and the trained bits and the optimizer's state are those of an undisturbed run.
//!
//! Processes are killed at named points of the protocol and at any time, and started again as a container's restart policy
//! would: with the same command. `FAULTS_SEED` chooses another course of kills, `FAULTS` how many, `RECOVERY_JOB` another
//! job file (without a [checkpoint], and with whole paths in it).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that tells what it did")]

#[allow(dead_code, reason = "this test needs the process alone")]
#[path = "../../checkpoint/tests/s3/moto.rs"]
mod moto;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use halflife_checkpoint::{CheckpointManifest, Checkpoints};
use halflife_proto::membership::Operation;
use halflife_proto::v1;
use halflife_tests::dice::Dice;
use halflife_tests::port::free_port;
use halflife_tests::process::{Process, root};
use halflife_tests::tool;
use moto::Moto;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

const SERVERS: usize = 3;
const WORKERS: usize = 4;
/// In one run of this test.
const KILLS: usize = 30;
/// No progress for so long is a hang.
const HANG: Duration = Duration::from_secs(40);

/// What a job is: its file and settings.
#[derive(Clone)]
struct Kind {
    file: PathBuf,
    settings: Vec<String>,
}

impl Kind {
    /// digits in blocks so small that every tensor is on every server, whose lr does not depend on the number of steps.
    fn digits(directory: &Path) -> Kind {
        let file = directory.join("job.toml");
        let example =
            std::env::var_os("RECOVERY_JOB").map_or_else(|| root().join("deploy/examples/digits.toml"), PathBuf::from);
        let example = std::fs::read_to_string(example).expect("a job file");
        let checkpoint = "\n[checkpoint]\nlocation = \"kept\"\nevery = 20\nkeep_last = 2\n";
        std::fs::write(&file, example + checkpoint).expect("a job file");
        let settings = [
            "job.block_elements=128",
            "job.servers=3",
            "optimizer.lr=0.005",
            "membership.heartbeat_ms=100",
            "membership.lease_ms=1000",
            "training.eval_every=0",
        ];
        Kind { file, settings: settings.map(str::to_owned).to_vec() }
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let settings = self.settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]);
        let file = ["--config".to_owned(), self.file.to_str().expect("a path").to_owned()];
        file.into_iter().chain(settings).chain(more.iter().map(|text| (*text).to_owned())).collect()
    }
}

/// A process that is started again, with the same command, whenever it is killed.
struct Kept {
    name: &'static str,
    binary: &'static str,
    arguments: Vec<String>,
    process: Process,
    /// The point that it was to be killed at, or what was done to it.
    fault: Option<String>,
}

impl Kept {
    fn start(name: &'static str, binary: &'static str, arguments: Vec<String>, fault: Option<String>) -> Kept {
        let process = launch(binary, &arguments, fault.as_deref());
        Kept { name, binary, arguments, process, fault }
    }

    /// Starts it again if it has ended, which only a kill may have done. Gives what killed it.
    fn keep(&mut self, next: impl FnOnce() -> Option<String>) -> Option<String> {
        if !self.process.has_ended() {
            return None;
        }
        let fault = self.fault.take().unwrap_or_else(|| "nothing".to_owned());
        self.fault = next();
        let again = launch(self.binary, &self.arguments, self.fault.as_deref());
        let ended = std::mem::replace(&mut self.process, again).finish();
        let killed = ended.status.signal() == Some(9);
        assert!(killed, "{} after {fault}: {:?}\n{}{}", self.name, ended.status, ended.stdout, ended.stderr);
        Some(fault.split(':').next().unwrap_or_default().to_owned())
    }
}

fn launch(binary: &str, arguments: &[String], fault: Option<&str>) -> Process {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let variable = fault.map(|fault| ("HALFLIFE_FAULT_POINT", fault));
    Process::start_with(binary, &arguments, variable.as_slice())
}

/// A point where a process of this part dies, so many times further on.
fn point(name: &str, dice: &mut Dice) -> Option<String> {
    let points: &[(&str, u64)] = match name {
        "lead" => &[
            ("before-manifest", 3),
            ("after-manifest", 3),
            ("claimed", 1),
            ("cut-taken", 4),
            ("part-written", 4),
            ("block-restored", 40),
            ("block-applied", 20_000),
        ],
        "follower" => {
            &[("cut-taken", 4), ("part-written", 4), ("block-restored", 40), ("restored", 1), ("block-applied", 20_000)]
        }
        _ => &[("gradient-block", 20_000), ("first-weights", 200), ("weights-complete", 200), ("assigned", 3)],
    };
    let (point, times) = dice.one_of(points);
    // Half of the processes have no such point: they die at any time, or live.
    (dice.below(2) == 0).then(|| format!("{point}:{}:kill", 1 + dice.below(times)))
}

/// The job under way.
struct Job {
    kept: Vec<Kept>,
    lead_url: String,
    reports: Vec<PathBuf>,
    /// The newest generation and step seen, and when.
    newest: (u64, u64, Instant),
    /// A server was killed then, in that generation.
    broken: Option<(Instant, u64)>,
    recoveries: Vec<Duration>,
}

impl Job {
    /// `dice`: some processes die at a named point.
    async fn start(kind: &Kind, directory: &Path, mut dice: Option<&mut Dice>) -> Job {
        let mut point = |name| dice.as_deref_mut().and_then(|dice| point(name, dice));
        let endless = kind.arguments(&["--set", "job.steps=1000000", "--listen", "127.0.0.1:0"]);
        // Where the lead is, also when it is started again.
        let address = format!("127.0.0.1:{}", free_port());
        let lead_url = format!("http://{address}");
        let lead: Vec<String> =
            endless.iter().map(|text| if text == "127.0.0.1:0" { address.clone() } else { text.clone() }).collect();
        let mut kept = vec![Kept::start("lead", "halflife-server", lead, None)];
        for _ in 1..SERVERS {
            let arguments = ["--lead", &lead_url, "--listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
            kept.push(Kept::start("follower", "halflife-server", arguments, point("follower")));
        }
        let mut reports = Vec::new();
        for index in 0..WORKERS {
            let report = directory.join(format!("{index}.json"));
            let shown = report.to_str().expect("a path");
            let arguments = ["train", "--server", &lead_url, "--report", shown].map(str::to_owned).to_vec();
            kept.push(Kept::start("worker", "halflife-worker", arguments, point("worker")));
            reports.push(report);
        }
        let newest = (0, 0, Instant::now());
        Job { kept, lead_url, reports, newest, broken: None, recoveries: Vec::new() }
    }

    /// How the job stands; `None` while nobody leads it.
    async fn status(&mut self) -> Option<v1::JobStatus> {
        let asked = async {
            let mut control = tool::control(&self.lead_url).await.ok()?;
            Some(control.status(v1::StatusRequest {}).await.ok()?.into_inner())
        };
        let status = tokio::time::timeout(Duration::from_secs(2), asked).await.ok().flatten();
        let now = Instant::now();
        if let Some(status) = &status {
            assert_ne!(status.phase(), v1::Phase::Stopped, "{}", status.note);
            let generation = status.job.as_ref().map_or(0, |job| job.generation);
            if let Some((at, before)) = self.broken
                && generation > before
                && status.step > restored_step(status)
            {
                self.recoveries.push(now - at);
                self.broken = None;
            }
            if (generation, status.step) > (self.newest.0, self.newest.1) {
                self.newest = (generation, status.step, now);
            }
        }
        assert!(now - self.newest.2 < HANG, "no progress since {:?}: {status:?}", self.newest);
        status
    }

    fn note_kill(&mut self, index: usize) {
        if index < SERVERS {
            self.broken.get_or_insert((Instant::now(), self.newest.0));
        }
    }
}

/// The checkpoint's step that this generation began with.
fn restored_step(status: &v1::JobStatus) -> u64 {
    status.checkpoint.as_ref().and_then(|kept| kept.restored).map_or(0, |id| id.step)
}

/// Whether every worker is at a step of this generation: one that has not joined yet would not see it end.
fn all_work(status: &v1::JobStatus) -> bool {
    status.workers.len() == WORKERS && status.workers.iter().all(|worker| worker.step > restored_step(status))
}

/// The final checkpoint at a place, verified.
async fn last_checkpoint(place: &Path) -> CheckpointManifest {
    let checkpoints = Checkpoints::open(place.to_str().expect("a path"), Path::new("/")).expect("the store");
    let newest = checkpoints.newest().await.expect("a list").expect("a checkpoint");
    checkpoints.verify(newest).await.expect("the checkpoint is whole");
    checkpoints.manifest(newest).await.expect("a manifest")
}

/// The final digests of a run of so many steps in one process that nobody disturbs.
async fn undisturbed(kind: &Kind, steps: u64) -> (String, CheckpointManifest) {
    let directory = TempDir::new().expect("a directory");
    let (report, kept) = (directory.path().join("report.json"), directory.path().join("kept"));
    let (steps, location) = (format!("job.steps={steps}"), format!("checkpoint.location={}", kept.display()));
    let more = ["--set", &steps, "--set", &location, "--set", "checkpoint.every=1000000"];
    let arguments = kind.arguments(&[&more[..], &["--report", report.to_str().expect("a path")]].concat());
    let arguments: Vec<&str> = std::iter::once("local").chain(arguments.iter().map(String::as_str)).collect();
    let finished = Process::start("halflife-worker", &arguments).finish();
    assert!(finished.status.success(), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).expect("a report")).unwrap();
    (report["weights_digest"].as_str().unwrap().to_owned(), last_checkpoint(&kept).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_leads_and_workers_come_back_and_change_no_bit() {
    let mut dice = Dice::from_environment();
    let directory = TempDir::new().expect("a directory");
    let kind = Kind::digits(directory.path());
    let mut job = Job::start(&kind, directory.path(), Some(&mut dice)).await;
    let kills = std::env::var("FAULTS").map_or(KILLS, |faults| faults.parse().expect("FAULTS is a number"));
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    let mut next_kill = Instant::now() + Duration::from_secs(3);
    while counted.values().sum::<usize>() < kills {
        job.status().await;
        for index in 0..job.kept.len() {
            let name = job.kept[index].name;
            if let Some(fault) = job.kept[index].keep(|| point(name, &mut dice)) {
                job.note_kill(index);
                *counted.entry(format!("{name}: {fault}")).or_default() += 1;
            }
        }
        if Instant::now() >= next_kill {
            // Servers as often as workers, though there are fewer.
            let index = if dice.below(2) == 0 { dice.below(SERVERS as u64) } else { dice.below(7) } as usize;
            job.kept[index].fault = Some("any time".to_owned());
            job.kept[index].process.signal("KILL");
            next_kill = Instant::now() + Duration::from_millis(300 + dice.below(2500));
        }
        sleep(Duration::from_millis(5)).await;
    }
    println!("{counted:#?}");
    for name in ["lead", "follower", "worker"] {
        assert!(counted.keys().any(|fault| fault.starts_with(name)), "no {name} died: {counted:?}");
    }
    // Binaries without fault points would only ever die at any time.
    assert!(counted.keys().any(|fault| !fault.ends_with("any time")), "nobody died at a named point: {counted:?}");
    end(&kind, directory.path(), job).await;
}

/// Lets whoever carries a fault go, ends the job in good order, and compares.
async fn end(kind: &Kind, directory: &Path, mut job: Job) {
    for kept in &mut job.kept {
        kept.fault = None;
        kept.process.signal("KILL");
        while kept.keep(|| None).is_none() {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let begun = Instant::now();
    let more = loop {
        let status = job.status().await.filter(all_work);
        // The lease of whoever was killed is over by then.
        if let Some(status) = status.filter(|_| begun.elapsed() > Duration::from_secs(2)) {
            break status.step;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let mut control = tool::control(&job.lead_url).await.expect("the lead listens");
    control.operate(v1::OperateRequest::from(Operation::Stop)).await.expect("the lead ends the job");
    for kept in job.kept {
        let finished = kept.process.finish();
        assert!(finished.status.success(), "{}: {}\n{}", kept.name, finished.stdout, finished.stderr);
    }
    let reports: Vec<Value> = job
        .reports
        .iter()
        .map(|path| serde_json::from_str(&std::fs::read_to_string(path).expect("a report")).unwrap())
        .collect();
    let steps = reports[0]["steps"].as_u64().unwrap();
    assert!(steps >= more, "{steps} steps after {more}");
    let (digest, state) = undisturbed(kind, steps).await;
    for report in &reports {
        assert_eq!((report["steps"].as_u64(), report["weights_digest"].as_str()), (Some(steps), Some(digest.as_str())));
    }
    let kept = last_checkpoint(&directory.join("kept")).await;
    assert_eq!((kept.id.step.0, kept.weights_digest), (steps, state.weights_digest));
    assert_eq!(kept.state_digest, state.state_digest, "the optimizer's state after {steps} steps");
    assert_eq!(kept.ledger, state.ledger);
    let mut recoveries = job.recoveries;
    recoveries.sort_unstable();
    let ms = |at: usize| recoveries.get(at).map_or(0, Duration::as_millis);
    println!(
        "{steps} steps, generation {}, {} recoveries: p50 {} ms, max {} ms; {} steps undone in all that the leads know of",
        kept.id.generation.0,
        recoveries.len(),
        ms(recoveries.len() / 2),
        ms(recoveries.len().saturating_sub(1)),
        kept.counters.get("undone_steps").copied().unwrap_or(0),
    );
}

// ---- stopping and going on ----

/// Runs `halflife-worker local` with these settings of digits on so many servers and workers; gives its end and report.
fn local(directory: &Path, numbers: (u32, u32), more: &[&str]) -> (halflife_tests::process::Finished, Option<Value>) {
    let report = directory.join("local.json");
    let _ = std::fs::remove_file(&report);
    let process = begin_local(directory, numbers, &[more, &["--report", report.to_str().expect("a path")]].concat());
    let finished = process.finish();
    let report = std::fs::read_to_string(&report).ok().map(|text| serde_json::from_str(&text).unwrap());
    (finished, report)
}

fn begin_local(directory: &Path, (servers, workers): (u32, u32), more: &[&str]) -> Process {
    let kind = Kind::digits(directory);
    let (servers, workers) = (servers.to_string(), workers.to_string());
    let arguments = kind.arguments(&[&["--servers", &servers, "--workers", &workers], more].concat());
    let arguments: Vec<&str> = std::iter::once("local").chain(arguments.iter().map(String::as_str)).collect();
    Process::start("halflife-worker", &arguments)
}

/// Waits until a checkpoint of at least this step is committed below `directory`.
async fn wait_for_checkpoint(directory: &Path, step: u64) {
    let begun = Instant::now();
    loop {
        let store = Checkpoints::open(directory.join("kept").to_str().expect("a path"), Path::new("/"));
        let newest = store.expect("the store").newest().await.expect("a list");
        if newest.is_some_and(|newest| newest.step.0 >= step) {
            return;
        }
        assert!(begun.elapsed() < HANG, "no checkpoint of step {step}: {newest:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_killed_goes_on_with_other_numbers_of_servers_and_workers() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path();
    let steps = ["--set", "job.steps=200"];
    // 1 -> 3 -> 2 servers, and other numbers of workers.
    for (numbers, until) in [((1, 2), 40), ((3, 1), 100)] {
        let process = begin_local(path, numbers, &[&steps[..], &["--delay-ms", "10"]].concat());
        wait_for_checkpoint(path, until).await;
        process.signal("KILL");
        assert_eq!(process.finish().status.signal(), Some(9));
    }
    let (finished, report) = local(path, (2, 3), &steps);
    assert!(finished.status.success(), "{}", finished.stderr);
    let report = report.expect("a report");
    assert!(report["steps_seen"].as_u64().unwrap() <= 100, "{report}");
    let (digest, state) = undisturbed(&Kind::digits(path), 200).await;
    assert_eq!(report["weights_digest"], digest);
    let kept = last_checkpoint(&path.join("kept")).await;
    assert_eq!((kept.id.generation.0, kept.state_digest), (3, state.state_digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_job_in_the_same_place_is_refused_with_what_differs() {
    let directory = TempDir::new().expect("a directory");
    let (finished, _) = local(directory.path(), (1, 1), &["--set", "job.steps=20"]);
    assert!(finished.status.success(), "{}", finished.stderr);
    let (refused, _) =
        local(directory.path(), (1, 1), &["--set", "job.steps=20", "--set", "optimizer.betas=[0.8, 0.9]"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("found {betas = [0.8, 0.9]}"), "{}", refused.stderr);
    let (refused, _) = local(directory.path(), (1, 1), &["--set", "job.steps=10"]);
    assert!(refused.stderr.contains("job.steps: expected at least 20"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn lr_decay_and_length_may_change_from_a_step_on_and_that_is_on_record() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path();
    let (finished, _) = local(path, (2, 1), &["--set", "job.steps=60"]);
    assert!(finished.status.success(), "{}", finished.stderr);
    let later = ["--set", "job.steps=100", "--set", "optimizer.lr=0.002"];
    let (finished, report) = local(path, (3, 2), &later);
    assert!(finished.status.success(), "{}", finished.stderr);
    let kept = last_checkpoint(&path.join("kept")).await;
    let from: Vec<u64> = kept.revisions.iter().map(|revision| revision.from_step.0).collect();
    assert_eq!(from, [1, 61]);
    assert!(kept.revisions[1].spec_toml.contains("lr = 0.002"));
    // The same course in one run, as one schedule.
    let whole = TempDir::new().expect("a directory");
    let schedule = "optimizer.lr={ kind = \"piecewise\", boundaries = [60], values = [0.005, 0.002] }";
    let (finished, expected) = local(whole.path(), (1, 1), &["--set", "job.steps=100", "--set", schedule]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(report.expect("a report")["weights_digest"], expected.expect("a report")["weights_digest"]);
    assert_eq!(kept.ledger, last_checkpoint(&whole.path().join("kept")).await.ledger);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_refused_by_name_and_passed_over_only_when_told() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path();
    let (finished, _) = local(path, (2, 1), &["--set", "job.steps=60"]);
    assert!(finished.status.success(), "{}", finished.stderr);
    let newest = last_checkpoint(&path.join("kept")).await.id;
    let file = path.join(format!("kept/checkpoints/{newest}/server-0001.safetensors"));
    let mut bytes = std::fs::read(&file).expect("a data file");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).expect("damage");
    let longer = ["--set", "job.steps=80"];
    let (refused, _) = local(path, (2, 1), &longer);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
    for part in ["server-0001.safetensors", "tensor", "BLAKE3"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let (finished, report) = local(path, (2, 1), &[&longer[..], &["--latest-valid"]].concat());
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(finished.stderr.contains("a damaged checkpoint is passed over"), "{}", finished.stderr);
    let (digest, _) = undisturbed(&Kind::digits(path), 80).await;
    assert_eq!(report.expect("a report")["weights_digest"], digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tickets_a_job_goes_on_from_a_drained_cut_and_tells_what_was_undone() {
    let directory = TempDir::new().expect("a directory");
    let mut kind = Kind::digits(directory.path());
    kind.settings.push("job.mode=async".to_owned());
    let mut job = Job::start(&kind, directory.path(), None).await;
    let mut lost = 0;
    while lost < 4 {
        let status = job.status().await;
        for index in 0..job.kept.len() {
            if job.kept[index].keep(|| None).is_some() {
                job.note_kill(index);
            }
        }
        let made = status.as_ref().and_then(|status| status.checkpoint.clone()).is_some_and(|kept| kept.committed >= 2);
        // Every worker is to be there for each loss.
        if made && status.as_ref().is_some_and(all_work) && job.broken.is_none() {
            // A follower, then the lead, in turn.
            job.kept[1 - lost % 2].process.signal("KILL");
            while job.kept[1 - lost % 2].keep(|| None).is_none() {
                sleep(Duration::from_millis(2)).await;
            }
            job.note_kill(1 - lost % 2);
            lost += 1;
        }
        sleep(Duration::from_millis(5)).await;
    }
    while !job.status().await.is_some_and(|status| all_work(&status)) || job.broken.is_some() {
        sleep(Duration::from_millis(5)).await;
    }
    let mut control = tool::control(&job.lead_url).await.expect("the lead listens");
    control.operate(v1::OperateRequest::from(Operation::Stop)).await.expect("the lead ends the job");
    for kept in job.kept {
        let finished = kept.process.finish();
        assert!(finished.status.success(), "{}: {}\n{}", kept.name, finished.stdout, finished.stderr);
    }
    let kept = last_checkpoint(&directory.path().join("kept")).await;
    let mut undone = 0;
    for path in &job.reports {
        let report: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a report")).unwrap();
        assert_eq!(report["steps"].as_u64(), Some(kept.id.step.0));
        let rollbacks = report["rollbacks"].as_array().expect("the report tells of them");
        assert_eq!(rollbacks.len(), 4, "{report}");
        undone += report["undone_steps"].as_u64().unwrap();
        let tickets = &report["tickets"];
        let settled = tickets["done"].as_u64().unwrap() + tickets["voided"].as_u64().unwrap();
        assert_eq!(settled, kept.id.step.0, "{tickets}");
    }
    assert!(undone > 0, "nothing was undone by four losses");
    println!("{} tickets, {undone} acknowledged pushes undone, {:?}", kept.id.step.0, kept.counters);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_state_is_in_a_bucket_goes_on_from_there() {
    let directory = TempDir::new().expect("a directory");
    let moto = tokio::task::spawn_blocking(Moto::start).await.expect("moto starts");
    let variables: Vec<(String, String)> =
        Moto::variables(moto.port()).into_iter().filter(|(name, _)| name != "PATH").collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let kind = Kind::digits(directory.path());
    let report = directory.path().join("report.json");
    let shown = report.to_str().expect("a path");
    let run = |steps: &str, servers: &str| {
        let more =
            ["--set", "checkpoint.location=s3://bucket/job", "--set", steps, "--servers", servers, "--report", shown];
        let arguments = kind.arguments(&more);
        let arguments: Vec<&str> = std::iter::once("local").chain(arguments.iter().map(String::as_str)).collect();
        let finished = Process::start_with("halflife-worker", &arguments, &variables).finish();
        assert!(finished.status.success(), "{}", finished.stderr);
        let report = std::fs::read_to_string(&report).expect("a report");
        serde_json::from_str::<Value>(&report).unwrap()
    };
    run("job.steps=40", "2");
    let resumed = run("job.steps=70", "3");
    assert_eq!(resumed["steps_seen"].as_u64(), Some(30), "{resumed}");
    assert_eq!(resumed["weights_digest"], undisturbed(&kind, 70).await.0);
}
