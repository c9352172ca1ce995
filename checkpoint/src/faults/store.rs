//! A store that misbehaves at chosen operations.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::store::{Entry, Parts, Store, StoreError, parts};

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails without effect.
    Fail,
    /// It takes effect and fails.
    LoseAnswer,
    /// A write writes so many bytes fewer and succeeds. Other operations are as always.
    Shorten(u64),
    /// It takes longer.
    Delay(Duration),
}

/// A store with faults in it. Operations are numbered from 0 as they begin.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    faults: BTreeMap<usize, Fault>,
    gone_from: Option<usize>,
    operations: Vec<String>,
}

impl FaultyStore {
    /// A store without faults yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> FaultyStore {
        FaultyStore { inner, state: Mutex::default() }
    }

    /// Plans a fault for one operation.
    #[must_use]
    pub fn with(self, operation: usize, fault: Fault) -> FaultyStore {
        self.state().faults.insert(operation, fault);
        self
    }

    /// Fails this operation and all after it: the process that used the store is gone.
    #[must_use]
    pub fn gone_from(self, operation: usize) -> FaultyStore {
        self.state().gone_from = Some(operation);
        self
    }

    /// What was asked so far, like `create generations/00000001.json`.
    #[must_use]
    pub fn operations(&self) -> Vec<String> {
        self.state().operations.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and does what comes before its effect.
    async fn begin(&self, operation: &'static str, path: &str) -> Result<Option<Fault>, StoreError> {
        let fault = {
            let mut state = self.state();
            let number = state.operations.len();
            state.operations.push(format!("{operation} {path}"));
            let gone = state.gone_from.is_some_and(|from| number >= from);
            if gone { Some(Fault::Fail) } else { state.faults.get(&number).copied() }
        };
        match fault {
            Some(Fault::Fail) => Err(planned(operation, path)),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(None)
            }
            fault => Ok(fault),
        }
    }
}

/// Does what comes after the effect.
fn end<T>(operation: &'static str, path: &str, fault: Option<Fault>, done: T) -> Result<T, StoreError> {
    match fault {
        Some(Fault::LoseAnswer) => Err(planned(operation, path)),
        _ => Ok(done),
    }
}

fn planned(operation: &'static str, path: &str) -> StoreError {
    StoreError::Failed { operation, path: path.to_owned(), source: "a planned fault".into() }
}

fn shortened(bytes: Bytes, fault: Option<Fault>) -> Bytes {
    match fault {
        Some(Fault::Shorten(by)) => bytes.slice(..bytes.len().saturating_sub(by as usize)),
        _ => bytes,
    }
}

/// The first `bytes` bytes of an upload.
fn shortened_parts(mut all: Parts, bytes: u64, part_bytes: usize) -> Parts {
    let (mut sender, fewer) = parts(part_bytes);
    tokio::task::spawn_blocking(move || {
        let mut left = bytes as usize;
        while let Some(part) = all.next_blocking() {
            let taken = left.min(part.as_ref().len());
            left -= taken;
            // A store that stopped taking parts says why by itself.
            let _ = sender.write(&part.as_ref()[..taken]);
        }
        let _ = sender.finish();
    });
    fewer
}

#[async_trait]
impl Store for FaultyStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let fault = self.begin("create", path).await?;
        end("create", path, fault, self.inner.create(path, shortened(bytes, fault)).await?)
    }

    async fn settle(&self, path: &str) -> Result<(), StoreError> {
        let fault = self.begin("settle", path).await?;
        end("settle", path, fault, self.inner.settle(path).await?)
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let fault = self.begin("put", path).await?;
        end("put", path, fault, self.inner.put(path, shortened(bytes, fault)).await?)
    }

    async fn upload(&self, path: &str, bytes: u64, parts: Parts) -> Result<(), StoreError> {
        let fault = self.begin("upload", path).await?;
        let (bytes, parts) = match fault {
            Some(Fault::Shorten(by)) => {
                let fewer = bytes.saturating_sub(by);
                (fewer, shortened_parts(parts, fewer, self.inner.part_bytes(fewer)))
            }
            _ => (bytes, parts),
        };
        end("upload", path, fault, self.inner.upload(path, bytes, parts).await?)
    }

    fn part_bytes(&self, bytes: u64) -> usize {
        self.inner.part_bytes(bytes)
    }

    async fn read(&self, path: &str) -> Result<Bytes, StoreError> {
        let fault = self.begin("read", path).await?;
        end("read", path, fault, self.inner.read(path).await?)
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let fault = self.begin("read a range of", path).await?;
        end("read a range of", path, fault, self.inner.read_range(path, range).await?)
    }

    async fn size(&self, path: &str) -> Result<u64, StoreError> {
        let fault = self.begin("look at", path).await?;
        end("look at", path, fault, self.inner.size(path).await?)
    }

    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StoreError> {
        let fault = self.begin("list", directory).await?;
        end("list", directory, fault, self.inner.list(directory).await?)
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let fault = self.begin("delete", path).await?;
        end("delete", path, fault, self.inner.delete(path).await?)
    }

    async fn delete_all(&self, directory: &str) -> Result<(), StoreError> {
        let fault = self.begin("delete all of", directory).await?;
        end("delete all of", directory, fault, self.inner.delete_all(directory).await?)
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.inner.free_bytes().await
    }
}
