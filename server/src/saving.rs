//! A server's blocks into its checkpoint store and back: the edge between the shard and `halflife-checkpoint`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use halflife_checkpoint::store::StoreError;
use halflife_checkpoint::{
    Array, ArrayDtype, BlockContents, CheckpointId, Checkpoints, GivenUp, NonceError, ReadError, RoomError, WEIGHTS,
    WriteError,
};
use halflife_optim::{Plane, PlaneSpec};
use halflife_proto::fault_point::{self, FaultPoint};
use halflife_proto::ids::{JobId, ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::{CheckpointName, CheckpointPlan, SavedFile};
use halflife_proto::refusal::{Refusal, RefusalCause};
use thiserror::Error;

use crate::block::{Captured, Planes};
use crate::shard::{Shard, TakenCut};

/// Attempts to read from a store that fails, and the first pause between them, which doubles: 6.2 s in all.
const READ_ATTEMPTS: u32 = 6;
const READ_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 200 });

/// Why a server's part of a checkpoint was not written.
#[derive(Debug, Error)]
pub(crate) enum SaveError {
    /// The store has no room.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a server does not hold its blocks as the checkpoint has them.
#[derive(Debug, Error)]
pub(crate) enum RestoreError {
    /// Damage, or another store than the lead's: it stays, however often somebody looks.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed at every attempt. It may be well another time.
    #[error(
        "the checkpoints at {location}: {READ_ATTEMPTS} attempts to read failed, the last one with: {source}; if that stays so, \
             --latest-valid goes on from the newest checkpoint that is whole"
    )]
    Store {
        /// Where.
        location: String,
        /// The last reason.
        source: StoreError,
    },
}

/// Names a checkpoint as the store does.
pub(crate) fn id_of(name: CheckpointName) -> CheckpointId {
    CheckpointId { step: name.step, generation: name.generation }
}

/// Writes a cut, unless it is given up. Each block's memory is let go of as soon as it is written.
pub(crate) async fn save(
    checkpoints: &Checkpoints,
    given_up: &GivenUp,
    name: CheckpointName,
    server: ServerIndex,
    job: &JobId,
    shard: &Shard,
    cut: TakenCut,
) -> Result<SavedFile, SaveError> {
    let specs = shard.plane_specs();
    let contents: Vec<BlockContents> =
        cut.blocks.into_iter().map(|captured| contents_of(captured, shard.manifest(), specs)).collect();
    checkpoints.check_room(contents.iter().map(BlockContents::bytes).sum()).await?;
    let record = checkpoints.write_blocks_unless(given_up, id_of(name), server, job, contents).await?;
    Ok(SavedFile {
        bytes: record.bytes,
        header_bytes: record.header_bytes,
        header_blake3: record.header_blake3,
        index_blake3: record.index_blake3,
    })
}

fn contents_of(captured: Captured, manifest: &Manifest, specs: &[PlaneSpec]) -> BlockContents {
    let Captured { block, weights, planes, updates } = captured;
    let tensor = manifest.get(block.tensor).map_or_else(String::new, |tensor| tensor.name.clone());
    let weights = Array { name: WEIGHTS.to_owned(), dtype: ArrayDtype::F32, data: weights.bytes() };
    let plane = |(index, spec): (usize, &PlaneSpec)| {
        let dtype = match &planes[index] {
            Plane::F32(_) => ArrayDtype::F32,
            Plane::Bf16(_) => ArrayDtype::Bf16,
        };
        let data = Bytes::from_owner(PlaneBytes { planes: planes.clone(), index });
        Array { name: spec.name.to_owned(), dtype, data }
    };
    // Blocks that the optimizer does not move have no planes.
    let stored = specs.iter().take(planes.len()).enumerate().map(plane);
    BlockContents { block, tensor, updates, arrays: std::iter::once(weights).chain(stored).collect() }
}

/// One plane's bytes as they lie in memory, for as long as somebody reads them.
struct PlaneBytes {
    planes: Planes,
    index: usize,
}

impl AsRef<[u8]> for PlaneBytes {
    fn as_ref(&self) -> &[u8] {
        match &self.planes[self.index] {
            Plane::F32(values) => bytemuck::cast_slice(values),
            Plane::Bf16(bits) => bytemuck::cast_slice(bits),
        }
    }
}

/// How often a store that fails is asked again.
struct Attempts {
    left: u32,
    pause: Duration,
}

