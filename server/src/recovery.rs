//! How a lead begins: with a job of its own, or where the job's last checkpoint left it.
//!
//! The generation is claimed in the store before any message carries it (DESIGN.md rule 8): of two leads that begin at
//! the same time one gets it, and whatever an older one still does is refused everywhere, in the store too. What the older
//! one committed until then may have been told as durable. So the lead looks once more after the claim, and only then does
//! its generation begin; one that was claimed and never began undoes nothing.

use std::path::Path;

use halflife_checkpoint::{
    CheckpointId, CheckpointManifest, Checkpoints, Claim, ClaimError, OpenError, ReadError, Retention, SpecRevision,
};
use halflife_proto::fault_point::{self, FaultPoint};
use halflife_proto::ids::{Generation, Incarnation, JobId, Step};
use halflife_proto::membership::{CheckpointName, CheckpointPlan};
use rand::RngExt as _;
use thiserror::Error;
use tracing::{info, warn};

use crate::config::{CheckpointSection, ConfigError, JobSpec};
use crate::lead::{Keeper, Keeping, Restored, TORN, UNDONE, VOIDED};

/// Why a lead cannot begin.
#[derive(Debug, Error)]
pub enum BeginError {
    /// The location cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is stored cannot be read.
    #[error("the checkpoints at {location}: {source}{hint}")]
    Read {
        /// Where.
        location: String,
        /// What is wrong.
        source: Box<ReadError>,
        /// What a person may do.
        hint: &'static str,
    },
    /// No checkpoint is whole.
    #[error("the checkpoints at {location}: expected at least one that is whole, found {found} damaged")]
    NoneValid {
        /// Where.
        location: String,
        /// How many there are.
        found: usize,
    },
    /// The settings in the store are not a job file.
    #[error("the job at {location}: {source}")]
    StoredSpec {
        /// Where.
        location: String,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// Another job is there.
    #[error(
        "{location} holds {job}, which differs from the job file in what a resumed job cannot change (lr, schedules, \
         the amount of weight decay, job.steps, job.servers, job.init_from, [membership] and [checkpoint] may change): {differences}. \
         Give another checkpoint.location to start another job"
    )]
    OtherJob {
        /// Where.
        location: String,
        /// The job there.
        job: JobId,
        /// Lines that differ.
        differences: String,
    },
    /// The job is shorter than what is trained.
    #[error("job.steps: expected at least {restored}, at which the newest checkpoint is, found {steps}")]
    AlreadyBeyond {
        /// The checkpoint's step.
        restored: u64,
        /// The job file's.
        steps: u64,
    },
    /// Another lead was quicker.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Another lead has taken the job over.
    #[error(
        "the job at {location}: expected {own} to be the newest, which this lead began, found {newest}: another lead has taken over"
    )]
    Superseded {
        /// Where.
        location: String,
        /// This lead's last.
        own: Generation,
        /// The newest claimed.
        newest: Generation,
    },
    /// The lease that entitled this server to lead is over.
    #[error("expected to hold the lease of the election until a generation is claimed, found it over")]
    NotEntitled,
    /// Nothing can be written.
    #[error("the checkpoints at {location}: {reason}")]
    Unwritable {
        /// Where.
        location: String,
        /// Why.
        reason: String,
    },
}

/// What a lead begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The job.
    pub job: JobId,
    /// Incarnation of its state.
    pub generation: Generation,
    /// In a job that keeps checkpoints.
    pub keeper: Option<Keeper>,
}

/// What a beginning depends on besides the store.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// The process that begins.
    pub incarnation: Incarnation,
    /// Take the newest checkpoint that is whole, where the newest is damaged.
    pub latest_valid: bool,
    /// The generation of this process that is over, and the step that was complete at its end.
    pub before: Option<(Generation, Option<Step>)>,
    /// The process was elected to lead: whoever began a newer generation leads no more.
    pub elected: bool,
}

