//! `/metrics` as Prometheus meets it: what is served is what docs/metrics.md lists, both ways, and the values are true.
#![allow(clippy::unwrap_used)]

mod text;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use halflife_proto::v1;
use halflife_server::JobSpec;
use halflife_tests::cluster::Cluster;
use halflife_tests::process::{Process, root};
use halflife_tests::tool::{Tool, ToolTensor, bytes};
use serde_json::Value;
use tempfile::TempDir;
use text::{Metrics, parse};

const DEADLINE: Duration = Duration::from_secs(60);
/// A job that makes no step for so long rests.
const RESTS: Duration = Duration::from_millis(500);

/// A row of docs/metrics.md.
#[derive(Debug, PartialEq)]
struct Documented {
    kind: String,
    labels: Vec<String>,
    of: String,
    meaning: String,
}

fn documented() -> BTreeMap<String, Documented> {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, of, meaning] = cells[..] else { panic!("five columns: {line}") };
        let mut labels: Vec<String> =
            labels.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect();
        labels.sort();
        let row = Documented { kind: kind.to_owned(), labels, of: of.to_owned(), meaning: meaning.to_owned() };
        assert!(rows.insert(name.trim_matches('`').to_owned(), row).is_none(), "{name} is listed twice");
    }
    rows
}

/// A process with its metrics.
struct Watched {
    process: Process,
    metrics: String,
}

impl Watched {
    fn start(name: &str, arguments: &[&str]) -> Watched {
        let mut process = Process::start(name, &[arguments, &["--metrics", "127.0.0.1:0"]].concat());
        let line = process.wait_for_line("serving metrics");
        let url = line.split("url=").nth(1).unwrap().trim().trim_matches('"').to_owned();
        Watched { process, metrics: url }
    }

    fn server(arguments: &[&str]) -> (Watched, String) {
        let mut server = Watched::start("halflife-server", &[&["--listen", "127.0.0.1:0"], arguments].concat());
        let address = server.process.listening_at();
        (server, format!("http://{address}"))
    }

    fn get(&self, path: &str) -> String {
        let address = self.metrics.trim_start_matches("http://").trim_end_matches("/metrics");
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body.to_owned()
    }

    fn metrics(&self) -> Metrics {
        parse(&self.get("/metrics"))
    }
}

/// Two servers and two workers of the digits that go on for as long as the test looks.
struct Run {
    lead_url: String,
    lead: Watched,
    follower: Watched,
    workers: [Watched; 2],
}

impl Run {
    fn start(settings: &[&str]) -> Run {
        let digits = root().join("deploy/examples/digits.toml").to_string_lossy().into_owned();
        let mut arguments = vec!["--config", &digits, "--set", "job.servers=2", "--set", "job.steps=10000000"];
        settings.iter().for_each(|setting| arguments.extend(["--set", *setting]));
        // The lead is at its address before the others have come.
        let (lead, lead_url) = Watched::server(&arguments);
        let (follower, _) = Watched::server(&["--lead", &lead_url]);
        let workers = [(); 2].map(|()| Watched::start("halflife-worker", &["train", "--server", &lead_url]));
        Run { lead_url, lead, follower, workers }
    }

