//! Damage: whatever happens to stored bytes, reading and verifying notice, and name the file.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use halflife_checkpoint::{CheckpointManifest, Checkpoints, ReadError};
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::runtime::Runtime;

use crate::sample::{self, id};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// A checkpoint that can be damaged, and another one to swap files with.
struct Victim {
    directory: tempfile::TempDir,
    checkpoints: Checkpoints,
    manifest: CheckpointManifest,
}

const FILES: [&str; 5] =
    ["manifest.json", "server-0000.json", "server-0000.safetensors", "server-0001.json", "server-0001.safetensors"];

/// Written once: syncing files takes most of the time, and damage does not need it.
static TEMPLATE: LazyLock<(tempfile::TempDir, CheckpointManifest)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(".", directory.path()).unwrap();
    let manifest = RUNTIME.block_on(async {
        sample::commit(&checkpoints, id(8, 1), 2, 4).await.unwrap();
        sample::commit(&checkpoints, id(9, 1), 2, 5).await.unwrap()
    });
    (directory, manifest)
});

impl Victim {
    fn new() -> Victim {
        let (template, manifest) = &*TEMPLATE;
        let directory = tempfile::tempdir().unwrap();
        for step in [8, 9] {
            let below = format!("checkpoints/{}", id(step, 1));
            std::fs::create_dir_all(directory.path().join(&below)).unwrap();
            for file in FILES.map(|file| format!("{below}/{file}")) {
                std::fs::copy(template.path().join(&file), directory.path().join(&file)).unwrap();
            }
        }
        let checkpoints = Checkpoints::open(".", directory.path()).unwrap();
        Victim { directory, checkpoints, manifest: manifest.clone() }
    }

    fn path(&self, step: u64, file: &str) -> PathBuf {
        self.directory.path().join(format!("checkpoints/{}/{file}", id(step, 1)))
    }

    /// The error of verifying, after making sure that reading says something is wrong, too, or hands over
    /// nothing but what is right.
    fn error(&self) -> ReadError {
        let error = RUNTIME.block_on(self.checkpoints.verify(id(9, 1))).unwrap_err();
        let read = RUNTIME.block_on(async {
            let manifest = self.checkpoints.manifest(id(9, 1)).await?;
            sample::read_all(&self.checkpoints, &manifest).await
        });
        if let Ok(blocks) = read {
            assert_eq!(blocks, sample::blocks(5), "reading missed what verifying found: {error}");
        }
        error
    }

    fn assert_error_names(&self, file: &str) -> Result<(), TestCaseError> {
        let error = self.error().to_string();
        let path = format!("checkpoints/{}/{file}", id(9, 1));
        prop_assert!(error.contains(&path), "expected {} named, found: {}", path, error);
        Ok(())
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_anywhere_is_found(file in 0..FILES.len(), at: Index, bit in 0..8u8) {
        let victim = Victim::new();
        change(&victim.path(9, FILES[file]), |bytes| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        });
        victim.assert_error_names(FILES[file])?;
    }

    #[test]
    fn a_flipped_bit_where_it_matters_is_found(file in prop::sample::select(vec![2, 4]), at: Index, bit in 0..8u8) {
        // Most of a small data file is padding; the data is where it is not.
        let victim = Victim::new();
        change(&victim.path(9, FILES[file]), |bytes| {
            let data: Vec<_> = (4096..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            bytes[data[at.index(data.len())]] ^= 1 << bit;
        });
        victim.assert_error_names(FILES[file])?;
    }

    #[test]
    fn a_cut_file_is_found(file in 0..FILES.len(), length: Index) {
        let victim = Victim::new();
        change(&victim.path(9, FILES[file]), |bytes| bytes.truncate(length.index(bytes.len())));
        victim.assert_error_names(FILES[file])?;
    }

    #[test]
    fn added_bytes_are_found(file in 0..FILES.len(), added in prop::collection::vec(any::<u8>(), 1..20), front: bool) {
        let victim = Victim::new();
        change(&victim.path(9, FILES[file]), |bytes| {
            let at = if front { 0 } else { bytes.len() };
            bytes.splice(at..at, added);
        });
        victim.assert_error_names(FILES[file])?;
    }

    #[test]
    fn an_overwritten_run_is_found(file in 0..FILES.len(), at: Index, run in prop::collection::vec(any::<u8>(), 1..100)) {
        let victim = Victim::new();
        let mut changed = false;
        change(&victim.path(9, FILES[file]), |bytes| {
            let at = at.index(bytes.len());
            for (byte, new) in bytes[at..].iter_mut().zip(run) {
                changed |= *byte != new;
                *byte = new;
            }
        });
        if changed {
            victim.assert_error_names(FILES[file])?;
        }
    }
}

#[test]
fn a_missing_file_is_named() -> Result<(), TestCaseError> {
    for file in FILES {
        let victim = Victim::new();
        std::fs::remove_file(victim.path(9, file)).unwrap();
        victim.assert_error_names(file)?;
    }
    Ok(())
}

#[test]
fn files_swapped_between_servers_are_found() -> Result<(), TestCaseError> {
    for kind in ["json", "safetensors"] {
        let victim = Victim::new();
        let (one, other) = (format!("server-0000.{kind}"), format!("server-0001.{kind}"));
        let (one_bytes, other_bytes) =
            (std::fs::read(victim.path(9, &one)).unwrap(), std::fs::read(victim.path(9, &other)).unwrap());
        std::fs::write(victim.path(9, &one), other_bytes).unwrap();
        std::fs::write(victim.path(9, &other), one_bytes).unwrap();
        victim.assert_error_names(&one)?;
    }
    Ok(())
}

#[test]
fn a_file_of_another_checkpoint_is_found() -> Result<(), TestCaseError> {
    for file in FILES {
        let victim = Victim::new();
        std::fs::copy(victim.path(8, file), victim.path(9, file)).unwrap();
        victim.assert_error_names(file)?;
    }
    let victim = Victim::new();
    for file in &FILES[1..] {
        std::fs::copy(victim.path(8, file), victim.path(9, file)).unwrap();
    }
    victim.assert_error_names(FILES[1])
}

#[test]
fn every_damaged_block_is_named() {
    let victim = Victim::new();
    for contents in sample::blocks(5) {
        for array in contents.arrays.iter().filter(|array| !array.data.is_empty()) {
            let victim = Victim::new();
            let damaged = ["server-0000.safetensors", "server-0001.safetensors"].into_iter().any(|file| {
                let path = victim.path(9, file);
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes[4096..].windows(array.data.len()).position(|window| window == array.data);
                found.is_some_and(|at| {
                    change(&path, |bytes| bytes[4096 + at] ^= 0x40);
                    true
                })
            });
            assert!(damaged);
            let read = RUNTIME.block_on(sample::read_all(&victim.checkpoints, &victim.manifest)).unwrap_err();
            for error in [victim.error(), read] {
                let ReadError::BlockDigest { tensor, block, array: name, .. } = &error else { panic!("{error}") };
                assert_eq!((tensor, *block, name), (&contents.tensor, contents.block, &array.name));
            }
        }
    }
    RUNTIME.block_on(victim.checkpoints.verify(id(9, 1))).unwrap();
}
