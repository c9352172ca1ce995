//! A node between its lead and its store: what it says, and what it ends by.

use std::path::Path;

use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Generation, Incarnation, JobId, ServerIndex};
use halflife_proto::manifest::Tensor;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::placement::balance;

const NONCE: &str = "a-nonce";
const PATIENCE: Duration = Duration::from_secs(10);

/// A node that was told to hold its blocks, and what it looks for in its store.
struct Placed {
    directory: TempDir,
    _orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Report>,
    node: JoinHandle<NodeEnd>,
}

impl Placed {
    /// `prepare`: what lies where the nonce is looked for.
    async fn with(prepare: impl FnOnce(&Path), restore: Option<CheckpointName>) -> Placed {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("nonces")).unwrap();
        prepare(&directory.path().join("nonces").join(NONCE));
        let job = "[job]\nname = \"test\"\nsteps = 9\n[optimizer]\nalgorithm = \"sgd\"\nlr = 0.5";
        let spec = JobSpec::parse("the test", job, &[]).unwrap();
        let manifest = Manifest::new(vec![Tensor::trainable("w", &[2])]).unwrap();
        let placement = balance(&manifest, 1, spec.job.block_elements, false, vec!["http://s".into()]).unwrap();
        let identity = Identity {
            job: JobId("test".to_owned()),
            generation: Generation(2),
            incarnation: Incarnation(1),
            fingerprint: Fingerprint::default(),
            index: ServerIndex(0),
        };
        let node = Node {
            identity,
            spec,
            place: Arc::new(ShardPlace::new(Arc::default())),
            compute: Arc::new(ShardCompute::new(1).unwrap()),
            checkpoints: Some(Checkpoints::open(".", directory.path()).unwrap()),
        };
        let (orders, receiver) = mpsc::channel(8);
        let (sender, reports) = mpsc::channel(8);
        let node = tokio::spawn(node.run(receiver, sender));
        let checkpoint = Some(CheckpointPlan { nonce: NONCE.to_owned(), restore });
        orders.send(Order::Place { manifest, placement, checkpoint }).await.unwrap();
        Placed { directory, _orders: orders, reports, node }
    }

    async fn report(&mut self) -> Option<Report> {
        tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("in time")
    }

    async fn end(mut self) -> NodeEnd {
        assert_eq!(self.report().await, None, "nothing is wrong with the job");
        tokio::time::timeout(PATIENCE, self.node).await.expect("in time").unwrap()
    }
}

fn nonce(path: &Path) {
    std::fs::write(path, NONCE).unwrap();
}

/// Reading a directory fails, and not as if nothing were there.
fn failing(path: &Path) {
    std::fs::create_dir(path).unwrap();
}

#[tokio::test]
async fn a_store_that_fails_for_a_moment_is_asked_again() {
    let mut placed = Placed::with(failing, None).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let path = placed.directory.path().join("nonces").join(NONCE);
    std::fs::remove_dir(&path).unwrap();
    nonce(&placed.directory.path().join("written"));
    std::fs::rename(placed.directory.path().join("written"), path).unwrap();
    assert_eq!(placed.report().await, Some(Report::Placed(1)));
}

#[tokio::test]
async fn a_store_that_fails_for_longer_ends_the_node_and_not_the_job() {
    let end = Placed::with(failing, None).await.end().await;
    let NodeEnd::StoreFailed(reason) = end else { panic!("{end:?}") };
    assert!(reason.contains("6 attempts to read failed") && reason.contains(NONCE), "{reason}");
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_for_longer_ends_the_node_and_not_the_job() {
    let name = CheckpointName { step: Step(4), generation: Generation(1) };
    let manifest = |nonce_path: &Path| {
        nonce(nonce_path);
        let store = nonce_path.ancestors().nth(2).unwrap();
        std::fs::create_dir_all(store.join("checkpoints/000000000004-g00000001/manifest.json")).unwrap();
    };
    let end = Placed::with(manifest, Some(name)).await.end().await;
    let NodeEnd::StoreFailed(reason) = end else { panic!("{end:?}") };
    assert!(reason.contains("manifest.json"), "{reason}");
}

#[tokio::test]
async fn another_store_than_the_leads_stops_the_job_at_once() {
    let begun = tokio::time::Instant::now();
    let mut placed = Placed::with(|_| {}, None).await;
    let Some(Report::Halted(refusal)) = placed.report().await else { panic!("it halts") };
    assert!(refusal.to_string().contains("is not the lead's checkpoint store"), "{refusal}");
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn damage_and_what_is_gone_stop_the_job_and_name_the_way_past_them() {
    let name = CheckpointName { step: Step(4), generation: Generation(1) };
    let damaged = |nonce_path: &Path| {
        nonce(nonce_path);
        let directory = nonce_path.ancestors().nth(2).unwrap().join("checkpoints/000000000004-g00000001");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("manifest.json"), "{}").unwrap();
    };
    for prepare in [damaged, nonce] {
        let mut placed = Placed::with(prepare, Some(name)).await;
        let Some(Report::Halted(refusal)) = placed.report().await else { panic!("it halts") };
        let text = refusal.to_string();
        assert!(text.contains("manifest.json") && text.contains("--latest-valid"), "{text}");
    }
}

#[tokio::test]
async fn a_panic_of_a_node_is_not_the_loss_of_the_lead() {
    let end = NodeEnd::of(tokio::spawn(async { panic!("planted") }).await);
    assert!(matches!(&end, NodeEnd::Panicked(reason) if reason.contains("planted")), "{end:?}");
}