impl Attempts {
    fn new() -> Attempts {
        Attempts { left: READ_ATTEMPTS, pause: READ_PAUSE }
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// That it was the last one.
    async fn after(&mut self, checkpoints: &Checkpoints, error: StoreError) -> Result<(), RestoreError> {
        self.left -= 1;
        if self.left == 0 {
            return Err(RestoreError::Store { location: checkpoints.location(), source: error });
        }
        tracing::warn!(%error, "cannot read from the checkpoint store; trying again");
        tokio::time::sleep(self.pause).await;
        self.pause *= 2;
        Ok(())
    }
}

/// Puts a shard's blocks back as the checkpoint has them, every digest verified.
///
/// # Errors
/// [`RestoreError`]; a refusal names the block, or the file, that is not right.
pub(crate) async fn restore(
    checkpoints: &Checkpoints,
    name: CheckpointName,
    shard: &Arc<Shard>,
) -> Result<(), RestoreError> {
    let mut attempts = Attempts::new();
    loop {
        match read(checkpoints, name, shard).await {
            Ok(()) => break,
            Err(Unreadable::Store(error)) => match attempts.after(checkpoints, error).await {
                // Looked for so long, it is not late but gone.
                Err(RestoreError::Store { source: error @ StoreError::NotFound { .. }, .. }) => {
                    return Err(damaged(name, &error.to_string()).into());
                }
                again => again?,
            },
            Err(Unreadable::Damaged(message)) => return Err(damaged(name, &message).into()),
            Err(Unreadable::Refused(refusal)) => return Err(refusal.into()),
        }
    }
    shard.restored(name.step);
    Ok(())
}

fn damaged(name: CheckpointName, why: &str) -> Refusal {
    let hint = "a lead started with --latest-valid passes over it";
    Refusal::new(RefusalCause::Malformed, format!("checkpoint {} cannot be restored: {why}; {hint}", id_of(name)))
}

enum Unreadable {
    Store(StoreError),
    Damaged(String),
    Refused(Refusal),
}

impl From<ReadError> for Unreadable {
    fn from(error: ReadError) -> Unreadable {
        match error {
            ReadError::Store(error) => Unreadable::Store(error),
            damage => Unreadable::Damaged(damage.to_string()),
        }
    }
}

async fn read(checkpoints: &Checkpoints, name: CheckpointName, shard: &Arc<Shard>) -> Result<(), Unreadable> {
    let manifest = checkpoints.manifest(id_of(name)).await?;
    let differences = shard.manifest().differences(&manifest.model);
    if !differences.is_empty() {
        return Err(Unreadable::Damaged(format!("its model is not the job's: {}", differences.join("; "))));
    }
    let mut refusal = None;
    let mut each = |contents: BlockContents| {
        if refusal.is_none() {
            refusal = restore_block(shard, name.step, contents).err();
            fault_point::reach(FaultPoint::BlockRestored);
        }
    };
    checkpoints.read_blocks(&manifest, &shard.block_ids(), &mut each).await?;
    refusal.map_or(Ok(()), |refusal| Err(Unreadable::Refused(refusal)))
}

fn restore_block(shard: &Shard, step: Step, contents: BlockContents) -> Result<(), Refusal> {
    let BlockContents { block, updates, arrays, .. } = contents;
    let mut weights = Bytes::new();
    let mut planes = Vec::with_capacity(arrays.len());
    for Array { name, dtype, data } in arrays {
        match (name.as_str(), dtype) {
            (WEIGHTS, _) => weights = data,
            (_, ArrayDtype::F32) => planes.push((name, Plane::F32(values_of(&data)))),
            (_, ArrayDtype::Bf16) => planes.push((name, Plane::Bf16(values_of(&data)))),
        }
    }
    shard.restore_block(block, step, &weights, planes, updates)
}

/// Values as they were in memory; the reader has checked that they are whole.
fn values_of<T: bytemuck::Pod>(data: &[u8]) -> Vec<T> {
    let mut values = vec![T::zeroed(); data.len() / size_of::<T>()];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
    bytes.copy_from_slice(&data[..bytes.len()]);
    values
}

/// Makes sure that this server's store is the one the lead writes to. A nonce that is not there is not waited for: the lead
/// had written it before it told of it.
///
/// # Errors
/// [`RestoreError`]; a refusal says where this server looked.
pub(crate) async fn check_shared(checkpoints: &Checkpoints, plan: &CheckpointPlan) -> Result<(), RestoreError> {
    let mut attempts = Attempts::new();
    loop {
        match checkpoints.read_nonce(&plan.nonce).await {
            Ok(()) => return Ok(()),
            Err(NonceError::Store(error)) => attempts.after(checkpoints, error).await?,
            Err(error @ (NonceError::NotShared { .. } | NonceError::Name { .. })) => {
                let message = format!(
                    "{} is not the lead's checkpoint store: every server must see the same directory or bucket: {error}",
                    checkpoints.location()
                );
                return Err(Refusal::new(RefusalCause::Malformed, message).into());
            }
        }
    }
}
