//! Real processes that die, stall and lose their connections: the trained bits stay those of an undisturbed
//! run, and nobody hangs.
//!
//! Each test disturbs a job for as many faults as it names, ends it with the operator's `stop`, and compares with a run of
//! the same number of steps that nobody disturbed. `FAULTS_SEED` chooses another course of faults, `FAULTS` how many.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that tells what it did")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use halflife_proto::membership::Operation;
use halflife_proto::v1;
use halflife_tests::dice::Dice;
use halflife_tests::process::{Process, root};
use halflife_tests::proxy::{Direction, Proxy};
use halflife_tests::tool;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::sleep;

const WORKERS: usize = 4;
const LEASE: Duration = Duration::from_millis(400);
/// Faults of processes, and of links.
const PROCESS_FAULTS: usize = 60;
const LINK_FAULTS: usize = 24;
/// A stall beyond this is a hang. Faults overlap, so that several leases may follow each other.
const HANG: Duration = Duration::from_secs(20);
/// digits without an end of its own, whose lr does not depend on the number of steps.
const SETTINGS: [&str; 12] = [
    "--set",
    "job.block_elements=128",
    "--set",
    "job.servers=2",
    "--set",
    "optimizer.lr=0.005",
    "--set",
    "membership.heartbeat_ms=50",
    "--set",
    "membership.lease_ms=400",
    "--set",
    "training.eval_every=0",
];
const ENDLESS: &str = "job.steps=1000000";

/// `FAULTS` of them, or as many as usual.
fn faults(usual: usize) -> usize {
    std::env::var("FAULTS").map_or(usual, |faults| faults.parse().expect("FAULTS is a number"))
}

fn job() -> String {
    root().join("deploy/examples/digits.toml").to_string_lossy().into_owned()
}

/// A job under way, its workers, and how it gets on.
struct Job {
    lead: Process,
    follower: Process,
    /// Where workers are sent to.
    url: String,
    control: v1::control_client::ControlClient<tonic::transport::Channel>,
    directory: TempDir,
    workers: Vec<Worker>,
    started: usize,
    newest: (u64, Instant),
    longest_stall: Duration,
}

struct Worker {
    process: Process,
    report: PathBuf,
    /// The fault it was started with, or that was done to it.
    fault: Option<String>,
    /// When it is to be continued.
    stopped_until: Option<Instant>,
}

impl Job {
    async fn start(lead: Process, follower: Process, lead_url: &str, url: String) -> Job {
        let control = tool::control(lead_url).await.expect("the lead listens");
        let directory = TempDir::new().expect("a directory");
        let (workers, newest) = (Vec::new(), (0, Instant::now()));
        let longest_stall = Duration::ZERO;
        Job { lead, follower, url, control, directory, workers, started: 0, newest, longest_stall }
    }

    fn worker(&mut self, fault: Option<String>) -> Worker {
        let report = self.directory.path().join(format!("{}.json", self.started));
        self.started += 1;
        let arguments = ["train", "--server", &self.url, "--report", report.to_str().expect("a path")];
        let variable = fault.as_deref().map(|fault| ("HALFLIFE_FAULT_POINT", fault));
        let process = Process::start_with("halflife-worker", &arguments, variable.as_slice());
        Worker { process, report, fault, stopped_until: None }
    }

    async fn status(&mut self) -> v1::JobStatus {
        let status = self.control.status(v1::StatusRequest {}).await.expect("a status").into_inner();
        assert_ne!(status.phase(), v1::Phase::Stopped, "{}", status.note);
        let now = Instant::now();
        if status.step > self.newest.0 {
            self.newest = (status.step, now);
        }
        self.longest_stall = self.longest_stall.max(now - self.newest.1);
        assert!(now - self.newest.1 < HANG, "no progress since step {}: {status:?}", self.newest.0);
        status
    }

