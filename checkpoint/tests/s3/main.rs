//! The S3 store against a real server, well behaved and not. Fails when that cannot be started.
#![allow(clippy::unwrap_used, reason = "tests")]

mod moto;
#[path = "../../../tests/src/port.rs"]
mod port;
mod proxy;
#[path = "../checkpoints/sample.rs"]
mod sample;

use std::sync::Arc;

use halflife_checkpoint::store::{PART_BYTES, S3Store, Store, StoreError, parts};
use halflife_checkpoint::{Checkpoints, ClaimError, ReadError, Retention};

use moto::Moto;
use port::free_port;
use proxy::{Mischief, Plan, Proxy};
use sample::{claim, id};

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * i % 251) as u8).collect()
}

async fn upload(store: &dyn Store, path: &str, announced: u64, bytes: Vec<u8>) -> Result<(), StoreError> {
    let (mut sender, parts) = parts(store.part_bytes(announced));
    let producer = std::thread::spawn(move || sender.write(&bytes).and_then(|()| sender.finish()));
    let uploaded = store.upload(path, announced, parts).await;
    let _ = producer.join().unwrap();
    uploaded
}

/// A store behind a proxy that misbehaves.
fn behind(moto: &Moto, plan: Plan) -> (S3Store, Proxy) {
    let proxy = Proxy::start(moto.port(), plan);
    (S3Store::open("bucket", "p", Moto::variables(proxy.port)).unwrap(), proxy)
}

