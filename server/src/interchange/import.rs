//! A job that begins with weights and moments of another program: the first checkpoint of its store.
//!
//! Promises: everything is read and checked before anything is written; a store that holds a job is left as it is. The
//! ledger counts the steps before the import as if the job's settings had held in them: what did is not known.

mod checks;
mod error;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use halflife_checkpoint::{
    Array, ArrayDtype, BlockContents, CheckpointId, CheckpointManifest, Checkpoints, Claim, FORMAT_VERSION,
    GroupLedger, SpecRevision, WEIGHTS,
};
use halflife_optim::{Optimizer, Plane};
use halflife_proto::blocks::{BLOCKS_MAX, all_blocks, block_count};
use halflife_proto::ids::{Generation, JobId, ServerIndex, Step};
use halflife_proto::manifest::{Manifest, Role, Tensor};
use rand::RngExt as _;

use super::tensor_state::{StateReader, TensorState};
use super::torch_mapping::TorchMapping;
use super::{InterchangeError, OPTIMIZER_KEY, TensorFile, model_record, param_group};
use crate::block::initial_planes;
use crate::config::JobSpec;
use crate::lead::{NO_GROUP, TORN, UNDONE, VOIDED, schedule};

pub use error::ImportError;

/// The generation of an import.
const GENERATION: Generation = Generation(1);

/// What to import.
#[derive(Clone, Debug)]
pub struct Import<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// The step it goes on from.
    pub step: Step,
    /// The weights file.
    pub weights: PathBuf,
    /// The state file; without one the moments begin at zero.
    pub state: Option<PathBuf>,
}

/// What was read and found right.
#[derive(Debug)]
pub struct Prepared {
    model: Manifest,
    blocks: Vec<BlockContents>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Prepared {
    /// The model.
    #[must_use]
    pub fn model(&self) -> &Manifest {
        &self.model
    }
}

impl Import<'_> {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`ImportError`] names the file and the tensor.
    pub fn prepare(&self) -> Result<Prepared, ImportError> {
        let (step, steps) = (self.step.0, self.spec.job.steps);
        if step > steps {
            return Err(ImportError::Beyond { step, steps });
        }
        let optimizer = Optimizer::new(&self.spec.optimizer, steps)?;
        let path = self.weights.display().to_string();
        let weights = TensorFile::read(&self.weights)?;
        let model = model_record::model(&path, &weights)?;
        self.check_model(&path, &model)?;
        checks::weights(&path, &model, &weights)?;
        let (states, notes) = match &self.state {
            Some(state) => self.states(state, &model, &optimizer)?,
            None => (BTreeMap::new(), vec!["no --torch-state: the optimizer's state begins at zero".to_owned()]),
        };
        let mut blocks = Vec::new();
        for (block, range) in all_blocks(&model, self.spec.job.block_elements) {
            let Some(tensor) = model.get(block.tensor) else { continue };
            let bytes = 4 * range.start as usize..4 * range.end as usize;
            let data = weights.tensors[&tensor.name].data.slice(bytes);
            let mut arrays = vec![Array { name: WEIGHTS.to_owned(), dtype: ArrayDtype::F32, data }];
            let elements = range.start as usize..range.end as usize;
            let state = states.get(&tensor.name);
            if tensor.role == Role::Trainable {
                let planes = match state {
                    Some(state) => state.planes.iter().map(|plane| part(plane, elements.clone())).collect(),
                    None => initial_planes(&optimizer, block, elements.len(), &dims(tensor)).to_vec(),
                };
                let named = optimizer.planes().iter().zip(&planes);
                arrays.extend(named.map(|(spec, plane)| array(spec.name, plane)));
            }
            let updates = state.map_or(0, |state| state.updates);
            blocks.push(BlockContents { block, tensor: tensor.name.clone(), updates, arrays });
        }
        Ok(Prepared { model, blocks, notes })
    }

    fn check_model(&self, path: &str, model: &Manifest) -> Result<(), ImportError> {
        let unfit = |expected: String, found: String| ImportError::Unfit { path: path.to_owned(), expected, found };
        if !model.tensors().iter().any(|tensor| tensor.role == Role::Trainable) {
            return Err(unfit("at least one trainable tensor".to_owned(), "none".to_owned()));
        }
        let size = self.spec.job.block_elements;
        let blocks: u64 = model.tensors().iter().map(|tensor| block_count(tensor, size)).sum();
        if blocks > BLOCKS_MAX {
            return Err(unfit(format!("at most {BLOCKS_MAX} blocks"), format!("{blocks} of {size} elements")));
        }
        Ok(())
    }

