//! A file system in memory that loses at a crash what was not synced.
//!
//! It is as forgetful as a file system may be: of names not synced each survives or not, by itself and
//! before or after the others; a file not synced keeps any beginning of what was written. Which, a seed
//! decides, so that a failing crash can be had again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::Disk;

/// A file system in memory. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct ForgetfulDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Names as processes see them.
    names: BTreeMap<PathBuf, Node>,
    /// Names that a crash cannot take.
    synced: BTreeMap<PathBuf, Node>,
    files: Vec<Content>,
    operations: u64,
    crash_at: Option<u64>,
    fail_at: Option<u64>,
    lies: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Clone, Debug, Default)]
struct Content {
    written: Vec<u8>,
    synced: Vec<u8>,
}

impl ForgetfulDisk {
    /// One whose syncs do nothing, to see that a test would notice.
    #[must_use]
    pub fn lying() -> ForgetfulDisk {
        let disk = ForgetfulDisk::default();
        disk.state().lies = true;
        disk
    }

    /// Stops everything at this operation that changes something, counted from 0; from then on every
    /// operation fails until [`ForgetfulDisk::crash`].
    pub fn stop_at(&self, operation: u64) {
        self.state().crash_at = Some(operation);
    }

    /// Fails this one of the operations that change something, which then has no effect; those after it are as always.
    pub fn fail_at(&self, operation: u64) {
        self.state().fail_at = Some(operation);
    }

    /// Operations so far that changed something.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Loses what was not synced, as `seed` decides, and starts again.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state();
        let paths: BTreeSet<PathBuf> = state.names.keys().chain(state.synced.keys()).cloned().collect();
        let mut after: BTreeMap<PathBuf, Node> = BTreeMap::new();
        // In order, so that a directory is decided before what is in it.
        for path in paths {
            let (seen, kept) = (state.names.get(&path).copied(), state.synced.get(&path).copied());
            let node = if seen != kept && chance(seed, &path).is_multiple_of(2) { seen } else { kept };
            let inside = path.parent().is_none_or(|parent| parent == Path::new("/") || after.contains_key(parent));
            if let Some(node) = node.filter(|_| inside) {
                after.insert(path, node);
            }
        }
        for (number, file) in state.files.iter_mut().enumerate() {
            if file.written != file.synced {
                let kept = chance(seed, Path::new(&number.to_string())) as usize % (file.written.len() + 1);
                file.written.truncate(kept);
            }
            file.synced = file.written.clone();
        }
        (state.names, state.synced) = (after.clone(), after);
        state.crash_at = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state for an operation that changes something.
    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let number = {
            let mut state = self.state();
            state.operations += 1;
            state.operations - 1
        };
        let state = self.running()?;
        if state.fail_at == Some(number) {
            return Err(io::Error::other("a planned fault"));
        }
        Ok(state)
    }

    fn running(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.crash_at.is_some_and(|at| state.operations > at) {
            return Err(io::Error::other("the machine has crashed"));
        }
        Ok(state)
    }
}

fn chance(seed: u64, of: &Path) -> u64 {
    let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).update(of.as_os_str().as_encoded_bytes()).finalize();
    hash.as_bytes().iter().fold(0, |number: u64, byte| number.rotate_left(8) ^ u64::from(*byte))
}

impl State {
    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(file)) => Ok(*file),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.file(from)?;
        self.names.remove(from);
        self.names.insert(to.to_owned(), Node::File(file));
        Ok(())
    }

    fn below(&self, path: &Path) -> Vec<PathBuf> {
        self.names.keys().filter(|name| name.starts_with(path)).cloned().collect()
    }
}

impl Disk for ForgetfulDisk {
    type File = usize;

    fn make_dirs(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        for directory in path.ancestors().filter(|directory| *directory != Path::new("/")) {
            state.names.entry(directory.to_owned()).or_insert(Node::Directory);
        }
        Ok(())
    }

    fn create(&self, path: &Path, _direct: bool) -> io::Result<usize> {
        let mut state = self.change()?;
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.names.insert(path.to_owned(), Node::File(file));
        Ok(file)
    }

    fn reserve(&self, _file: &mut usize, _bytes: u64) -> io::Result<()> {
        self.change().map(drop)
    }

    fn write(&self, file: &mut usize, data: &[u8]) -> io::Result<()> {
        self.change()?.files[*file].written.extend_from_slice(data);
        Ok(())
    }

    fn sync(&self, file: usize) -> io::Result<()> {
        let mut state = self.change()?;
        if !state.lies {
            state.files[file].synced = state.files[file].written.clone();
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        if state.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        if state.lies {
            return Ok(());
        }
        let State { names, synced, .. } = &mut *state;
        let inside = |name: &Path| name.parent() == Some(path);
        synced.retain(|name, _| !inside(name));
        synced.extend(names.iter().filter(|(name, _)| inside(name)).map(|(name, node)| (name.clone(), *node)));
        Ok(())
    }

    fn read(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
        let state = self.running()?;
        let data = &state.files[state.file(path)?].written;
        let end = range.end.min(data.len() as u64) as usize;
        Ok(data.get(range.start as usize..end).unwrap_or_default().to_vec())
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        let state = self.running()?;
        Ok(state.files[state.file(path)?].written.len() as u64)
    }

    fn files_below(&self, path: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let state = self.running()?;
        let size = |name: PathBuf| {
            let size = state.files[state.file(&name).ok()?].written.len() as u64;
            Some((name, size))
        };
        Ok(state.below(path).into_iter().filter_map(size).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        state.file(path)?;
        state.names.remove(path);
        Ok(())
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        // A name at a time: a crash may come between any two.
        let names = self.running()?.below(path);
        for name in names {
            self.change()?.names.remove(&name);
        }
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
