//! Faults of a store: each operation of a life fails, loses its answer, or is cut short.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halflife_checkpoint::faults::{Fault, FaultyStore};
use halflife_checkpoint::store::{LocalStore, Store, StoreError};
use halflife_checkpoint::{Array, ArrayDtype, BlockContents, Checkpoints, ClaimError, GivenUp, WEIGHTS, WriteError};
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{ServerIndex, TensorIndex};

use crate::sample::{self, claim, id};

fn local(directory: &Path) -> Arc<dyn Store> {
    Arc::new(LocalStore::open(directory).unwrap())
}

async fn live(store: Arc<FaultyStore>) -> Result<(), Box<dyn std::error::Error>> {
    let checkpoints = Checkpoints::in_store(store);
    checkpoints.claim(&claim(1, None)).await?;
    sample::commit(&checkpoints, id(10, 1), 2, 10).await?;
    Ok(())
}

/// Every operation of an undisturbed life.
async fn operations() -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(FaultyStore::new(local(directory.path())));
    live(store.clone()).await.unwrap();
    store.operations()
}

#[tokio::test]
async fn a_failing_operation_leaves_nothing_partial_and_may_be_tried_again() {
    let operations = operations().await;
    assert!(operations.len() > 10, "{operations:?}");
    for (at, operation) in operations.iter().enumerate() {
        for (fault, gone) in [(Fault::Fail, false), (Fault::LoseAnswer, false), (Fault::Fail, true)] {
            let directory = tempfile::tempdir().unwrap();
            let store = FaultyStore::new(local(directory.path()));
            let store = if gone { store.gone_from(at) } else { store.with(at, fault) };
            let lived = live(Arc::new(store)).await;
            let whole = Checkpoints::in_store(local(directory.path()));
            let listed = whole.list().await.unwrap();
            assert!(lived.is_err() || listed.len() == 1, "{operation} {fault:?}");
            for listed in listed {
                whole.verify(listed.id).await.unwrap_or_else(|error| panic!("{operation} {fault:?}: {error}"));
            }
            // Whoever tries again under the same names succeeds.
            whole.claim(&claim(1, None)).await.unwrap();
            if whole.list().await.unwrap().is_empty() {
                sample::commit(&whole, id(10, 1), 2, 10).await.unwrap();
            }
            whole.verify(id(10, 1)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_create_is_no_failure() {
    let operations = operations().await;
    let creates: Vec<_> = operations
        .iter()
        .enumerate()
        .filter(|(_, operation)| operation.starts_with("create"))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(creates.len(), 2, "the claim and the manifest: {operations:?}");
    for at in creates {
        let directory = tempfile::tempdir().unwrap();
        live(Arc::new(FaultyStore::new(local(directory.path())).with(at, Fault::LoseAnswer))).await.unwrap();
    }
}

#[tokio::test]
async fn a_write_that_says_it_succeeded_and_did_not_is_not_committed() {
    for (at, operation) in operations().await.iter().enumerate() {
        let shortens = ["upload", "put", "create"].iter().any(|write| operation.starts_with(write));
        for by in [1, 100, 5000].into_iter().filter(|_| shortens) {
            let directory = tempfile::tempdir().unwrap();
            let store = Arc::new(FaultyStore::new(local(directory.path())).with(at, Fault::Shorten(by)));
            let lived = live(store).await;
            let whole = Checkpoints::in_store(local(directory.path()));
            let path = operation.split_once(' ').unwrap().1;
            if path.ends_with("manifest.json") || path.starts_with("generations") {
                // The last word, or the first: nobody looks at it before somebody reads it.
                let found = async { whole.newest().await.map(drop).and(whole.verify(id(10, 1)).await.map(drop)) };
                let error = found.await.unwrap_err().to_string();
                assert!(error.contains(path), "{operation}: {error}");
            } else {
                let error = lived.unwrap_err().to_string();
                assert!(error.contains(path), "{operation}: {error}");
                assert_eq!(whole.list().await.unwrap(), [], "{operation}");
            }
        }
    }
}

#[tokio::test]
async fn a_claim_read_back_as_another_ones_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let mut other = claim(1, None);
    other.claimant = "another".to_owned();
    Checkpoints::in_store(local(directory.path())).claim(&other).await.unwrap();
    let failing = FaultyStore::new(local(directory.path())).with(0, Fault::Fail);
    let error = Checkpoints::in_store(Arc::new(failing)).claim(&claim(1, None)).await.unwrap_err();
    assert!(matches!(&error, ClaimError::Taken { by } if **by == other), "{error}");
}

#[tokio::test]
async fn a_slow_store_is_waited_for() {
    let delay = Duration::from_millis(200);
    let directory = tempfile::tempdir().unwrap();
    let store = FaultyStore::new(local(directory.path())).with(0, Fault::Delay(delay)).with(3, Fault::Delay(delay));
    let begun = Instant::now();
    live(Arc::new(store)).await.unwrap();
    assert!(begun.elapsed() >= 2 * delay);
}

/// Memory of an array that tells when it is free.
struct Told(Vec<u8>, tokio::sync::mpsc::UnboundedSender<()>);

impl AsRef<[u8]> for Told {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.1.send(());
    }
}

/// One block of the sample model, so large that it is many parts, and who hears when its memory is free.
fn large_blocks(count: u32) -> (Vec<BlockContents>, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (told, freed) = tokio::sync::mpsc::unbounded_channel();
    let block = |index| BlockContents {
        block: BlockId { tensor: TensorIndex(0), index },
        tensor: "w".to_owned(),
        updates: 0,
        arrays: vec![Array {
            name: WEIGHTS.to_owned(),
            dtype: ArrayDtype::F32,
            data: bytes::Bytes::from_owner(Told(vec![0; 1 << 20], told.clone())),
        }],
    };
    ((0..count).map(block).collect(), freed)
}

#[tokio::test]
async fn what_is_given_up_ends_early_and_lets_go_of_its_memory() {
    let directory = tempfile::tempdir().unwrap();
    let store = FaultyStore::new(local(directory.path())).with(1, Fault::Delay(Duration::from_millis(50)));
    let checkpoints = Checkpoints::in_store(Arc::new(store));
    let (blocks, mut freed) = large_blocks(64);
    let given_up = GivenUp::default();
    let job = sample::job();
    let writing = checkpoints.write_blocks_unless(&given_up, id(7, 1), ServerIndex(0), &job, blocks);
    let (written, ()) = tokio::join!(writing, async {
        // The store has begun to take parts only after this.
        given_up.set();
    });
    let error = written.unwrap_err();
    assert!(matches!(error, WriteError::Store(StoreError::Interrupted { .. })), "{error}");
    for _ in 0..64 {
        freed.recv().await.unwrap();
    }
    assert!(freed.recv().await.is_none());
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_ends_early() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::in_store(local(directory.path()));
    let (blocks, mut freed) = large_blocks(256);
    let job = sample::job();
    let writing = checkpoints.write_blocks(id(7, 1), ServerIndex(0), &job, blocks);
    assert!(tokio::time::timeout(Duration::from_millis(20), writing).await.is_err());
    while freed.recv().await.is_some() {}
    tokio::time::sleep(Duration::from_millis(500)).await;
    let file = format!("checkpoints/{}/server-0000.safetensors", id(7, 1));
    assert!(!directory.path().join(file).exists());
}
