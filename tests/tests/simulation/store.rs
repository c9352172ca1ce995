//! The checkpoint store in virtual time: claims, parts and manifests, as whoever reads it finds them.
//!
//! Promises what `halflife_checkpoint` asks of a store: a claim and a manifest are created once and whole or not at all.
//! A part is whole only once its writer was told so; what a crash cuts off is gone, damaged, or there all the same.
//! It knows beside that which checkpoint survives, by a reckoning of its own: the last one that was committed while no
//! later generation had begun, or else the one that the newest generation continued when it began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use halflife_checkpoint::history::History;
use halflife_checkpoint::{CheckpointId, Claim};
use halflife_optim::Plane;
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::SavedFile;
use halflife_server::block::Captured;

use crate::random::{Random, mix};

/// A block as it is stored.
#[derive(Debug)]
pub struct StoredBlock {
    pub block: BlockId,
    pub weights: Bytes,
    pub planes: Vec<(String, Plane)>,
    pub updates: u64,
    pub digest: u64,
}

impl StoredBlock {
    /// What is set aside, its planes by name.
    pub fn new(captured: &Captured, names: &[&str]) -> StoredBlock {
        let planes = names.iter().zip(captured.planes.iter());
        StoredBlock {
            block: captured.block,
            weights: captured.weights.bytes(),
            planes: planes.map(|(name, plane)| ((*name).to_owned(), plane.clone())).collect(),
            updates: captured.updates,
            digest: digest(captured),
        }
    }
}

/// A number that depends on all of a block's state.
pub fn digest(captured: &Captured) -> u64 {
    let bits = |hash: u64, bits: u32| mix(&[hash, u64::from(bits)]);
    let weights = captured.weights.values().iter().map(|value| value.to_bits());
    let hash = weights.fold(captured.updates, bits);
    captured.planes.iter().fold(hash, |hash, plane| plane.to_f32().iter().map(|value| value.to_bits()).fold(hash, bits))
}

/// A server's part of a checkpoint.
#[derive(Clone, Debug)]
pub struct Part {
    pub file: SavedFile,
    pub blocks: Arc<Vec<StoredBlock>>,
    pub is_whole: bool,
}

impl Part {
    /// One that is whole.
    pub fn new(blocks: Vec<StoredBlock>) -> Part {
        let mut file = SavedFile { bytes: 0, header_bytes: 0, header_blake3: [0; 32], index_blake3: [0; 32] };
        file.bytes = blocks.iter().map(|block| block.weights.len() as u64).sum();
        let digest = blocks.iter().fold(0, |hash, block| mix(&[hash, block.digest]));
        file.index_blake3[..8].copy_from_slice(&digest.to_le_bytes());
        Part { file, blocks: Arc::new(blocks), is_whole: true }
    }
}

/// What a manifest says.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    pub model: Manifest,
    pub files: Vec<(ServerIndex, SavedFile)>,
    pub voided: u64,
    pub torn: u64,
}

/// What lies under the name of a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub parts: BTreeMap<ServerIndex, Part>,
    pub manifest: Option<StoredManifest>,
}

/// The store.
#[derive(Debug, Default)]
pub struct Store {
    pub claims: Vec<Claim>,
    begun: BTreeSet<Generation>,
    pub kept: BTreeMap<CheckpointId, Kept>,
    pub slow_until: u64,
    pub full_until: u64,
    surviving: Option<CheckpointId>,
}

impl Store {
    /// How long it takes to do something.
    pub fn latency_us(&self, now: u64, random: &mut Random) -> u64 {
        let slower = if now < self.slow_until { 40 } else { 1 };
        slower * random.between(300, 12_000)
    }

    /// Whether it takes nothing more just now.
    pub fn is_full(&self, now: u64) -> bool {
        now < self.full_until
    }

    /// Those with a manifest.
    pub fn committed(&self) -> BTreeSet<CheckpointId> {
        self.kept.iter().filter(|(_, kept)| kept.manifest.is_some()).map(|(id, _)| *id).collect()
    }

