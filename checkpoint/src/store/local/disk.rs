//! What a directory store asks of a file system, so that its order of syncs can be tested on one that
//! forgets (`faults::ForgetfulDisk`).

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file system.
pub trait Disk: Send + Sync + Debug + 'static {
    /// A file open for writing.
    type File: Send;

    /// Makes a directory and those above it, unless they exist.
    ///
    /// # Errors
    /// What the system says, here and below.
    fn make_dirs(&self, path: &Path) -> io::Result<()>;

    /// Creates a file that must not exist. `direct` asks to write around the page cache; every write
    /// is then of aligned memory and whole pages.
    ///
    /// # Errors
    /// `AlreadyExists` among others.
    fn create(&self, path: &Path, direct: bool) -> io::Result<Self::File>;

    /// Makes sure that `bytes` bytes fit, where the file system can tell.
    ///
    /// # Errors
    /// `StorageFull` when they do not.
    fn reserve(&self, file: &mut Self::File, bytes: u64) -> io::Result<()>;

    /// Appends.
    ///
    /// # Errors
    /// `StorageFull` among others.
    fn write(&self, file: &mut Self::File, data: &[u8]) -> io::Result<()>;

    /// Makes what was written durable, and closes.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self, file: Self::File) -> io::Result<()>;

    /// Renames, replacing.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames unless `to` exists; of several at once one succeeds.
    ///
    /// # Errors
    /// `AlreadyExists` when `to` exists.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Reads a run of a file; fewer bytes where it ends before.
    ///
    /// # Errors
    /// `NotFound` among others.
    fn read(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// Size of a file.
    ///
    /// # Errors
    /// `NotFound` among others.
    fn size(&self, path: &Path) -> io::Result<u64>;

    /// Files below a directory and their sizes; none when there is no such directory. Files that
    /// vanish meanwhile may be missing.
    ///
    /// # Errors
    /// What the system says.
    fn files_below(&self, path: &Path) -> io::Result<Vec<(PathBuf, u64)>>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound` among others.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and everything in it.
    ///
    /// # Errors
    /// `NotFound` among others.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;

    /// Bytes that still fit.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}
