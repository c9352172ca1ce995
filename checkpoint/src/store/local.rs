//! A directory as a store.
//!
//! An object is written under a hidden name, synced, renamed, and the directories above it are synced:
//! a crash at any moment leaves it absent or whole, and what was answered for stays. A conditional
//! create renames without replacing. Shared file systems work as far as they keep these promises.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Entry, PART_ALIGNMENT, Parts, Store, StoreError};
use crate::blocking::blocking;

pub use disk::Disk;
pub use system::SystemDisk;

mod disk;
mod system;

/// A directory as a store.
#[derive(Debug)]
pub struct LocalStore<D: Disk = SystemDisk> {
    inner: Arc<Inner<D>>,
}

#[derive(Debug)]
struct Inner<D> {
    root: PathBuf,
    disk: D,
}

/// What becomes of an object that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Replace,
    Refuse,
}

impl LocalStore {
    /// A store in `root`, which is made when missing.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when it cannot be.
    pub fn open(root: &Path) -> Result<LocalStore, StoreError> {
        LocalStore::on(SystemDisk, root)
    }
}

impl<D: Disk> LocalStore<D> {
    /// A store in `root` of some disk.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the directory cannot be made.
    pub fn on(disk: D, root: &Path) -> Result<LocalStore<D>, StoreError> {
        let location = root.display().to_string();
        disk.make_dirs(root).map_err(failed("make directory", &location))?;
        // Whichever of them are new: a crash must not take the root and with it what was answered for.
        // One that may not be opened is not new.
        for above in root.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            match disk.sync_dir(above) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                done => done.map_err(failed("sync a directory above", &location))?,
            }
        }
        Ok(LocalStore { inner: Arc::new(Inner { root: root.to_owned(), disk }) })
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner<D>) -> T + Send + 'static) -> T {
        let inner = self.inner.clone();
        blocking(move || work(&inner)).await
    }

    async fn write_small(&self, path: &str, bytes: Bytes, existing: Existing) -> Result<(), StoreError> {
        let path = path.to_owned();
        let mut once = Some(bytes);
        self.blocking(move |inner| {
            let length = once.as_ref().map_or(0, |bytes| bytes.len() as u64);
            inner.write(&path, length, false, existing, || once.take())
        })
        .await
    }
}

#[async_trait]
impl<D: Disk> Store for LocalStore<D> {
    fn location(&self) -> String {
        self.inner.root.display().to_string()
    }

    async fn create(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.write_small(path, bytes, Existing::Refuse).await
    }

    async fn settle(&self, path: &str) -> Result<(), StoreError> {
        let path = path.to_owned();
        self.blocking(move |inner| {
            inner.sync_above(&inner.root.join(&path)).map_err(failed("sync the directory of", &path))
        })
        .await
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.write_small(path, bytes, Existing::Replace).await
    }

    async fn upload(&self, path: &str, bytes: u64, mut parts: Parts) -> Result<(), StoreError> {
        let path = path.to_owned();
        let direct = bytes.is_multiple_of(PART_ALIGNMENT as u64);
        self.blocking(move |inner| inner.write(&path, bytes, direct, Existing::Replace, || parts.next_blocking())).await
    }

    async fn read(&self, path: &str) -> Result<Bytes, StoreError> {
        self.read_range(path, 0..u64::MAX).await
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = path.to_owned();
        self.blocking(move |inner| {
            inner.disk.read(&inner.root.join(&path), range).map(Bytes::from).map_err(failed("read", &path))
        })
        .await
    }