    /// The newest generation claimed.
    pub fn newest_generation(&self) -> Option<Generation> {
        self.claims.iter().map(|claim| claim.generation).max()
    }

    /// What a lead that begins continues, as the product decides it.
    pub fn newest(&self) -> Option<CheckpointId> {
        self.history().newest(&self.committed().into_iter().collect::<Vec<_>>())
    }

    /// What the claims tell.
    pub fn history(&self) -> History {
        let committed = self.committed();
        let has_committed = |generation| committed.iter().any(|id| id.generation == generation);
        History::new(&self.claims, |generation| self.begun.contains(&generation) || has_committed(generation))
    }

    /// What it has to continue.
    pub fn surviving(&self) -> Option<CheckpointId> {
        self.surviving
    }

    /// Makes a claim, unless the generation is taken; whether it did.
    pub fn claim(&mut self, claim: Claim) -> bool {
        if self.claims.iter().any(|known| known.generation == claim.generation) {
            return false;
        }
        self.claims.push(claim);
        true
    }

    /// A claimed generation begins.
    pub fn begin(&mut self, claim: &Claim) {
        if !self.is_over(claim.generation) {
            self.surviving = claim.continues;
        }
        self.begun.insert(claim.generation);
    }

    /// Whether a later generation has begun.
    fn is_over(&self, generation: Generation) -> bool {
        self.begun.last().is_some_and(|begun| *begun > generation)
    }

    /// A part is there from now on.
    pub fn put(&mut self, id: CheckpointId, server: ServerIndex, part: Part) {
        self.kept.entry(id).or_default().parts.insert(server, part);
    }

    /// What is wrong with the parts that a manifest names, if anything.
    pub fn why_not_whole(
        &self,
        id: CheckpointId,
        files: &[(ServerIndex, SavedFile)],
        servers: usize,
    ) -> Option<String> {
        if files.len() != servers {
            return Some(format!("{id} has the parts of {} of {servers} servers", files.len()));
        }
        let parts = self.kept.get(&id).map(|kept| &kept.parts);
        files.iter().find_map(|(server, file)| match parts.and_then(|parts| parts.get(server)) {
            Some(part) if part.is_whole && part.file == *file => None,
            Some(part) => Some(format!("the part of {server} of {id} is whole: {}, or another", part.is_whole)),
            None => Some(format!("the part of {server} of {id} is not there")),
        })
    }

    /// Commits; whether a later generation was claimed by then.
    pub fn commit(&mut self, id: CheckpointId, manifest: StoredManifest) -> bool {
        self.kept.entry(id).or_default().manifest = Some(manifest);
        let is_late = self.newest_generation() > Some(id.generation);
        if !self.is_over(id.generation) {
            self.surviving = self.surviving.filter(|known| known.generation == id.generation).max(Some(id));
        }
        is_late
    }

    /// What is wrong with the checkpoint that has to survive, if anything.
    pub fn why_lost(&self, servers: usize) -> Option<String> {
        let id = self.surviving?;
        match self.kept.get(&id).and_then(|kept| kept.manifest.as_ref()) {
            Some(manifest) => self.why_not_whole(id, &manifest.files, servers),
            None => Some(format!("{id} is not there, which the next lead continues")),
        }
    }

    /// A block of a committed checkpoint.
    pub fn block(&self, id: CheckpointId, block: BlockId) -> Option<&StoredBlock> {
        let kept = self.kept.get(&id).filter(|kept| kept.manifest.is_some())?;
        let parts = kept.parts.values().filter(|part| part.is_whole);
        parts.flat_map(|part| part.blocks.iter()).find(|stored| stored.block == block)
    }
}

/// The name of a checkpoint.
pub fn id_of(step: Step, generation: Generation) -> CheckpointId {
    CheckpointId { step, generation }
}
