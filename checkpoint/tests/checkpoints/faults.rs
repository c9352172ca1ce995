//! Faults of a store: each operation of a life fails, loses its answer, or is cut short.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halflife_checkpoint::faults::{Fault, FaultyStore};
use halflife_checkpoint::store::{LocalStore, Store};
use halflife_checkpoint::{Checkpoints, ClaimError};

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