    async fn size(&self, path: &str) -> Result<u64, StoreError> {
        let path = path.to_owned();
        self.blocking(move |inner| inner.disk.size(&inner.root.join(&path)).map_err(failed("look at", &path))).await
    }

    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StoreError> {
        let directory = directory.to_owned();
        self.blocking(move |inner| {
            let files = inner.disk.files_below(&inner.root.join(&directory)).map_err(failed("list", &directory))?;
            // A file whose name is no text is none of ours.
            let relative = |path: &Path| Some(path.strip_prefix(&inner.root).ok()?.to_str()?.to_owned());
            let entry = |(path, bytes): (PathBuf, u64)| Some(Entry { path: relative(&path)?, bytes });
            Ok(files.into_iter().filter_map(entry).collect())
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let path = path.to_owned();
        self.blocking(move |inner| {
            let full = inner.root.join(&path);
            absent_is_fine(inner.disk.remove(&full).and_then(|()| inner.disk.sync_dir(parent(&full))))
                .map_err(failed("delete", &path))
        })
        .await
    }

    async fn delete_all(&self, directory: &str) -> Result<(), StoreError> {
        let directory = directory.to_owned();
        self.blocking(move |inner| {
            absent_is_fine(inner.disk.remove_tree(&inner.root.join(&directory))).map_err(failed("delete", &directory))
        })
        .await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.blocking(|inner| {
            let location = inner.root.display().to_string();
            inner.disk.free_bytes(&inner.root).map(Some).map_err(failed("look at free space of", &location))
        })
        .await
    }
}

impl<D: Disk> Inner<D> {
    /// Writes an object of `length` bytes, which `next` hands out piece by piece.
    fn write<P: AsRef<[u8]>>(
        &self,
        path: &str,
        length: u64,
        direct: bool,
        existing: Existing,
        next: impl FnMut() -> Option<P>,
    ) -> Result<(), StoreError> {
        let target = self.root.join(path);
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The random part keeps writers on different hosts apart, where process ids would not.
        let hidden = target.with_file_name(format!(".{name}.{:016x}.partial", rand::random::<u64>()));
        let written = self.write_hidden(path, &hidden, length, direct, next).and_then(|()| {
            match existing {
                Existing::Replace => self.disk.rename(&hidden, &target),
                Existing::Refuse => self.disk.rename_new(&hidden, &target),
            }
            .map_err(failed("rename", path))
        });
        if let Err(error) = written {
            // Only tidying: a hidden file is no object, and goes with its directory in the end.
            let _ = self.disk.remove(&hidden);
            return Err(error);
        }
        self.sync_above(&target).map_err(failed("sync the directory of", path))
    }

    fn write_hidden<P: AsRef<[u8]>>(
        &self,
        path: &str,
        hidden: &Path,
        length: u64,
        direct: bool,
        mut next: impl FnMut() -> Option<P>,
    ) -> Result<(), StoreError> {
        self.disk.make_dirs(parent(hidden)).map_err(failed("make the directory of", path))?;
        let mut file = self.disk.create(hidden, direct).map_err(failed("create", path))?;
        self.disk.reserve(&mut file, length).map_err(|error| self.full_or_failed("reserve", path, length, error))?;
        let mut found = 0;
        while let Some(piece) = next() {
            let piece = piece.as_ref();
            self.disk.write(&mut file, piece).map_err(|error| self.full_or_failed("write", path, length, error))?;
            found += piece.len() as u64;
        }
        if found != length {
            return Err(StoreError::Interrupted { path: path.to_owned(), expected: length, found });
        }
        self.disk.sync(file).map_err(|error| self.full_or_failed("sync", path, length, error))
    }

    /// Syncs the directories between an object and the root: each may have been made for it.
    fn sync_above(&self, target: &Path) -> io::Result<()> {
        let within = |directory: &&Path| directory.starts_with(&self.root);
        target.ancestors().skip(1).take_while(within).try_for_each(|directory| self.disk.sync_dir(directory))
    }

    fn full_or_failed(&self, operation: &'static str, path: &str, needed: u64, error: io::Error) -> StoreError {
        if error.kind() == io::ErrorKind::StorageFull {
            let free = self.disk.free_bytes(&self.root).unwrap_or(0);
            return StoreError::Full { path: path.to_owned(), needed, free };
        }
        failed(operation, path)(error)
    }
}

/// Every path here is below a root.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn failed<'a>(operation: &'static str, path: &'a str) -> impl Fn(io::Error) -> StoreError + 'a {
    move |error| match error.kind() {
        io::ErrorKind::NotFound if operation == "read" || operation == "look at" => {
            StoreError::NotFound { path: path.to_owned() }
        }
        io::ErrorKind::AlreadyExists if operation == "rename" => StoreError::Exists { path: path.to_owned() },
        _ => StoreError::Failed { operation, path: path.to_owned(), source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests;
