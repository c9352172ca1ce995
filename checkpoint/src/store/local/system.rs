//! The file system of the machine.
//!
//! Large files are written with O_DIRECT: several times the speed of the page cache, which would also
//! push out what others need. Where a file system does not know it, writing goes through the cache.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Disk;

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

/// Only Linux opens files so; elsewhere every write goes through the cache.
#[cfg(target_os = "linux")]
const DIRECT: OFlags = OFlags::DIRECT;
#[cfg(not(target_os = "linux"))]
const DIRECT: OFlags = OFlags::empty();

impl Disk for SystemDisk {
    type File = File;

    fn make_dirs(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path, direct: bool) -> io::Result<File> {
        let open = |flags| rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).map(File::from);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        if direct {
            match open(flags | DIRECT) {
                // Some systems refuse the flag only after they have created the file.
                Err(Errno::INVAL) => {
                    let _ = fs::remove_file(path);
                }
                opened => return Ok(opened?),
            }
        }
        Ok(open(flags)?)
    }

    fn reserve(&self, file: &mut File, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            // A file system that cannot promise space says so when it is written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            done => Ok(done?),
        }
    }

    fn write(&self, file: &mut File, data: &[u8]) -> io::Result<()> {
        let begin = file.stream_position()?;
        match file.write_all(data) {
            // The alignment was not enough for this device: go on through the cache.
            Err(error) if error.kind() == ErrorKind::InvalidInput && !DIRECT.is_empty() => {
                let flags = rustix::fs::fcntl_getfl(&*file)?;
                rustix::fs::fcntl_setfl(&*file, flags - DIRECT)?;
                file.seek(SeekFrom::Start(begin))?;
                file.write_all(data)
            }
            done => done,
        }
    }

    fn sync(&self, file: File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Network file systems do not know it; a link does not replace either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_new(from, to),
            done => Ok(done?),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn read(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let length = range.end.min(size).saturating_sub(range.start);
        let mut data = Vec::with_capacity(length as usize);
        file.seek(SeekFrom::Start(range.start))?;
        file.take(length).read_to_end(&mut data)?;
        Ok(data)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn files_below(&self, path: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        let mut directories = vec![path.to_owned()];
        while let Some(directory) = directories.pop() {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                    Ok(metadata) => files.push((entry.path(), metadata.len())),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let status = rustix::fs::statvfs(path)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}

fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_rename_without_replacing_do_the_same() {
        for rename in [link_new, |from: &Path, to: &Path| SystemDisk.rename_new(from, to)] {
            let directory = tempfile::tempdir().unwrap();
            let [one, other, to] = ["one", "other", "to"].map(|name| directory.path().join(name));
            fs::write(&one, "one").unwrap();
            fs::write(&other, "other").unwrap();
            rename(&one, &to).unwrap();
            assert_eq!(rename(&other, &to).unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&to).unwrap(), "one");
            assert!(!one.exists() && other.exists());
        }
    }
}
