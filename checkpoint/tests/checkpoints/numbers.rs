//! Numbers that no job writes, behind digests that are right: a file made by hand is damaged like any other, and whoever reads it
//! says so instead of ending.

use std::path::{Path, PathBuf};

use halflife_checkpoint::{Checkpoints, ReadError};
use serde_json::{Value, json};

use crate::sample::{self, id};

/// A committed checkpoint of one server whose files are rewritten.
struct Forged {
    directory: tempfile::TempDir,
    checkpoints: Checkpoints,
}

impl Forged {
    async fn new() -> Forged {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(".", directory.path()).unwrap();
        sample::commit(&checkpoints, id(9, 1), 1, 5).await.unwrap();
        Forged { directory, checkpoints }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(format!("checkpoints/{}/{file}", id(9, 1)))
    }

    /// Changes the manifest, its digest with it.
    fn manifest(&self, change: impl FnOnce(&mut Value)) {
        rewrite(&self.path("manifest.json"), "manifest", change);
    }

    /// Changes the index, every digest of the whole file with it.
    fn index(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("server-0000.json");
        rewrite(&path, "index", change);
        let digest = blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string();
        self.manifest(|manifest| manifest["files"][0]["index_blake3"] = json!(digest));
    }

    async fn verify(&self) -> ReadError {
        self.checkpoints.verify(id(9, 1)).await.expect_err("it is damaged")
    }
}

fn rewrite(path: &Path, kind: &str, change: impl FnOnce(&mut Value)) {
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut value = file[kind].clone();
    change(&mut value);
    let value = value.to_string();
    let digest = blake3::hash(value.as_bytes()).to_hex();
    std::fs::write(path, format!("{{\"blake3\":\"{digest}\",\"{kind}\":{value}}}\n")).unwrap();
}

#[tokio::test]
async fn a_manifest_whose_numbers_no_job_writes_is_damaged() {
    let cases: [(&str, Value, &str); 9] = [
        ("/block_elements", json!(0), "block_elements: expected a power of two up to 1048576, found 0"),
        ("/block_elements", json!(3), "block_elements: expected a power of two up to 1048576, found 3"),
        ("/block_elements", json!(u64::MAX), "expected a power of two up to 1048576, found 18446744073709551615"),
        ("/model/2/shape", json!([1_u64 << 40]), "model: expected at most 131072 blocks, found 274877906949"),
        ("/model/2/shape", json!([u64::MAX, 2]), "expected 1 to 1099511627776 elements"),
        ("/schedule/next_step", json!(0), "schedule: expected next_step 10, found 0"),
        ("/schedule/next_step", json!(11), "schedule: expected next_step 10, found 11"),
        ("/ledger/0/steps", json!(u64::MAX), "steps of group \"all\": expected at most 9223372036854775807"),
        ("/counters/torn", json!(u64::MAX), "counter \"torn\": expected at most 9223372036854775807"),
    ];
    for (pointer, number, expected) in cases {
        let forged = Forged::new().await;
        forged.manifest(|manifest| *manifest.pointer_mut(pointer).unwrap() = number);
        let path = format!("checkpoints/{}/manifest.json: ", id(9, 1));
        let read = forged.checkpoints.manifest(id(9, 1)).await.expect_err(pointer);
        for error in [forged.verify().await.to_string(), read.to_string()] {
            assert!(error.starts_with(&path) && error.contains(expected), "{pointer}: {error}");
        }
    }
}

#[tokio::test]
async fn an_index_whose_numbers_no_job_writes_is_damaged() {
    let cases: [(&str, Value, &str); 6] = [
        ("/blocks/0/updates", json!(u64::MAX), "expected at most 9223372036854775807 updates"),
        ("/blocks/0/index", json!(u32::MAX), "expected a block of"),
        ("/blocks/0/tensor_index", json!(u32::MAX), "expected one of the model's 5 tensors"),
        ("/blocks/0/arrays/1/bytes", json!(14), "array \"m\": expected elements of 4 bytes, found 14 bytes in all"),
        ("/blocks/0/arrays/1/name", json!("weights"), "found \"weights\" twice"),
        ("/blocks/0/arrays/0/offset", json!(u64::MAX), "where the layout puts them"),
    ];
    for (pointer, number, expected) in cases {
        let forged = Forged::new().await;
        forged.index(|index| *index.pointer_mut(pointer).unwrap() = number);
        let error = forged.verify().await.to_string();
        let path = format!("checkpoints/{}/server-0000.json: ", id(9, 1));
        assert!(error.starts_with(&path) && error.contains(expected), "{pointer}: {error}");
    }
}

#[tokio::test]
async fn a_manifest_that_could_not_be_read_is_not_committed() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(".", directory.path()).unwrap();
    let mut manifest = sample::write(&checkpoints, id(9, 1), 1, 5).await.unwrap();
    manifest.block_elements = 0;
    let error = checkpoints.commit(&manifest).await.unwrap_err().to_string();
    assert!(error.contains("block_elements: expected a power of two"), "{error}");
    assert!(checkpoints.list().await.unwrap().is_empty());
}
