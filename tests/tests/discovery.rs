//! How servers and workers find each other, and who leads: a list, a name, and an election in a real etcd that is killed,
//! suspended and cut off. Whatever happens, the trained bits are those of an undisturbed run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that tells what it did")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use halflife_discovery::{Etcd, EtcdPlace, JobKeys, PlacementRecord};
use halflife_proto::membership::Operation;
use halflife_proto::v1;
use halflife_tests::etcd::EtcdProcess;
use halflife_tests::port::free_port;
use halflife_tests::process::{Process, root};
use halflife_tests::proxy::{Direction, Proxy};
use halflife_tests::tool;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::sleep;

/// No progress for so long is a hang.
const HANG: Duration = Duration::from_secs(60);
/// What a takeover may take beyond the lease and the time that servers are waited for: etcd looks for leases that are over twice a
/// second, candidates look at the key four times in a lease, and the machine is shared with other tests.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(10);
const SERVER_WAIT: Duration = Duration::from_millis(1500);

/// A job in a directory of its own, and its processes.
struct Job {
    directory: TempDir,
    settings: Vec<String>,
    servers: Vec<Option<Process>>,
    urls: Vec<String>,
    workers: Vec<Process>,
    reports: Vec<PathBuf>,
}

impl Job {
    /// digits in blocks so small that every tensor is on every server.
    fn new(servers: usize, settings: &[&str]) -> Job {
        let directory = TempDir::new().unwrap();
        let example = std::fs::read_to_string(root().join("deploy/examples/digits.toml")).unwrap();
        let checkpoint = "\n[checkpoint]\nlocation = \"kept\"\nevery = 20\nkeep_last = 2\n";
        std::fs::write(directory.path().join("job.toml"), example + checkpoint).unwrap();
        let common = [
            "job.block_elements=128",
            "job.servers=3",
            "optimizer.lr=0.005",
            "membership.heartbeat_ms=100",
            "membership.lease_ms=1000",
            "training.eval_every=0",
        ];
        Job {
            settings: common.iter().chain(settings).map(|text| (*text).to_owned()).collect(),
            servers: (0..servers).map(|_| None).collect(),
            urls: (0..servers).map(|_| format!("http://127.0.0.1:{}", free_port())).collect(),
            workers: Vec::new(),
            reports: Vec::new(),
            directory,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let file = self.directory.path().join("job.toml").to_str().unwrap().to_owned();
        let settings = self.settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]);
        ["--config".to_owned(), file].into_iter().chain(settings).collect()
    }

    fn start_server(&mut self, index: usize, more: &[&str]) {
        let address = self.urls[index].trim_start_matches("http://").to_owned();
        let arguments = self.arguments();
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(["--listen", &address]);
        arguments.extend(more);
        self.servers[index] = Some(Process::start("halflife-server", &arguments));
    }

    fn elect_among_all(&mut self, etcd: &str, lease: &str) {
        for index in 0..self.servers.len() {
            self.start_server(index, &["--etcd", etcd, "--etcd-lease", lease]);
        }
    }

    fn start_worker(&mut self, places: &[&str]) {
        let report = self.directory.path().join(format!("report-{}.json", self.reports.len()));
        let mut arguments = vec!["train", "--report", report.to_str().unwrap()];
        arguments.extend(places);
        self.workers.push(Process::start("halflife-worker", &arguments));
        self.reports.push(report);
    }

    fn server(&self, index: usize) -> &Process {
        self.servers[index].as_ref().unwrap()
    }

    /// Who leads, and how the job stands, among the servers that answer.
    async fn lead(&self) -> Option<(usize, v1::JobStatus)> {
        let mut newest: Option<(usize, v1::JobStatus)> = None;
        for (index, url) in self.urls.iter().enumerate() {
            let asked = async {
                let mut control = tool::control(url).await.ok()?;
                Some(control.status(v1::StatusRequest {}).await.ok()?.into_inner())
            };
            let answered = tokio::time::timeout(Duration::from_millis(500), asked).await.ok().flatten();
            if let Some(status) = answered
                && newest.as_ref().is_none_or(|(_, newest)| generation(newest) < generation(&status))
            {
                newest = Some((index, status));
            }
        }
        newest
    }

    /// Waits until the job stands so.
    async fn wait_for(&mut self, what: &str, is_so: impl Fn(usize, &v1::JobStatus) -> bool) -> (usize, v1::JobStatus) {
        let begun = Instant::now();
        loop {
            let lead = self.lead().await;
            if let Some((index, status)) = &lead {
                assert_ne!(status.phase(), v1::Phase::Stopped, "{}", status.note);
                if is_so(*index, status) {
                    return (*index, status.clone());
                }
            }
            assert!(begun.elapsed() < HANG, "never: {what}; {lead:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many more steps are made, and a checkpoint.
    async fn train_on(&mut self, steps: u64) -> (usize, v1::JobStatus) {
        let from = self.wait_for("a lead", |_, status| generation(status) > 0).await.1.step;
        let has_checkpoint = |status: &v1::JobStatus| status.checkpoint.as_ref().is_some_and(|kept| kept.committed > 0);
        self.wait_for("steps", |_, status| status.step >= from + steps && has_checkpoint(status)).await
    }

    /// Ends the job in good order and compares with an undisturbed run. `spares`: servers that have no part in it.
    async fn end(mut self, spares: &[usize]) {
        // A worker that comes too late finds no lead.
        let workers = self.workers.len();
        let all_train =
            |_, status: &v1::JobStatus| status.phase() == v1::Phase::Training && status.workers.len() == workers;
        let (lead, _) = self.wait_for("training with every worker", all_train).await;
        let mut control = tool::control(&self.urls[lead]).await.unwrap();
        control.operate(v1::OperateRequest::from(Operation::Stop)).await.unwrap();
        for spare in spares {
            if let Some(process) = self.servers[*spare].take() {
                process.signal("TERM");
                process.finish();
            }
        }
        self.finish().await;
    }

    /// Waits for the end of every process and compares with an undisturbed run of as many steps.
    async fn finish(self) {
        for process in self.servers.into_iter().flatten().chain(self.workers) {
            let finished = process.finish();
            assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
        }
        let report =
            |path: &PathBuf| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
        let reports: Vec<Value> = self.reports.iter().map(report).collect();
        let steps = reports[0]["steps"].as_u64().unwrap();
        let path = self.directory.path().join("undisturbed.json");
        let (steps_of_all, location) = (format!("job.steps={steps}"), "checkpoint.location=elsewhere".to_owned());
        let file = self.directory.path().join("job.toml").to_str().unwrap().to_owned();
        let mut settings = self.settings.clone();
        settings.extend([steps_of_all, location, "checkpoint.every=1000000".to_owned()]);
        let mut arguments = vec!["local", "--config", &file, "--report", path.to_str().unwrap()];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
        let finished = Process::start("halflife-worker", &arguments).finish();
        assert!(finished.status.success(), "{}", finished.stderr);
        let undisturbed = report(&path);
        for each in &reports {
            assert_eq!(each["weights_digest"], undisturbed["weights_digest"], "{steps} steps: {each}");
        }
    }
}

fn generation(status: &v1::JobStatus) -> u64 {
    status.job.as_ref().map_or(0, |job| job.generation)
}

/// Waits until the placement of a generation is on record, with the blocks of every server.
async fn placement_on_record(etcd: &EtcdProcess, generation: u64) -> PlacementRecord {
    let place = EtcdPlace::parse(&etcd.url(), Duration::from_secs(2)).unwrap();
    let mut etcd = Etcd::new(place);
    let begun = Instant::now();
    loop {
        let entry = etcd.get(&JobKeys::of("digits").placement()).await.ok().flatten();
        let record = entry.map(|entry| serde_json::from_slice::<PlacementRecord>(&entry.value).unwrap());
        let is_whole = |record: &PlacementRecord| {
            record.generation == generation && record.servers.iter().all(|server| server.blocks > 0)
        };
        match record {
            Some(record) if is_whole(&record) => return record,
            record => assert!(begun.elapsed() < HANG, "never of generation {generation} with blocks: {record:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Settings of a job that goes on with two servers of three, until it is stopped.
fn endless_with_two() -> [String; 3] {
    let wait = format!("membership.server_wait_ms={}", SERVER_WAIT.as_millis());
    ["job.steps=1000000".to_owned(), "membership.servers_min=2".to_owned(), wait]
}

fn endless_job() -> Job {
    let settings = endless_with_two();
    Job::new(3, &settings.each_ref().map(String::as_str))
}

// ---- without etcd ----

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_one_list_and_workers_start_in_any_order() {
    let mut job = Job::new(3, &["job.steps=1000000"]);
    let list = job.urls.join(",");
    let port = job.urls[2].rsplit(':').next().unwrap().to_owned();
    // Any server will do, also one that does not lead, by address or by name.
    job.start_worker(&["--server", &job.urls[1].clone()]);
    job.start_worker(&["--server", &format!("http://127.0.0.1:1,dns:localhost:{port}")]);
    sleep(Duration::from_millis(300)).await;
    for index in [2, 1, 0] {
        job.start_server(index, &["--servers", &list, "--server-index", &index.to_string()]);
        sleep(Duration::from_millis(500)).await;
    }
    job.train_on(30).await;
    job.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_server_takes_the_place_of_a_lost_one() {
    let mut job = Job::new(3, &["job.servers=2", "job.steps=1000000"]);
    let list = job.urls.join(",");
    for index in 0..3 {
        job.start_server(index, &["--servers", &list, "--server-index", &index.to_string()]);
    }
    job.start_worker(&["--server", &list]);
    let (_, status) = job.train_on(30).await;
    let used = |status: &v1::JobStatus, url: &str| status.servers.iter().any(|server| server.url == url);
    let (lost, spare) = if used(&status, &job.urls[1]) { (1, 2) } else { (2, 1) };
    job.server(lost).signal("KILL");
    job.servers[lost] = None;
    let spare = job.urls[spare].clone();
    job.wait_for("the spare", |_, status| generation(status) == 2 && used(status, &spare)).await;
    job.train_on(30).await;
    job.end(&[]).await;
}

// ---- elected ----

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_dies_for_good_is_replaced_within_a_lease_and_no_bit_changes() {
    let Some(etcd) = EtcdProcess::start() else { return };
    let mut job = endless_job();
    // Nobody is there yet.
    job.start_worker(&["--etcd", &etcd.url(), "--job", "digits"]);
    let lease = Duration::from_secs(3);
    job.elect_among_all(&etcd.url(), "3");
    let (first, _) = job.wait_for("a lead", |_, status| generation(status) >= 1).await;
    job.start_worker(&["--server", &job.urls[first].clone()]);
    job.start_worker(&["--server", &job.urls[(first + 1) % 3].clone()]);
    // On a machine that is very busy another may lead by now.
    let (dead, before) = job.train_on(50).await;
    job.server(dead).signal("KILL");
    job.servers[dead] = None;
    let killed_at = Instant::now();
    let (lead, status) = job.wait_for("another lead", |_, status| generation(status) > generation(&before)).await;
    let took_over = killed_at.elapsed();
    assert_ne!(lead, dead);
    let restored = status.checkpoint.as_ref().and_then(|kept| kept.restored).map_or(0, |id| id.step);
    job.wait_for("steps under it", |_, status| status.step > restored).await;
    let trains = killed_at.elapsed();
    println!("another leads after {} ms, and trains after {} ms", took_over.as_millis(), trains.as_millis());
    assert!(took_over < lease + TAKEOVER_MARGIN, "{took_over:?}");
    assert!(trains < lease + SERVER_WAIT + TAKEOVER_MARGIN, "{trains:?}");
    let record = placement_on_record(&etcd, generation(&status)).await;
    let servers: Vec<&String> = record.servers.iter().map(|server| &server.url).collect();
    assert_eq!((&record.lead, servers.len()), (&job.urls[lead], 2), "{record:?}");
    assert!(!servers.contains(&&job.urls[dead]), "{record:?}");
    job.train_on(30).await;
    job.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_killed_or_stands_still_costs_no_step() {
    let Some(mut etcd) = EtcdProcess::start() else { return };
    let mut job = endless_job();
    let lease = Duration::from_secs(5);
    job.elect_among_all(&etcd.url(), "5");
    let list = job.urls.join(",");
    job.start_worker(&["--server", &list]);
    job.start_worker(&["--server", &list]);
    job.train_on(40).await;
    etcd.kill();
    let (_, before) = job.train_on(20).await;
    sleep(lease + lease / 2).await;
    let (_, after) = job.train_on(20).await;
    assert!(after.step > before.step + 20, "{} {}", before.step, after.step);
    etcd.start_again(true);
    sleep(lease).await;
    etcd.signal("STOP");
    sleep(lease + lease / 2).await;
    job.train_on(20).await;
    etcd.signal("CONT");
    sleep(lease).await;
    let (_, status) = job.train_on(20).await;
    assert_eq!(generation(&status), 1, "the lead trains on while etcd is away, and leads still when it is back");
    // With all that it knew: the lead says anew who leads.
    etcd.kill();
    etcd.start_again(false);
    sleep(lease).await;
    let (_, status) = job.train_on(20).await;
    assert_eq!(generation(&status), 1);
    job.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_is_cut_off_from_etcd_or_suspended_is_replaced_and_comes_back_as_a_spare() {
    let Some(etcd) = EtcdProcess::start() else { return };
    let mut job = endless_job();
    let mut links = Vec::new();
    for index in 0..3 {
        // Each server has a link to etcd of its own.
        let (_target, known) = watch::channel(Some(etcd.address()));
        let link = Proxy::listen(known).await;
        job.start_server(index, &["--etcd", &link.url(), "--etcd-lease", "3"]);
        links.push(link);
    }
    let list = job.urls.join(",");
    for _ in 0..2 {
        job.start_worker(&["--server", &list]);
    }
    let (cut_off, _) = job.train_on(40).await;
    // Behind a partition: what is sent waits.
    for direction in [Direction::Up, Direction::Down] {
        links[cut_off].stall(direction, true);
    }
    let (second, _) = job.wait_for("a second lead", |lead, _| lead != cut_off).await;
    job.train_on(30).await;
    for direction in [Direction::Up, Direction::Down] {
        links[cut_off].stall(direction, false);
    }
    links[cut_off].cut();
    job.train_on(30).await;
    // The spare makes three again: two are left when the second lead stands still.
    job.server(second).signal("STOP");
    job.wait_for("a third lead", |lead, _| lead != second).await;
    job.train_on(30).await;
    job.server(second).signal("CONT");
    sleep(Duration::from_secs(4)).await;
    let (_, status) = job.train_on(30).await;
    println!("three leads, generation {} at step {}", generation(&status), status.step);
    let spares: Vec<usize> =
        (0..3).filter(|index| status.servers.iter().all(|server| server.url != job.urls[*index])).collect();
    assert!(spares.len() <= 1, "two servers will do, and there are three: {spares:?}");
    job.end(&spares).await;
}

#[test]
fn an_election_without_checkpoints_is_refused_since_nobody_could_take_over() {
    let example = root().join("deploy/examples/digits.toml");
    let arguments = ["--config", example.to_str().unwrap(), "--listen", "127.0.0.1:0", "--etcd", "http://127.0.0.1:1"];
    let finished = Process::start("halflife-server", &arguments).finish();
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("expected a job file with [checkpoint]"), "{}", finished.stderr);
}

#[test]
fn an_etcd_that_never_answers_is_named_once_patience_is_over() {
    let directory = TempDir::new().unwrap();
    let place = format!("checkpoint={{ location = {:?}, every = 9 }}", directory.path());
    let example = root().join("deploy/examples/digits.toml");
    let arguments = ["--config", example.to_str().unwrap(), "--set", &place, "--listen", "127.0.0.1:0"];
    let elected = ["--etcd", "http://127.0.0.1:1", "--patience", "1"];
    let finished = Process::start("halflife-server", &[&arguments[..], &elected].concat()).finish();
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("no server leads, 1 s long: etcd at http://127.0.0.1:1"), "{}", finished.stderr);
}
