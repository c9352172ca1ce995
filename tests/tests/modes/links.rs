//! The asynchronous modes over links that are cut and torn: nobody hangs, and every push counts exactly once.

use std::time::{Duration, Instant};

use halflife_proto::membership::Operation;
use halflife_proto::v1;
use halflife_tests::process::{Process, root};
use halflife_tests::proxy::{Direction, Proxy};
use halflife_tests::tool;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::sleep;

const WORKERS: usize = 3;
/// Of the model, in blocks of 1,024 elements: 16 + 1 + 3 + 1.
const BLOCKS: u64 = 21;
/// Without progress for so long the job hangs.
const HANG: Duration = Duration::from_secs(20);

/// The status once so many more tickets are settled.
async fn after(
    control: &mut v1::control_client::ControlClient<tonic::transport::Channel>,
    steps: u64,
) -> v1::JobStatus {
    let (mut wanted, mut newest) = (None, (0, Instant::now()));
    loop {
        let status = control.status(v1::StatusRequest {}).await.expect("a status").into_inner();
        assert_ne!(status.phase(), v1::Phase::Stopped, "{}", status.note);
        if status.step > newest.0 {
            newest = (status.step, Instant::now());
        }
        assert!(newest.1.elapsed() < HANG, "no progress: {status:?}");
        if status.step >= *wanted.get_or_insert(status.step + steps) {
            return status;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn cut_links_lose_and_repeat_no_push(mode: &[&str]) {
    // A link for heartbeats and control, one for the data of each server.
    let targets: Vec<_> = (0..3).map(|_| watch::Sender::new(None)).collect();
    let mut links = Vec::new();
    for target in &targets {
        links.push(Proxy::listen(target.subscribe()).await);
    }
    let config = root().join("deploy/examples/digits.toml").to_string_lossy().into_owned();
    let settings = ["job.steps=1000000", "job.servers=2", "job.block_elements=1024", "optimizer.lr=0.005"];
    let settings: Vec<&str> = settings.iter().chain(mode).flat_map(|setting| ["--set", setting]).collect();
    let (first, second) = (links[1].url(), links[2].url());
    let arguments = ["--config", &config, "--listen", "127.0.0.1:0", "--advertise", &first];
    let mut lead = Process::start("halflife-server", &[&arguments[..], &settings].concat());
    let lead_address = lead.listening_at();
    let lead_url = format!("http://{lead_address}");
    let follow = ["--lead", &lead_url, "--listen", "127.0.0.1:0", "--advertise", &second];
    let mut follower = Process::start("halflife-server", &follow);
    let addresses = [lead_address, lead_address, follower.listening_at()];
    for (target, address) in targets.iter().zip(addresses) {
        target.send_replace(Some(address));
    }
    let (directory, url) = (TempDir::new().expect("a directory"), links[0].url());
    let reports: Vec<_> = (0..WORKERS).map(|worker| directory.path().join(format!("{worker}.json"))).collect();
    let start = |path: &std::path::PathBuf| {
        Process::start("halflife-worker", &["train", "--server", &url, "--report", path.to_str().expect("a path")])
    };
    let workers: Vec<_> = reports.iter().map(start).collect();
    let mut control = tool::control(&lead_url).await.expect("the lead listens");
    while after(&mut control, 20).await.workers.len() < WORKERS {}
    for round in 0..4 {
        for link in &links {
            match round {
                0 | 3 => link.cut(),
                1 => link.halve(Direction::Up),
                _ => link.halve(Direction::Down),
            }
            after(&mut control, 20).await;
        }
    }
    control.operate(v1::OperateRequest::from(Operation::Stop)).await.expect("the lead ends the job");
    for process in workers.into_iter().chain([lead, follower]) {
        let finished = process.finish();
        assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
    }
    let read = |path| std::fs::read_to_string(path).expect("a report");
    let reports: Vec<Value> =
        reports.iter().map(|path| serde_json::from_str(&read(path)).expect("a report is JSON")).collect();
    for report in &reports {
        let tickets = &report["tickets"];
        assert_eq!(report["weights_digest"], reports[0]["weights_digest"]);
        assert_eq!((&tickets["done"], &tickets["voided"]), (&report["step"], &0.into()), "{tickets}");
        let done = tickets["done"].as_u64().expect("a number");
        assert_eq!(tickets["update_staleness"]["count"], done * BLOCKS, "one update for each push and block");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_cut_and_torn_lose_and_repeat_no_push_of_an_asynchronous_job() {
    cut_links_lose_and_repeat_no_push(&["job.mode=async"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_cut_and_torn_lose_and_repeat_no_push_of_a_bounded_job() {
    cut_links_lose_and_repeat_no_push(&["job.mode=bounded", "job.staleness=1"]).await;
}
