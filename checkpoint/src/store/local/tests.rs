//! Facts about a directory as a store, on the machine's own file systems.

use std::path::PathBuf;

use super::*;
use crate::store::{PART_BYTES, parts};

fn store() -> (tempfile::TempDir, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(&directory.path().join("made/when/missing")).unwrap();
    (directory, store)
}

async fn upload(store: &LocalStore, path: &str, announced: u64, bytes: Vec<u8>) -> Result<(), StoreError> {
    let (mut sender, parts) = parts(PART_BYTES);
    let producer = std::thread::spawn(move || sender.write(&bytes).and_then(|()| sender.finish()));
    let uploaded = store.upload(path, announced, parts).await;
    let _ = producer.join().unwrap();
    uploaded
}

#[tokio::test]
async fn an_object_reads_back_whole_and_in_part() {
    let (_directory, store) = store();
    store.put("a/b.json", "0123456789".into()).await.unwrap();
    assert_eq!(store.read("a/b.json").await.unwrap(), "0123456789");
    assert_eq!(store.read_range("a/b.json", 3..5).await.unwrap(), "34");
    assert_eq!(store.read_range("a/b.json", 8..20).await.unwrap(), "89");
    assert_eq!(store.size("a/b.json").await.unwrap(), 10);
    let entry = Entry { path: "a/b.json".to_owned(), bytes: 10 };
    assert_eq!(store.list("a").await.unwrap(), [entry]);
    assert_eq!(store.list("nowhere").await.unwrap(), []);
    assert!(matches!(store.read("a/c").await, Err(StoreError::NotFound { path }) if path == "a/c"));
}

#[tokio::test]
async fn large_objects_of_any_size_read_back() {
    let (_directory, store) = store();
    for bytes in [0, 1, 4096, PART_BYTES + 4096, PART_BYTES + 4097] {
        let data: Vec<u8> = (0..bytes).map(|i| (i % 253) as u8).collect();
        upload(&store, "large", bytes as u64, data.clone()).await.unwrap();
        assert!(store.read("large").await.unwrap() == data, "{bytes}");
    }
}

#[tokio::test]
async fn an_interrupted_upload_leaves_what_was_there() {
    let (_directory, store) = store();
    upload(&store, "large", 4096, vec![1; 4096]).await.unwrap();
    for came in [0, 4096, 3 * 4096] {
        let error = upload(&store, "large", 2 * 4096, vec![2; came]).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Interrupted { expected: 8192, found, .. } if found == came as u64),
            "{error}"
        );
    }
    assert_eq!(store.read("large").await.unwrap(), vec![1; 4096]);
    assert_eq!(store.list("").await.unwrap().len(), 1, "no leftovers");
}

#[tokio::test]
async fn of_many_creating_at_once_one_wins() {
    let (_directory, store) = store();
    let store = Arc::new(store);
    for round in 0..20 {
        let path = format!("claims/{round}");
        let tasks: Vec<_> = (0..8)
            .map(|claimant: i32| {
                let (store, path) = (store.clone(), path.clone());
                tokio::spawn(async move { store.create(&path, claimant.to_string().into()).await })
            })
            .collect();
        let mut won = Vec::new();
        for (claimant, task) in tasks.into_iter().enumerate() {
            match task.await.unwrap() {
                Ok(()) => won.push(claimant.to_string()),
                Err(StoreError::Exists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, [String::from_utf8(store.read(&path).await.unwrap().to_vec()).unwrap()]);
    }
    assert_eq!(store.list("claims").await.unwrap().len(), 20, "no leftovers");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_is_written() {
    let (_directory, store) = store();
    let free = store.free_bytes().await.unwrap().unwrap();
    let error = upload(&store, "huge", (free + (1 << 30)).next_multiple_of(4096), vec![0; 4096]).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { needed, .. } if needed > free), "{error}");
    assert_eq!(store.list("").await.unwrap(), [], "no leftovers");
}

#[tokio::test]
async fn deleting_is_repeatable() {
    let (_directory, store) = store();
    store.put("a/b", "x".into()).await.unwrap();
    for _ in 0..2 {
        store.delete("a/b").await.unwrap();
        store.delete_all("a").await.unwrap();
    }
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_file_system_in_memory_works_too() {
    let shared_memory = PathBuf::from("/dev/shm");
    if !shared_memory.is_dir() {
        return; // Not every system has one; the fallback is all that is special about it.
    }
    let directory = tempfile::tempdir_in(shared_memory).unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    upload(&store, "large", 8192, vec![3; 8192]).await.unwrap();
    store.create("small", "x".into()).await.unwrap();
    assert!(matches!(store.create("small", "y".into()).await, Err(StoreError::Exists { .. })));
    assert_eq!(store.read("large").await.unwrap(), vec![3; 8192]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let error = LocalStore::open(&directory.path().join("file/below")).unwrap_err().to_string();
    assert!(error.contains("file/below"), "{error}");
}
