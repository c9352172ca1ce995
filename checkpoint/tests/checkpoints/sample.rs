//! A small checkpoint of everything a checkpoint may hold: several servers, tied and frozen tensors,
//! planes of two dtypes, of odd lengths, of whole tensors, and empty.

use std::collections::BTreeMap;

use halflife_checkpoint::{
    Array, ArrayDtype, BlockContents, CheckpointId, CheckpointManifest, Checkpoints, Claim, FORMAT_VERSION,
    GroupLedger, ScheduleState, SpecRevision,
};
use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::ids::{Generation, JobId, ServerIndex, Step};
use halflife_proto::manifest::{Manifest, Role, Tensor};

/// Elements per block.
pub const BLOCK_ELEMENTS: u64 = 4;

/// Names a checkpoint.
pub fn id(step: u64, generation: u64) -> CheckpointId {
    CheckpointId { step: Step(step), generation: Generation(generation) }
}

/// The job of every sample.
pub fn job() -> JobId {
    JobId("sample job \"é\"".to_owned())
}

/// A claim of a generation.
pub fn claim(generation: u64, continues: Option<CheckpointId>) -> Claim {
    Claim {
        generation: Generation(generation),
        claimant: format!("attempt {generation}"),
        job: job(),
        continues,
        spec_toml: "steps = 1000\n".to_owned(),
        from_step: continues.map_or(Step(1), |id| id.step.next()),
    }
}

/// The model of every sample.
pub fn model() -> Manifest {
    let with = |name: &str, shape: &[usize], role| Tensor { role, ..Tensor::trainable(name, shape) };
    Manifest::new(vec![
        Tensor::trainable("layer.0/weight:a", &[2, 5]),
        with("head", &[2, 5], Role::Tied("layer.0/weight:a".to_owned())),
        Tensor::trainable("bias", &[3]),
        with("mask", &[4], Role::Frozen),
        Tensor::trainable("scale é", &[]),
    ])
    .unwrap()
}

/// Every block of the model; their bytes depend on `seed`.
pub fn blocks(seed: u64) -> Vec<BlockContents> {
    let model = model();
    all_blocks(&model, BLOCK_ELEMENTS)
        .map(|(block, range)| {
            let elements = (range.end - range.start) as usize;
            let tensor = model.get(block.tensor).unwrap();
            let array = |name: &str, dtype: ArrayDtype, elements: usize| Array {
                name: name.to_owned(),
                dtype,
                data: bytes_of(seed, block, name, elements * dtype.element_bytes() as usize).into(),
            };
            let mut arrays = vec![array("weights", ArrayDtype::F32, elements)];
            if tensor.role == Role::Trainable {
                arrays.push(array("m", ArrayDtype::F32, elements));
                arrays.push(array("v", ArrayDtype::Bf16, elements));
                arrays.push(array("rows", ArrayDtype::F32, if block.index == 0 { 7 } else { 0 }));
            }
            BlockContents { block, tensor: tensor.name.clone(), updates: seed * 10 + u64::from(block.index), arrays }
        })
        .collect()
}

fn bytes_of(seed: u64, block: BlockId, name: &str, length: usize) -> Vec<u8> {
    let of = format!("{seed} {block} {name}");
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(of.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The manifest of a checkpoint whose digests are not filled in.
pub fn manifest(id: CheckpointId) -> CheckpointManifest {
    CheckpointManifest {
        format_version: FORMAT_VERSION,
        id,
        job: job(),
        mode: "sync".to_owned(),
        spec_toml: "steps = 1000\n".to_owned(),
        revisions: vec![SpecRevision { from_step: Step(1), spec_toml: "steps = 500\n".to_owned() }],
        model: model(),
        block_elements: BLOCK_ELEMENTS,
        files: vec![],
        weights_digest: [0; 32],
        state_digest: [0; 32],
        ledger: vec![GroupLedger { group: "all".to_owned(), steps: id.step.0, log_remaining: f64::NEG_INFINITY }],
        schedule: ScheduleState { next_step: id.step.next(), lr: 0.1 + 0.2, decay: 1.0 / 3.0 },
        counters: BTreeMap::from([("undone".to_owned(), 3), ("torn".to_owned(), 0)]),
    }
}

/// Writes the files of a checkpoint of `servers` servers, which take the blocks in turn, and returns
/// the manifest to commit.
pub async fn write(
    checkpoints: &Checkpoints,
    id: CheckpointId,
    servers: u32,
    seed: u64,
) -> Result<CheckpointManifest, Box<dyn std::error::Error>> {
    let mut manifest = manifest(id);
    for server in 0..servers {
        let own = blocks(seed).into_iter().enumerate().filter(|(at, _)| *at as u32 % servers == server);
        let own = own.map(|(_, block)| block).rev().collect();
        manifest.files.push(checkpoints.write_blocks(id, ServerIndex(server), &job(), own).await?);
    }
    let digests = checkpoints.digests(id, &manifest.model, BLOCK_ELEMENTS, &manifest.files).await?;
    (manifest.weights_digest, manifest.state_digest) = (digests.weights, digests.state);
    Ok(manifest)
}

/// Writes and commits.
pub async fn commit(
    checkpoints: &Checkpoints,
    id: CheckpointId,
    servers: u32,
    seed: u64,
) -> Result<CheckpointManifest, Box<dyn std::error::Error>> {
    let manifest = write(checkpoints, id, servers, seed).await?;
    checkpoints.commit(&manifest).await?;
    Ok(manifest)
}

/// Reads all blocks, in block order.
pub async fn read_all(
    checkpoints: &Checkpoints,
    manifest: &CheckpointManifest,
) -> Result<Vec<BlockContents>, halflife_checkpoint::ReadError> {
    let wanted: Vec<_> = all_blocks(&manifest.model, manifest.block_elements).map(|(block, _)| block).collect();
    let mut read = Vec::new();
    checkpoints.read_blocks(manifest, &wanted, &mut |block| read.push(block)).await?;
    read.sort_by_key(|block| block.block);
    Ok(read)
}