    async fn wait_for_steps(&mut self, steps: u64) {
        let wanted = self.status().await.step + steps;
        while self.status().await.step < wanted {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the job in good order once every worker has joined; checks that all agree, with a run that nobody disturbed too.
    async fn end(mut self) {
        // The dead are members until their leases end.
        sleep(2 * LEASE).await;
        while self.status().await.workers.len() != WORKERS {
            sleep(Duration::from_millis(5)).await;
        }
        self.control.operate(v1::OperateRequest::from(Operation::Stop)).await.expect("the lead ends the job");
        let mut found: Vec<(u64, String)> = Vec::new();
        for worker in self.workers {
            let finished = worker.process.finish();
            assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
            let report: Value =
                serde_json::from_str(&std::fs::read_to_string(worker.report).expect("a report")).unwrap();
            found.push((report["steps"].as_u64().unwrap(), report["weights_digest"].as_str().unwrap().to_owned()));
        }
        for server in [self.lead, self.follower] {
            let finished = server.finish();
            assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
        }
        let (steps, digest) = found[0].clone();
        assert!(found.iter().all(|other| *other == found[0]), "{found:?}");
        assert!(steps > 20, "{steps} steps");
        assert_eq!(digest, undisturbed(steps), "after {steps} steps");
        println!("{steps} steps, longest stall {} ms", self.longest_stall.as_millis());
    }
}

/// The digest of a run of so many steps in one process.
fn undisturbed(steps: u64) -> String {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("report.json");
    let (job, steps, shown) = (job(), format!("job.steps={steps}"), path.to_str().expect("a path"));
    let arguments = ["local", "--config", &job, "--set", &steps, "--report", shown];
    let finished = Process::start("halflife-worker", &[&arguments[..], &SETTINGS].concat()).finish();
    assert!(finished.status.success(), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a report")).unwrap();
    report["weights_digest"].as_str().unwrap().to_owned()
}

/// A fault at a named point, so many times further on.
fn at_a_point(dice: &mut Dice) -> String {
    let point = dice.one_of(&["gradient-block", "next-server", "first-weights", "weights-complete", "assigned"]);
    // A gradient is 153 blocks here.
    let count = match point {
        "gradient-block" => 1 + dice.below(3000),
        "assigned" => 1 + dice.below(3),
        _ => 1 + dice.below(20),
    };
    format!("{point}:{count}:{}", dice.one_of(&["kill", "kill", "stop"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_suspended_and_told_to_go_change_no_bit() {
    let mut dice = Dice::from_environment();
    let config = job();
    let (lead, url) =
        Process::server(&[&["--config", &config, "--set", ENDLESS, "--set", "job.slots=8"], &SETTINGS[..]].concat());
    let (follower, _) = Process::server(&["--lead", &url]);
    let mut job = Job::start(lead, follower, &url, url.clone()).await;
    // The first dies while it initializes, in the middle of the blocks.
    for fault in ["initial-block:40:kill", "initial-block:9:stop"].map(str::to_owned) {
        let worker = job.worker(Some(fault));
        job.workers.push(worker);
        job.lead.wait_for_line("a worker has joined");
    }
    for _ in 2..WORKERS {
        let worker = job.worker(Some(at_a_point(&mut dice)));
        job.workers.push(worker);
    }
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    let mut next_signal = Instant::now() + Duration::from_secs(1);
    while counted.values().sum::<usize>() < faults(PROCESS_FAULTS) {
        job.status().await;
        for index in 0..job.workers.len() {
            let now = Instant::now();
            let worker = &mut job.workers[index];
            if worker.process.has_ended() {
                let fault = worker.fault.take().unwrap_or_else(|| "nothing".to_owned());
                let replacement = job.worker(Some(at_a_point(&mut dice)));
                let finished = std::mem::replace(&mut job.workers[index], replacement).process.finish();
                let expected = finished.status.signal() == Some(9) || finished.status.code() == Some(143);
                assert!(expected, "after {fault}: {:?} {}{}", finished.status, finished.stdout, finished.stderr);
                let name = fault.split(':').next().unwrap_or_default().to_owned();
                *counted.entry(format!("{name}, ended")).or_default() += 1;
                continue;
            }
            match worker.stopped_until {
                Some(until) if until <= now => {
                    worker.process.signal("CONT");
                    worker.stopped_until = None;
                }
                Some(_) => {}
                None if worker.process.is_stopped() => {
                    // Half of them stay away for longer than a lease.
                    worker.stopped_until = Some(now + LEASE / 4 + LEASE.mul_f64(dice.below(100) as f64 / 50.0));
                    let fault = worker.fault.clone().unwrap_or_default();
                    let name = fault.split(':').next().unwrap_or_default().to_owned();
                    *counted.entry(format!("{name}, suspended")).or_default() += 1;
                }
                None => {}
            }
        }
        if Instant::now() >= next_signal {
            let worker = &mut job.workers[dice.below(WORKERS as u64) as usize];
            let signal = dice.one_of(&["KILL", "STOP", "TERM"]);
            // Before a program has begun, SIGTERM ends it as it ends any other.
            let has_begun = signal != "TERM" || worker.process.minds_sigterm();
            if worker.stopped_until.is_none() && !worker.process.has_ended() && has_begun {
                worker.fault = Some(format!("SIG{signal}"));
                worker.process.signal(signal);
            }
            next_signal = Instant::now() + Duration::from_millis(200 + dice.below(400));
        }
        sleep(Duration::from_millis(5)).await;
    }
    println!("{counted:#?}");
    assert!(counted.keys().any(|name| name.starts_with("initial-block")), "nobody died while it initialized");
    // Whoever still carries a fault goes; fresh ones finish.
    for index in 0..WORKERS {
        let fresh = job.worker(None);
        let old = std::mem::replace(&mut job.workers[index], fresh);
        old.process.signal("KILL");
        drop(old.process.finish());
    }
    job.wait_for_steps(20).await;
    job.end().await;
}

/// What is done to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LinkFault {
    Cut,
    StallUp,
    StallDown,
    StallBoth,
    Delay,
    HalveUp,
    HalveDown,
}

async fn disturb(link: &Proxy, fault: LinkFault, dice: &mut Dice) {
    // A third of the stalls outlasts the lease.
    let while_ms = LEASE.as_millis() as u64 / 2 + dice.below(LEASE.as_millis() as u64);
    let stalled: &[Direction] = match fault {
        LinkFault::Cut => return link.cut(),
        LinkFault::StallUp => &[Direction::Up],
        LinkFault::StallDown => &[Direction::Down],
        LinkFault::StallBoth => &[Direction::Up, Direction::Down],
        LinkFault::Delay => {
            link.delay(Duration::from_millis(20));
            sleep(Duration::from_millis(while_ms)).await;
            return link.delay(Duration::ZERO);
        }
        LinkFault::HalveUp => return link.halve(Direction::Up),
        LinkFault::HalveDown => return link.halve(Direction::Down),
    };
    stalled.iter().for_each(|direction| link.stall(*direction, true));
    sleep(Duration::from_millis(while_ms)).await;
    stalled.iter().for_each(|direction| link.stall(*direction, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_cut_stalled_delayed_and_torn_change_no_bit() {
    use LinkFault::*;
    let mut dice = Dice::from_environment();
    // A link for heartbeats and control, one for the data of each server.
    let targets: Vec<_> = (0..3).map(|_| watch::Sender::new(None)).collect();
    let mut links = Vec::new();
    for target in &targets {
        links.push(Proxy::listen(target.subscribe()).await);
    }
    let config = job();
    let advertised = [links[1].url(), links[2].url()];
    let arguments = ["--config", &config, "--set", ENDLESS, "--set", "job.slots=8", "--listen", "127.0.0.1:0"];
    let mut lead =
        Process::start("halflife-server", &[&arguments[..], &["--advertise", &advertised[0]], &SETTINGS].concat());
    let lead_address = lead.listening_at();
    let lead_url = format!("http://{lead_address}");
    let follow = ["--lead", &lead_url, "--listen", "127.0.0.1:0", "--advertise", &advertised[1]];
    let mut follower = Process::start("halflife-server", &follow);
    let addresses = [lead_address, lead_address, follower.listening_at()];
    for (target, address) in targets.iter().zip(addresses) {
        target.send_replace(Some(address));
    }
    let mut job = Job::start(lead, follower, &lead_url, links[0].url()).await;
    for _ in 0..WORKERS {
        let worker = job.worker(None);
        job.workers.push(worker);
    }
    job.wait_for_steps(20).await;
    let mut counted: BTreeMap<(usize, LinkFault), usize> = BTreeMap::new();
    for number in 0..faults(LINK_FAULTS) {
        let link = number % links.len();
        let fault = [Cut, StallUp, StallDown, StallBoth, Delay, HalveUp, HalveDown, Cut][number / links.len() % 8];
        disturb(&links[link], fault, &mut dice).await;
        *counted.entry((link, fault)).or_default() += 1;
        job.wait_for_steps(10).await;
    }
    println!("{counted:#?}");
    for index in 0..WORKERS {
        if job.workers[index].process.has_ended() {
            let finished = job.workers.swap_remove(index).process.finish();
            panic!("no fault of a link ends a worker: {}{}", finished.stdout, finished.stderr);
        }
    }
    job.end().await;
}