    /// Waits until the lead and each of the workers have seen enough: a worker that joins late has done nothing yet.
    fn wait_for(&self, enough: impl Fn(&Metrics, &Metrics) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let told = self.workers.each_ref().map(|worker| worker.metrics());
            let lead = self.lead.metrics();
            let joined = |worker: &Metrics| worker.families.contains_key("halflife_worker_step");
            if told.iter().all(|worker| joined(worker) && enough(&lead, worker)) {
                return;
            }
            assert!(Instant::now() < deadline, "{}", self.lead.get("/metrics"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self) -> Value {
        let asked = Process::start("halflife-server", &["status", "--json", "--lead", &self.lead_url]).finish();
        serde_json::from_str(&asked.stdout).unwrap()
    }

    /// Lets the job rest and gives the step that it rests at.
    fn rest(&self) -> u64 {
        assert!(Process::start("halflife-server", &["pause", "--lead", &self.lead_url]).finish().status.success());
        let deadline = Instant::now() + DEADLINE;
        let (mut rests_at, mut since) = (None, Instant::now());
        loop {
            let status = self.status();
            let (step, hold) = (status["step"].as_u64(), status["hold"].as_u64());
            // Workers that hear late have begun another step.
            if step != hold || step != rests_at {
                (rests_at, since) = (step, Instant::now());
            } else if since.elapsed() > RESTS {
                return step.unwrap();
            }
            assert!(Instant::now() < deadline, "{status}");
        }
    }

    /// What each kind of process serves.
    fn served(&self) -> [(&'static str, Metrics); 3] {
        [("lead", self.lead.metrics()), ("server", self.follower.metrics()), ("worker", self.workers[0].metrics())]
    }
}

#[test]
fn what_is_served_is_what_is_documented() {
    let store = TempDir::new().unwrap();
    let location = format!("checkpoint.location={:?}", store.path());
    let sync = Run::start(&[&location, "checkpoint.every=5", "job.quorum=3", "job.slots=4"]);
    sync.wait_for(|lead, worker| {
        lead.value("halflife_job_checkpoints_total{result=\"committed\"}") >= 2.0
            && worker.sum("halflife_worker_steps_total", "") >= 2.0
    });
    let bounded = Run::start(&["job.mode=bounded", "job.staleness=2"]);
    bounded.wait_for(|lead, _| lead.value("halflife_job_tickets_total{state=\"done\"}") >= 5.0);

    let documented = documented();
    let mut served: BTreeMap<&str, BTreeMap<String, Documented>> = BTreeMap::new();
    for (kind, metrics) in sync.served().into_iter().chain(bounded.served()) {
        for (name, family) in metrics.families {
            let labels = family.labels.into_iter().collect();
            let of = documented.get(&name).map_or("nobody, by the page", |row| row.of.as_str()).to_owned();
            let found = Documented { kind: family.kind, labels, of, meaning: family.help };
            served.entry(kind).or_default().insert(name, found);
        }
    }
    for (kind, expected) in
        [("lead", &["any", "server", "lead"][..]), ("server", &["any", "server"]), ("worker", &["any", "worker"])]
    {
        let expected: Vec<_> = documented.iter().filter(|(_, row)| expected.contains(&row.of.as_str())).collect();
        let found: Vec<_> = served[kind].iter().collect();
        let differing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
        let undocumented: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
        assert!(
            differing.is_empty() && undocumented.is_empty(),
            "of a {kind}: not served as documented: {differing:#?}\nnot documented as served: {undocumented:#?}"
        );
    }
    assert_eq!(sync.follower.get("/healthz"), "ok\n");
    assert_eq!(sync.workers[0].get("/healthz"), "ok\n");
}

#[test]
fn the_dashboard_asks_for_nothing_that_is_not_there() {
    let dashboard = fs::read_to_string(root().join("deploy/dashboards/grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let (documented, mut asked) = (documented(), 0);
    for expression in targets.map(|target| target["expr"].as_str().unwrap()) {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("halflife_") || word.starts_with("process_")) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
            let histogram =
                family.is_some_and(|family| documented.get(family).is_some_and(|row| row.kind == "histogram"));
            assert!(documented.contains_key(word) || histogram, "{word} in {expression}");
            asked += 1;
        }
    }
    assert!(asked > 20);
}

#[test]
fn a_running_cluster_tells_what_its_status_tells() {
    let run = Run::start(&["job.slots=4"]);
    run.wait_for(|lead, worker| {
        lead.value("halflife_job_step") >= 20.0 && worker.sum("halflife_worker_steps_total", "") >= 5.0
    });
    let step = run.rest() as f64;
    let status = run.status();
    let (lead, follower) = (run.lead.metrics(), run.follower.metrics());
    assert_eq!(lead.value("halflife_job_step"), step);
    assert_eq!(lead.value("halflife_server_step{server=\"0\"}"), step);
    assert_eq!(follower.value("halflife_server_step{server=\"1\"}"), step);
    assert_eq!(lead.value("halflife_job_phase{phase=\"paused\"}"), 1.0);
    assert_eq!(lead.sum("halflife_job_phase", ""), 1.0);
    assert_eq!(lead.value("halflife_job_workers{state=\"active\"}"), 2.0);
    assert_eq!(lead.sum("halflife_job_worker_slots", ""), 4.0);
    assert_eq!(lead.value("halflife_job_servers"), 2.0);
    assert_eq!(lead.value("halflife_job_generation"), status["generation"].as_f64().unwrap());
    let lr = status["lr"].as_f64().unwrap();
    assert!(lr > 0.0 && lead.sum("halflife_job_lr", "") >= lr);
    // All that the servers send, the workers get; what is under way is read in a moment.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let workers = run.workers.each_ref().map(|worker| worker.metrics());
        let sum = |all: &[&Metrics], name: &str| all.iter().map(|one| one.sum(name, "")).sum::<f64>();
        let servers = [&run.lead.metrics(), &run.follower.metrics()];
        let up = (
            sum(&[&workers[0], &workers[1]], "halflife_worker_sent_bytes_total"),
            sum(&servers, "halflife_server_received_bytes_total"),
        );
        let down = (
            sum(&servers, "halflife_server_sent_bytes_total"),
            sum(&[&workers[0], &workers[1]], "halflife_worker_received_bytes_total"),
        );
        let here = workers.iter().all(|worker| worker.sum("halflife_worker_step", "") == step);
        if here && up.0 == up.1 && down.0 == down.1 {
            assert!(up.0 > 0.0 && down.0 > 0.0, "{up:?} {down:?}");
            assert!(workers.iter().all(|worker| worker.sum("halflife_worker_loss", "") > 0.0));
            break;
        }
        assert!(Instant::now() < deadline, "up {up:?}, down {down:?}, {workers:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_contribution_and_every_refusal_counts_once() {
    let text = "[job]\nname = \"counted\"\nservers = 2\nsteps = 10\nslots = 4\nblock_elements = 2\n\
                [optimizer]\nalgorithm = \"sgd\"\nlr = 1.0\n[[optimizer.groups]]\nname = \"bias\"\npatterns = [\"^b$\"]\nlr_mult = 2.0\n";
    let cluster = Cluster::start(JobSpec::parse("counted", text, &[]).unwrap()).await;
    let tensors = vec![ToolTensor::trainable("w", &[3]), ToolTensor::trainable("b", &[1])];
    let mut tool = Tool::join(cluster.lead_url(), tensors).await.unwrap();
    tool.initialize(0, &[1.0, 2.0, 3.0]).await.unwrap();
    tool.initialize(1, &[4.0]).await.unwrap();
    for step in 1..=5 {
        for slots in [(0, 2), (2, 4)] {
            tool.push(step, slots, 0, Some(&[1.0; 3]), 2.0).await.unwrap();
            tool.push(step, slots, 1, Some(&[1.0]), 2.0).await.unwrap();
        }
        tool.wait_for(step).await;
    }
    let counted = |outcome: &str| {
        parse(&cluster.metrics()).sum("halflife_server_contributions_total", &format!("outcome=\"{outcome}\""))
    };
    let refused =
        |cause: &str| parse(&cluster.metrics()).sum("halflife_server_refusals_total", &format!("cause=\"{cause}\""));
    // Three blocks: their initial weights, then two nodes of each in five steps.
    assert_eq!(counted("added"), 3.0 + 3.0 * 2.0 * 5.0);
    assert_eq!((counted("duplicate"), counted("already_applied")), (0.0, 0.0));
    tool.push(5, (0, 2), 1, Some(&[1.0]), 2.0).await.unwrap();
    tool.push(6, (0, 2), 1, Some(&[1.0]), 2.0).await.unwrap();
    tool.push(6, (0, 2), 1, Some(&[1.0]), 2.0).await.unwrap();
    assert_eq!((counted("added"), counted("duplicate"), counted("already_applied")), (34.0, 1.0, 1.0));

    let before = parse(&cluster.metrics()).sum("halflife_server_refusals_total", "") - refused("not_ready");
    let (block, _, server) = tool.blocks(1).remove(0);
    let short = tool.contribution(block, 6, (2, 4), Some(&[1.0]));
    let short = v1::Contribution { data: bytes(&[1.0, 2.0]).into(), ..short };
    for _ in 0..3 {
        tool.push_raw(server, short.clone()).await.unwrap_err();
    }
    let ahead = tool.contribution(block, 9, (2, 4), Some(&[1.0]));
    tool.push_raw(server, ahead).await.unwrap_err();
    tool.control.operate(v1::OperateRequest { operation: None }).await.unwrap_err();
    let after = parse(&cluster.metrics()).sum("halflife_server_refusals_total", "") - refused("not_ready");
    assert_eq!(
        (refused("wrong_size"), refused("step_ahead"), refused("malformed"), after - before),
        (3.0, 1.0, 1.0, 5.0)
    );

    let told = parse(&cluster.metrics());
    let status = tool.control.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((told.value("halflife_job_step"), status.step), (5.0, 5));
    assert_eq!(told.value("halflife_job_lr{group=\"(none)\"}"), 1.0);
    assert_eq!(told.value("halflife_job_lr{group=\"bias\"}"), 2.0);
    // Each update of each block was timed; so was each step after the first.
    assert_eq!(told.sum("halflife_server_apply_seconds_count", ""), 3.0 * 5.0);
    assert_eq!(told.sum("halflife_server_step_seconds_count", ""), 2.0 * 5.0);
    cluster.stop().await;
}