/// Begins a job, or goes on with it. `entitled` is asked right before each claim.
///
/// # Errors
/// [`BeginError`]; nothing but a claim was written, and, where the store failed last, that its generation has begun: either
/// undoes nothing that was told as durable.
pub async fn begin(spec: &JobSpec, begin: Begin, entitled: impl Fn() -> bool) -> Result<Beginning, BeginError> {
    let new_job = || JobId(format!("{}-{:08x}", spec.job.name, begin.incarnation.0 as u32));
    let Some(section) = &spec.checkpoint else {
        return Ok(Beginning { job: new_job(), generation: Generation(1), keeper: None });
    };
    let checkpoints = Checkpoints::open(&section.location, Path::new("."))?;
    let store = Stored { checkpoints: &checkpoints, spec };
    let claims = checkpoints.claims().await.map_err(|error| store.unreadable(error, ""))?;
    let last = claims.last();
    if let Some(claim) = last {
        store.check_same_job(claim)?;
    }
    if let (Some((own, _)), Some(newest)) = (begin.before, last.map(|claim| claim.generation))
        && newest != own
        && !begin.elected
    {
        return Err(BeginError::Superseded { location: checkpoints.location(), own, newest });
    }
    let mut restored = store.choose(begin.latest_valid).await?;
    let mut generation = last.map_or(Generation(1), |claim| claim.generation.next());
    let claim = loop {
        if let Some(manifest) = restored.as_ref().filter(|manifest| manifest.id.step.0 > spec.job.steps) {
            return Err(BeginError::AlreadyBeyond { restored: manifest.id.step.0, steps: spec.job.steps });
        }
        let claim = Claim {
            generation,
            claimant: format!("{:016x}", begin.incarnation.0),
            job: last.map_or_else(new_job, |claim| claim.job.clone()),
            continues: restored.as_ref().map(|manifest| manifest.id),
            spec_toml: spec.to_toml(),
            from_step: restored.as_ref().map_or(Step(1), |manifest| manifest.id.step.next()),
        };
        if !entitled() {
            return Err(BeginError::NotEntitled);
        }
        checkpoints.claim(&claim).await?;
        fault_point::reach(FaultPoint::Claimed);
        // Who takes what is whole has passed over what is newer.
        if begin.latest_valid || store.newest().await? == claim.continues {
            break claim;
        }
        (restored, generation) = (store.choose(false).await?, generation.next());
    };
    let revisions = store.revisions(restored.as_ref(), &claim)?;
    let unwritable = |reason: String| BeginError::Unwritable { location: checkpoints.location(), reason };
    checkpoints.begin_generation(claim.generation).await.map_err(|error| unwritable(error.to_string()))?;
    let generation = claim.generation;
    let nonce = format!("{:016x}", rand::rng().random::<u64>());
    checkpoints.write_nonce(&nonce).await.map_err(|error| unwritable(error.to_string()))?;
    match &claim.continues {
        Some(id) => info!(%id, %generation, "the job goes on from its last checkpoint"),
        None => info!(%generation, location = checkpoints.location(), "the job's checkpoints begin"),
    }
    let keeper =
        keeper(&checkpoints, section, nonce, revisions, restored.as_ref(), begin.before.and_then(|(_, step)| step));
    Ok(Beginning { job: claim.job, generation, keeper: Some(keeper) })
}

fn keeper(
    checkpoints: &Checkpoints,
    section: &CheckpointSection,
    nonce: String,
    revisions: Vec<SpecRevision>,
    restored: Option<&CheckpointManifest>,
    lost_at: Option<Step>,
) -> Keeper {
    let count = |name: &str| restored.and_then(|manifest| manifest.counters.get(name)).copied().unwrap_or(0);
    let restore =
        restored.map(|manifest| CheckpointName { step: manifest.id.step, generation: manifest.id.generation });
    let keeping = Keeping {
        every: section.every,
        plan: CheckpointPlan { nonce, restore },
        restored: restored.map(|manifest| Restored {
            model: manifest.model.clone(),
            voided: count(VOIDED),
            torn: count(TORN),
        }),
    };
    let back_to = restore.map_or(Step::ZERO, |name| name.step);
    let undone = count(UNDONE) + lost_at.map_or(0, |lost_at| lost_at.0.saturating_sub(back_to.0));
    let retention =
        Retention { keep_last: section.keep_last as usize, keep_every: section.keep_every.unwrap_or_default() };
    Keeper::new(checkpoints.clone(), keeping, retention, revisions, restored, undone)
}

