//! Traces of real processes, as a collector receives them: one tree per sampled step across all of them.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::{Arc, Mutex};

use halflife_proto::ids::{Generation, JobId, Step};
use halflife_proto::trace::{Anchor, TraceId};
use halflife_tests::operator::begin_together;
use halflife_tests::process::{Process, root};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const STEPS: u64 = 400;
const EVERY: u64 = 50;

/// A collector: keeps what comes, by who sent it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let service = text(&resource.resource.unwrap().attributes, "service.name").unwrap();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        url
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value: Some(value) }) => Some(value),
        _ => None,
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match value(attributes, key)? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn number(span: &Span, key: &str) -> Option<i64> {
    match value(&span.attributes, key)? {
        Value::IntValue(number) => Some(*number),
        _ => None,
    }
}

/// Name, who, and the parent's name (none of a root), as docs/tracing.md lists them.
fn documented() -> BTreeSet<(String, String, String)> {
    let page = fs::read_to_string(root().join("docs/tracing.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        (cells[0].clone(), cells[1].replace("lead", "server"), cells[2].replace("(root)", ""))
    };
    rows.map(row).collect()
}

/// A tree of spans: one root, every parent there, no id twice, nothing that ends before it begins.
struct Tree {
    by_id: HashMap<Vec<u8>, Span>,
}

impl Tree {
    fn new(spans: Vec<Span>) -> Tree {
        let count = spans.len();
        let by_id: HashMap<Vec<u8>, Span> = spans.into_iter().map(|span| (span.span_id.clone(), span)).collect();
        assert_eq!(by_id.len(), count, "an id is used twice: {by_id:#?}");
        for span in by_id.values() {
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
            assert!(span.parent_span_id.is_empty() || by_id.contains_key(&span.parent_span_id), "an orphan: {span:?}");
        }
        let tree = Tree { by_id };
        assert_eq!(tree.children("").len(), 1, "one root");
        tree
    }

    /// Spans whose parent has this name; roots, with none.
    fn children(&self, parent: &str) -> Vec<&Span> {
        self.by_id.values().filter(|span| self.parent_name(span) == parent).collect()
    }

    fn parent_name(&self, span: &Span) -> String {
        self.by_id.get(&span.parent_span_id).map_or(String::new(), |parent| parent.name.clone())
    }

    fn named(&self, name: &str) -> Vec<&Span> {
        self.by_id.values().filter(|span| span.name == name).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sampled_step_is_one_tree_across_all_processes() {
    let collector = Collector::default();
    let url = collector.listen().await;
    let every = EVERY.to_string();
    let traced = ["--otlp", &url, "--trace-sample", &every];
    let digits = root().join("deploy/examples/digits.toml").to_string_lossy().into_owned();
    let steps = format!("job.steps={STEPS}");
    let leading = [
        "--config",
        &digits,
        "--set",
        "job.servers=2",
        "--set",
        "job.slots=4",
        "--set",
        &steps,
        "--listen",
        "127.0.0.1:0",
    ];
    let ended = tokio::task::spawn_blocking({
        let traced = traced.map(str::to_owned);
        let leading = leading.map(str::to_owned);
        move || {
            let traced = traced.each_ref().map(String::as_str);
            let leading = leading.each_ref().map(String::as_str);
            let mut lead = Process::start("halflife-server", &[&leading[..], &traced].concat());
            let lead_url = format!("http://{}", lead.listening_at());
            let following = ["--lead", &lead_url, "--listen", "127.0.0.1:0"];
            let follower = Process::start("halflife-server", &[&following[..], &traced].concat());
            // Slow enough for both to take part for most of the time.
            let working = ["train", "--server", &lead_url, "--delay-ms", "5"];
            let worker = |_| Process::start("halflife-worker", &[&working[..], &traced].concat());
            let workers = begin_together(&mut lead, &lead_url, || (0..2).map(worker).collect());
            workers.into_iter().chain([lead, follower]).map(Process::finish).collect::<Vec<_>>()
        }
    })
    .await
    .unwrap();
    for finished in &ended {
        assert!(finished.status.success(), "{}", finished.stderr);
    }

    let spans = std::mem::take(&mut *collector.0.lock().unwrap());
    let mut found = BTreeSet::new();
    let mut traces: BTreeMap<Vec<u8>, Vec<Span>> = BTreeMap::new();
    let services: HashMap<Vec<u8>, String> =
        spans.iter().map(|(service, span)| (span.span_id.clone(), service.replacen("halflife-", "", 1))).collect();
    for (_, span) in spans {
        traces.entry(span.trace_id.clone()).or_default().push(span);
    }
    let trees: BTreeMap<Vec<u8>, Tree> = traces.into_iter().map(|(trace, spans)| (trace, Tree::new(spans))).collect();
    for (tree, span) in trees.values().flat_map(|tree| tree.by_id.values().map(move |span| (tree, span))) {
        found.insert((span.name.clone(), services[&span.span_id].clone(), tree.parent_name(span)));
    }
    assert_eq!(found, documented());

    // The traces of steps are those that anybody can work out, and no others.
    let roots: Vec<&Span> = trees.values().flat_map(|tree| tree.named("step")).collect();
    let job = JobId(text(&roots[0].attributes, "halflife.job").unwrap());
    let generation = Generation(number(roots[0], "halflife.generation").unwrap() as u64);
    let sampled: Vec<u64> = (1..=STEPS / EVERY).map(|n| n * EVERY).collect();
    assert_eq!(roots.len(), sampled.len());
    let mut both = 0;
    for step in sampled {
        let id = TraceId::of_step(&job, generation, Step(step));
        let tree = trees.get(&id.0[..]).unwrap_or_else(|| panic!("no trace of step {step}"));
        let of_step = |span: &&Span| number(span, "halflife.step") == Some(step as i64);
        assert!(tree.by_id.values().all(|span| of_step(&span)));
        assert_eq!(tree.children("")[0].span_id, id.anchor(Anchor::Root).0);
        let servers: BTreeSet<_> =
            tree.named("server.step").iter().map(|span| number(span, "halflife.server")).collect();
        assert_eq!(servers, BTreeSet::from([Some(0), Some(1)]));
        assert_eq!((tree.named("server.gather").len(), tree.named("server.apply").len()), (2, 2));
        let workers = tree.named("worker.step");
        let slots: i64 = workers.iter().map(|span| number(span, "halflife.slots").unwrap()).sum();
        assert!(slots >= 4, "step {step}: {slots} slots");
        for worker in &workers {
            let own = |name: &str| {
                tree.named(name).into_iter().filter(|span| span.parent_span_id == worker.span_id).collect::<Vec<_>>()
            };
            let pushes: BTreeSet<_> = own("worker.push").iter().map(|span| number(span, "halflife.server")).collect();
            assert_eq!(pushes, BTreeSet::from([Some(0), Some(1)]));
            assert!(!own("worker.compute").is_empty());
            assert_eq!((own("worker.wait").len(), own("worker.pull").len()), (1, 1));
        }
        both += usize::from(workers.len() == 2 && tree.named("server.send").len() == 4);
    }
    assert!(both >= 2, "two workers took part in {both} of the sampled steps");
    // Besides, a session of each worker with a stream to each server.
    let sessions: Vec<&Tree> = trees.values().filter(|tree| !tree.named("worker.session").is_empty()).collect();
    assert_eq!((sessions.len(), trees.len()), (2, roots.len() + 2));
    for session in sessions {
        assert_eq!((session.named("server.session").len(), session.named("lead.join").len()), (2, 1));
    }
}

#[test]
fn a_collector_that_is_not_there_disturbs_nobody() {
    let job = ["local", "--set", "job.steps=60", "--workers", "2"];
    let finished = Process::start(
        "halflife-worker",
        &[&job[..], &["--otlp", "http://127.0.0.1:1", "--trace-sample", "1"]].concat(),
    );
    let finished = finished.finish();
    assert!(finished.status.success(), "{}", finished.stderr);
    for wrong in ["nonsense", "https://collector:4317"] {
        let refused = Process::start("halflife-worker", &["local", "--otlp", wrong]).finish();
        assert!(!refused.status.success());
        assert!(refused.stderr.contains("cannot send traces to"), "{}", refused.stderr);
        assert!(
            refused.stderr.contains(wrong) && refused.stderr.contains("http://localhost:4317"),
            "{}",
            refused.stderr
        );
    }
}