    /// Every trainable tensor's state, and what changes for them.
    fn states(
        &self,
        state: &Path,
        model: &Manifest,
        optimizer: &Optimizer,
    ) -> Result<(BTreeMap<String, TensorState>, Vec<String>), InterchangeError> {
        let mapping = TorchMapping::of(&self.spec.optimizer)?;
        let path = state.display().to_string();
        let file = TensorFile::read(state)?;
        let class = file.metadata.get(OPTIMIZER_KEY).map_or("none", String::as_str);
        if !mapping.accepts(class) {
            let (expected, found) = (mapping.kind.to_string(), class.to_owned());
            return Err(InterchangeError::Optimizer { path, expected, found });
        }
        let groups = param_group::read(&path, &file, &mapping)?;
        checks::grouped(&path, model, &groups)?;
        let mut reader = StateReader::new(&path, &file, &mapping, self.step);
        let mut states = BTreeMap::new();
        for tensor in model.tensors().iter().filter(|tensor| tensor.role == Role::Trainable) {
            states.insert(tensor.name.clone(), reader.read(tensor, optimizer.planes())?);
        }
        reader.finish()?;
        let own = param_group::of_job(&mapping, optimizer, model, self.step.next());
        Ok((states, param_group::changes(&groups, &own)))
    }

    /// Writes the store's first checkpoint, so that a job begun with the same file goes on from it.
    ///
    /// # Errors
    /// [`ImportError`]; nothing was written to a store that holds a job.
    pub async fn write(&self, checkpoints: &Checkpoints, prepared: Prepared) -> Result<CheckpointId, ImportError> {
        check_free(checkpoints).await?;
        let Prepared { model, blocks, .. } = prepared;
        checkpoints.check_room(blocks.iter().map(BlockContents::bytes).sum()).await?;
        let id = CheckpointId { step: self.step, generation: GENERATION };
        let claimant = format!("import-{:016x}", rand::rng().random::<u64>());
        let job = JobId(format!("{}-{:08x}", self.spec.job.name, rand::rng().random::<u32>()));
        let (spec_toml, from_step) = (self.spec.to_toml(), self.step.next());
        let claim = Claim { generation: GENERATION, claimant, job, continues: None, spec_toml, from_step };
        checkpoints.claim(&claim).await?;
        let files = vec![checkpoints.write_blocks(id, ServerIndex(0), &claim.job, blocks).await?];
        let block_elements = self.spec.job.block_elements;
        let digests = checkpoints.digests(id, &model, block_elements, &files).await?;
        let optimizer = Optimizer::new(&self.spec.optimizer, self.spec.job.steps)?;
        let manifest = CheckpointManifest {
            format_version: FORMAT_VERSION,
            id,
            job: claim.job,
            mode: self.spec.job.mode.name().to_owned(),
            spec_toml: claim.spec_toml.clone(),
            revisions: vec![SpecRevision { from_step, spec_toml: claim.spec_toml }],
            model,
            block_elements,
            files,
            weights_digest: digests.weights,
            state_digest: digests.state,
            ledger: ledger(&optimizer, self.step),
            schedule: schedule(&optimizer, self.step),
            counters: self.counters(),
        };
        checkpoints.commit(&manifest).await?;
        Ok(id)
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let of_tickets = if self.spec.job.mode.has_tickets() { &[VOIDED, TORN][..] } else { &[] };
        std::iter::once(UNDONE).chain(of_tickets.iter().copied()).map(|name| (name.to_owned(), 0)).collect()
    }
}

/// Nothing of any job is there.
async fn check_free(checkpoints: &Checkpoints) -> Result<(), ImportError> {
    let claims = checkpoints.claims().await?;
    let listed = checkpoints.list().await?;
    let found = match (claims.last(), listed.last()) {
        (Some(claim), _) => format!("{} of {}", claim.job, claim.generation),
        (None, Some(listed)) => format!("checkpoint {}", listed.id),
        (None, None) => return Ok(()),
    };
    Err(ImportError::Occupied { location: checkpoints.location(), found })
}

fn dims(tensor: &Tensor) -> Vec<usize> {
    tensor.shape.iter().map(|dim| *dim as usize).collect()
}

fn part(plane: &Plane, range: std::ops::Range<usize>) -> Plane {
    match plane {
        Plane::F32(values) => Plane::F32(values[range].to_vec()),
        Plane::Bf16(bits) => Plane::Bf16(bits[range].to_vec()),
    }
}

fn array(name: &str, plane: &Plane) -> Array {
    let dtype = match plane {
        Plane::F32(_) => ArrayDtype::F32,
        Plane::Bf16(_) => ArrayDtype::Bf16,
    };
    Array { name: name.to_owned(), dtype, data: Bytes::from(plane.bytes()) }
}

fn ledger(optimizer: &Optimizer, step: Step) -> Vec<GroupLedger> {
    let of_group = |rule: &halflife_optim::TensorRule| {
        let total = optimizer.ledger(rule, step.0);
        let group = rule.group().unwrap_or(NO_GROUP).to_owned();
        GroupLedger { group, steps: total.steps, log_remaining: total.log_remaining }
    };
    optimizer.group_rules().iter().map(of_group).collect()
}