#[tokio::test]
async fn a_bucket_does_what_a_store_must() {
    let moto = Moto::start();
    let store = moto.store("some/prefix");
    store.put("a/b.json", "0123456789".into()).await.unwrap();
    store.put("a/b.json", "abcdefghij".into()).await.unwrap();
    assert_eq!(store.read("a/b.json").await.unwrap(), "abcdefghij");
    assert_eq!(store.read_range("a/b.json", 3..5).await.unwrap(), "de");
    assert_eq!(store.read_range("a/b.json", 8..20).await.unwrap(), "ij");
    assert_eq!(store.read_range("a/b.json", 30..40).await.unwrap(), "");
    assert_eq!(store.size("a/b.json").await.unwrap(), 10);
    store.create("a/c", "x".into()).await.unwrap();
    assert!(matches!(store.create("a/c", "y".into()).await, Err(StoreError::Exists { .. })));
    assert_eq!(store.read("a/c").await.unwrap(), "x");
    let listed = store.list("a").await.unwrap();
    assert_eq!(listed.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["a/b.json", "a/c"]);
    assert!(matches!(store.read("a/d").await, Err(StoreError::NotFound { path }) if path == "a/d"));
    assert!(matches!(store.size("a/d").await, Err(StoreError::NotFound { .. })));
    for _ in 0..2 {
        store.delete("a/c").await.unwrap();
        store.delete_all("a").await.unwrap();
    }
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn large_objects_go_up_in_parts() {
    let moto = Moto::start();
    let store = moto.store("");
    for length in [0, 5, PART_BYTES, 3 * PART_BYTES + 12345] {
        upload(&store, "large", length as u64, bytes(length)).await.unwrap();
        assert!(store.read("large").await.unwrap() == bytes(length), "{length}");
    }
    let tag = moto.request("HEAD", "/bucket/large").to_lowercase();
    assert!(tag.contains("etag: \"") && tag.contains("-4\""), "in four parts: {tag}");
}

#[tokio::test]
async fn an_interrupted_upload_leaves_nothing() {
    let moto = Moto::start();
    let store = moto.store("");
    for came in [0, 5, PART_BYTES, 2 * PART_BYTES + 5, 4 * PART_BYTES] {
        let error = upload(&store, "large", 3 * PART_BYTES as u64, bytes(came)).await.unwrap_err();
        assert!(matches!(error, StoreError::Interrupted { .. }), "{came}: {error}");
    }
    assert_eq!(store.list("").await.unwrap(), []);
    let uploads = moto.request("GET", "/bucket?uploads");
    assert!(uploads.starts_with("HTTP/1.1 200") && !uploads.contains("<UploadId>"), "{uploads}");
}

#[tokio::test]
async fn of_many_creating_at_once_one_wins() {
    let moto = Moto::start();
    // moto looks whether an object is there, and stores it later, without a lock: two at once would both find none.
    let (store, _proxy) = behind(&moto, Plan { start: "PUT", mischief: Mischief::InTurn, times: usize::MAX });
    let store = Arc::new(store);
    for round in 0..10 {
        let tasks: Vec<_> = (0..8)
            .map(|claimant| {
                let checkpoints = Checkpoints::in_store(store.clone());
                let mut claim = claim(round, None);
                claim.claimant = format!("claimant {claimant}");
                tokio::spawn(async move { (claim.claimant.clone(), checkpoints.claim(&claim).await) })
            })
            .collect();
        let (mut won, mut named) = (Vec::new(), Vec::new());
        for task in tasks {
            match task.await.unwrap() {
                (claimant, Ok(())) => won.push(claimant),
                (_, Err(ClaimError::Taken { by })) => named.push(by.claimant),
                (_, Err(error)) => panic!("{error}"),
            }
        }
        assert_eq!(won.len(), 1, "{won:?}");
        assert!(named.iter().all(|name| *name == won[0]));
    }
}

#[tokio::test]
async fn a_job_lives_in_a_bucket() {
    let moto = Moto::start();
    let checkpoints = Checkpoints::in_store(Arc::new(moto.store("jobs/one")));
    checkpoints.check_room(u64::MAX).await.unwrap(); // a bucket says so only by failing
    checkpoints.write_nonce("n").await.unwrap();
    checkpoints.read_nonce("n").await.unwrap();
    checkpoints.claim(&claim(1, None)).await.unwrap();
    for step in [10, 20, 30] {
        let manifest = sample::commit(&checkpoints, id(step, 1), 2, step).await.unwrap();
        checkpoints.commit(&manifest).await.unwrap();
        assert_eq!(sample::read_all(&checkpoints, &manifest).await.unwrap(), sample::blocks(step));
        checkpoints.verify(manifest.id).await.unwrap();
    }
    let pruned = checkpoints.prune(Retention { keep_last: 1, keep_every: 0 }).await.unwrap();
    assert_eq!(pruned.checkpoints, [id(10, 1), id(20, 1)]);
    assert_eq!(checkpoints.newest().await.unwrap(), Some(id(30, 1)));
    assert_eq!(checkpoints.list().await.unwrap().len(), 1);
    checkpoints.verify(id(30, 1)).await.unwrap();
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_ours_all_the_same() {
    let moto = Moto::start();
    let plan = Plan { start: "PUT", mischief: Mischief::LoseAnswer, times: 2 };
    let (store, proxy) = behind(&moto, plan);
    let checkpoints = Checkpoints::in_store(Arc::new(store));
    checkpoints.claim(&claim(1, None)).await.unwrap();
    assert!(proxy.mischiefs() > 0);
    let mut other = claim(1, None);
    other.claimant = "another".to_owned();
    assert!(matches!(checkpoints.claim(&other).await, Err(ClaimError::Taken { .. })));
}

#[tokio::test]
async fn requests_cut_off_now_and_then_are_made_again() {
    let moto = Moto::start();
    for (start, mischief) in [
        ("PUT", Mischief::CutRequest(300_000)),
        ("PUT", Mischief::LoseAnswer),
        ("POST", Mischief::LoseAnswer),
        ("GET", Mischief::CutAnswer(300_000)),
    ] {
        let (store, proxy) = behind(&moto, Plan { start, mischief, times: 1 });
        let length = 2 * PART_BYTES + 5;
        upload(&store, "large", length as u64, bytes(length)).await.unwrap();
        assert!(store.read("large").await.unwrap() == bytes(length), "{start} {mischief:?}");
        assert_eq!(proxy.mischiefs(), 1, "{start} {mischief:?}");
    }
}

#[tokio::test]
async fn writes_that_never_succeed_leave_nothing_listed() {
    let moto = Moto::start();
    let plan = Plan { start: "PUT", mischief: Mischief::CutRequest(100), times: usize::MAX };
    let (store, proxy) = behind(&moto, plan);
    let checkpoints = Checkpoints::in_store(Arc::new(store));
    let error = sample::commit(&checkpoints, id(5, 1), 1, 1).await.unwrap_err();
    assert!(error.to_string().contains("server-0000.safetensors"), "{error}");
    assert!(proxy.mischiefs() > 1, "tried again before giving up");
    assert_eq!(checkpoints.list().await.unwrap(), []);
    assert!(matches!(checkpoints.manifest(id(5, 1)).await, Err(ReadError::Store(StoreError::NotFound { .. }))));
}

/// The variables of a process cannot be set by itself, so another one reads them.
#[test]
fn a_location_and_the_usual_variables_are_enough() {
    let moto = Moto::start();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "a_claim_at_the_location_of_the_environment"])
        .envs(Moto::variables(moto.port()).into_iter().filter(|(name, _)| name != "PATH"))
        .status()
        .unwrap();
    assert!(status.success());
    assert!(moto.request("GET", "/bucket/by/variables/generations/00000007.json").starts_with("HTTP/1.1 200"));
}

#[tokio::test]
#[ignore = "run by a_location_and_the_usual_variables_are_enough"]
async fn a_claim_at_the_location_of_the_environment() {
    let endpoint = std::env::var("AWS_ENDPOINT_URL").unwrap_or_default();
    assert!(endpoint.starts_with("http://127.0.0.1"), "expected the variables of a local server");
    let checkpoints = Checkpoints::open("s3://bucket/by/variables", std::path::Path::new("/nowhere")).unwrap();
    checkpoints.claim(&claim(7, None)).await.unwrap();
}