/// The store and the job that is to be found in it.
struct Stored<'a> {
    checkpoints: &'a Checkpoints,
    spec: &'a JobSpec,
}

impl Stored<'_> {
    fn unreadable(&self, source: ReadError, hint: &'static str) -> BeginError {
        BeginError::Read { location: self.checkpoints.location(), source: Box::new(source), hint }
    }

    fn parse(&self, spec_toml: &str) -> Result<JobSpec, BeginError> {
        JobSpec::parse("the stored job", spec_toml, &[]).map_err(|source| {
            let location = self.checkpoints.location();
            BeginError::StoredSpec { location, source: Box::new(source) }
        })
    }

    /// The job file changes only what a resumed job may change.
    fn check_same_job(&self, claim: &Claim) -> Result<(), BeginError> {
        let differences = self.parse(&claim.spec_toml)?.differences_for_good(self.spec);
        if !differences.is_empty() {
            let location = self.checkpoints.location();
            return Err(BeginError::OtherJob { location, job: claim.job.clone(), differences });
        }
        Ok(())
    }

    /// The settings that the weights were trained with so far, and from which step on; the job file's too where it trains
    /// otherwise than the last of them. What other generations claimed meanwhile left no trace in the weights.
    fn revisions(&self, restored: Option<&CheckpointManifest>, claim: &Claim) -> Result<Vec<SpecRevision>, BeginError> {
        let mut revisions = restored.map(|manifest| manifest.revisions.clone()).unwrap_or_default();
        // One that was made and never trained by has no trace in them either.
        revisions.retain(|revision| revision.from_step < claim.from_step);
        let changed = match revisions.last() {
            Some(revision) => self.parse(&revision.spec_toml)?.trains_otherwise(self.spec),
            None => true,
        };
        if changed {
            revisions.push(SpecRevision { from_step: claim.from_step, spec_toml: claim.spec_toml.clone() });
        }
        Ok(revisions)
    }

    async fn newest(&self) -> Result<Option<CheckpointId>, BeginError> {
        self.checkpoints.newest().await.map_err(|error| self.unreadable(error, ""))
    }

    /// The checkpoint to go on from: the newest of the surviving history.
    async fn choose(&self, latest_valid: bool) -> Result<Option<CheckpointManifest>, BeginError> {
        let hint = "; --latest-valid goes on from the newest one that is whole";
        let Some(newest) = self.newest().await? else { return Ok(None) };
        if !latest_valid {
            return self.checkpoints.manifest(newest).await.map(Some).map_err(|error| self.unreadable(error, hint));
        }
        let listed = self.checkpoints.list().await.map_err(|error| self.unreadable(error, ""))?;
        let mut candidates: Vec<CheckpointId> =
            listed.iter().filter(|listed| listed.in_history).map(|listed| listed.id).collect();
        candidates.sort_unstable();
        let found = candidates.len();
        while let Some(id) = candidates.pop() {
            match self.checkpoints.verify(id).await {
                Ok(_) => {
                    return self.checkpoints.manifest(id).await.map(Some).map_err(|error| self.unreadable(error, ""));
                }
                Err(error) => warn!(%id, %error, "a damaged checkpoint is passed over"),
            }
        }
        Err(BeginError::NoneValid { location: self.checkpoints.location(), found })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use halflife_checkpoint::{Array, ArrayDtype, BlockContents, FORMAT_VERSION, ScheduleState, WEIGHTS};
    use halflife_proto::blocks::BlockId;
    use halflife_proto::ids::{ServerIndex, TensorIndex};
    use halflife_proto::manifest::{Manifest, Tensor};
    use tempfile::TempDir;

    use super::*;

    fn spec(directory: &TempDir, more: &str) -> JobSpec {
        let text = format!(
            "[job]\nname = \"j\"\nsteps = 100\n[checkpoint]\nlocation = {:?}\nevery = 10\n[optimizer]\nlr = 0.1\n{more}",
            directory.path()
        );
        JobSpec::parse("a job", &text, &[]).unwrap()
    }

    fn store(directory: &TempDir) -> Checkpoints {
        Checkpoints::open(directory.path().to_str().unwrap(), Path::new("/")).unwrap()
    }

    /// Begins as the process `number`.
    async fn begin_as(number: u64, spec: &JobSpec, before: Option<(u64, u64)>) -> Result<Beginning, BeginError> {
        let before = before.map(|(generation, step)| (Generation(generation), Some(Step(step))));
        let begin_of = Begin { incarnation: Incarnation(number), latest_valid: false, before, elected: false };
        begin(spec, begin_of, || true).await
    }

    async fn commit(checkpoints: &Checkpoints, spec: &JobSpec, step: u64, generation: u64) {
        let (id, job) = (CheckpointId { step: Step(step), generation: Generation(generation) }, JobId("j".to_owned()));
        let model = Manifest::new(vec![Tensor::trainable("w", &[2])]).unwrap();
        let block = BlockId { tensor: TensorIndex(0), index: 0 };
        let data = Bytes::from_static(&[0; 8]);
        let arrays = vec![Array { name: WEIGHTS.to_owned(), dtype: ArrayDtype::F32, data }];
        let contents = BlockContents { block, tensor: "w".to_owned(), updates: step, arrays };
        let files = vec![checkpoints.write_blocks(id, ServerIndex(0), &job, vec![contents]).await.unwrap()];
        let digests = checkpoints.digests(id, &model, 4, &files).await.unwrap();
        let manifest = CheckpointManifest {
            format_version: FORMAT_VERSION,
            id,
            job,
            mode: "sync".to_owned(),
            spec_toml: spec.to_toml(),
            revisions: vec![SpecRevision { from_step: Step(1), spec_toml: spec.to_toml() }],
            model,
            block_elements: 4,
            files,
            weights_digest: digests.weights,
            state_digest: digests.state,
            ledger: Vec::new(),
            schedule: ScheduleState { next_step: Step(step + 1), lr: 0.1, decay: 0.0 },
            counters: BTreeMap::new(),
        };
        checkpoints.commit(&manifest).await.unwrap();
    }

    fn restored(beginning: &Beginning) -> Option<u64> {
        beginning.keeper.as_ref().and_then(Keeper::restored).map(|name| name.step.0)
    }

    #[tokio::test]
    async fn each_beginning_is_a_generation_that_goes_on_from_the_newest_checkpoint() {
        let directory = TempDir::new().unwrap();
        let spec = spec(&directory, "");
        let first = begin_as(1, &spec, None).await.unwrap();
        assert_eq!((first.generation, restored(&first)), (Generation(1), None));
        let second = begin_as(2, &spec, None).await.unwrap();
        assert_eq!((second.generation, restored(&second), &second.job), (Generation(2), None, &first.job));
        commit(&store(&directory), &spec, 10, 2).await;
        let third = begin_as(3, &spec, Some((2, 17))).await.unwrap();
        assert_eq!((third.generation, restored(&third)), (Generation(3), Some(10)));
    }

    #[tokio::test]
    async fn a_lead_whose_job_another_has_taken_over_does_not_take_it_back() {
        let directory = TempDir::new().unwrap();
        let spec = spec(&directory, "");
        begin_as(1, &spec, None).await.unwrap();
        begin_as(2, &spec, None).await.unwrap();
        let refused = begin_as(1, &spec, Some((1, 3))).await.unwrap_err();
        assert!(matches!(refused, BeginError::Superseded { newest: Generation(2), .. }), "{refused}");
        assert_eq!(store(&directory).claims().await.unwrap().len(), 2, "nothing is claimed");
        let before = Some((Generation(1), Some(Step(3))));
        let elected = Begin { incarnation: Incarnation(1), latest_valid: false, before, elected: true };
        let third = begin(&spec, elected, || true).await.unwrap();
        assert_eq!(third.generation, Generation(3), "who is elected goes on from whatever others began");
    }

    /// Commits in the middle of what another does.
    fn commit_meanwhile(directory: &TempDir, spec: &JobSpec, step: u64, generation: u64) {
        std::thread::scope(|scope| {
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            scope.spawn(move || runtime().block_on(commit(&store(directory), spec, step, generation)));
        });
    }

    #[tokio::test]
    async fn a_checkpoint_that_came_between_choosing_and_claiming_is_gone_on_from() {
        let directory = TempDir::new().unwrap();
        let spec = spec(&directory, "");
        begin_as(1, &spec, None).await.unwrap();
        let asked = Cell::new(0);
        let meanwhile = || {
            if asked.replace(asked.get() + 1) == 0 {
                commit_meanwhile(&directory, &spec, 10, 1);
            }
            true
        };
        let of_second = Begin { incarnation: Incarnation(2), latest_valid: false, before: None, elected: false };
        let second = begin(&spec, of_second, meanwhile).await.unwrap();
        assert_eq!((second.generation, restored(&second), asked.get()), (Generation(3), Some(10), 2));
    }

    #[tokio::test]
    async fn a_lead_that_dies_between_claiming_and_beginning_undoes_nothing() {
        let directory = TempDir::new().unwrap();
        let spec = spec(&directory, "");
        let first = begin_as(1, &spec, None).await.unwrap();
        let checkpoints = store(&directory);
        commit(&checkpoints, &spec, 20, 1).await;
        let twenty = CheckpointId { step: Step(20), generation: Generation(1) };
        // It had chosen 20 when 30 came.
        commit(&checkpoints, &spec, 30, 1).await;
        let claim = Claim {
            generation: Generation(2),
            claimant: "dies".to_owned(),
            job: first.job,
            continues: Some(twenty),
            spec_toml: spec.to_toml(),
            from_step: Step(21),
        };
        checkpoints.claim(&claim).await.unwrap();
        let third = begin_as(3, &spec, None).await.unwrap();
        assert_eq!((third.generation, restored(&third)), (Generation(3), Some(30)));
    }

    #[tokio::test]
    async fn who_is_not_entitled_any_more_claims_nothing() {
        let directory = TempDir::new().unwrap();
        let spec = spec(&directory, "");
        let late = Begin { incarnation: Incarnation(1), latest_valid: false, before: None, elected: true };
        let refused = begin(&spec, late, || false).await.unwrap_err();
        assert!(matches!(refused, BeginError::NotEntitled), "{refused}");
        assert_eq!(store(&directory).claims().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_change_of_settings_is_on_record_however_often_the_job_goes_back_before_its_next_checkpoint() {
        let directory = TempDir::new().unwrap();
        let first = spec(&directory, "");
        let revisions = |beginning: Beginning| beginning.keeper.unwrap().revisions().to_vec();
        assert_eq!(revisions(begin_as(1, &first, None).await.unwrap()).len(), 1);
        commit(&store(&directory), &first, 10, 1).await;
        let mut second = first.clone();
        second.job.steps = 200;
        assert!(first.trains_otherwise(&second));
        let expected = [(Step(1), first.to_toml()), (Step(11), second.to_toml())];
        for generation in 2..5 {
            let before = (generation > 2).then_some((generation - 1, 15));
            let found = revisions(begin_as(2, &second, before).await.unwrap());
            let found = found.into_iter().map(|revision| (revision.from_step, revision.spec_toml));
            assert!(found.eq(expected.clone()), "generation {generation}");
        }
        let back = revisions(begin_as(3, &first, None).await.unwrap());
        assert_eq!(back.len(), 1, "nobody trained by the other settings: {back:?}");
    }

    #[tokio::test]
    async fn a_job_file_that_does_not_go_with_what_is_stored_is_refused() {
        let directory = TempDir::new().unwrap();
        let stored = spec(&directory, "");
        begin_as(1, &stored, None).await.unwrap();
        let refused = begin_as(2, &spec(&directory, "betas = [0.5, 0.9]"), None).await.unwrap_err().to_string();
        assert!(refused.contains("found {betas = [0.5, 0.9]}"), "{refused}");
        commit(&store(&directory), &stored, 50, 1).await;
        let mut shorter = stored.clone();
        shorter.job.steps = 40;
        let refused = begin_as(3, &shorter, None).await.unwrap_err().to_string();
        assert!(refused.contains("expected at least 50"), "{refused}");
    }
}
