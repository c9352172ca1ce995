//! What the lead writes of a checkpoint: the manifest, last; and what it throws away. When, decides `cuts.rs`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use halflife_checkpoint::{
    CheckpointId, CheckpointManifest, Checkpoints, CommitError, FORMAT_VERSION, FileRecord, GroupLedger, Retention,
    ScheduleState, SpecRevision,
};
use halflife_optim::{DecayLedger, Optimizer, TensorRule};
use halflife_proto::fault_point::{self, FaultPoint};
use halflife_proto::ids::{Generation, ServerIndex, Step};
use halflife_proto::membership::{CheckpointName, SavedFile};
use tracing::{info, warn};

use super::Lead;
use super::state::{Keeping, Written};

/// Names of the manifest's counters: tickets that were void and torn, and steps that restores have undone.
pub const VOIDED: &str = "voided_tickets";
/// See [`VOIDED`].
pub const TORN: &str = "torn_pushes";
/// See [`VOIDED`].
pub const UNDONE: &str = "undone_steps";

/// Group that stands for the tensors of none, in the ledger.
pub(crate) const NO_GROUP: &str = "";

/// Why a checkpoint is none.
#[derive(Clone, Debug)]
pub(super) enum NotCommitted {
    /// Another lead has begun this later generation: this one's is over.
    Fenced(Generation),
    /// Something else; the next may succeed.
    Failed(String),
}

/// The lead's hand on the checkpoint store.
#[derive(Debug)]
pub struct Keeper {
    checkpoints: Checkpoints,
    keeping: Keeping,
    retention: Retention,
    revisions: Vec<SpecRevision>,
    undone: u64,
    /// Each group's decay up to the newest checkpoint.
    ledger: Mutex<BTreeMap<String, DecayLedger>>,
}

impl Keeper {
    /// Goes on with what `restored` says, a manifest of the same job.
    #[must_use]
    pub fn new(
        checkpoints: Checkpoints,
        keeping: Keeping,
        retention: Retention,
        revisions: Vec<SpecRevision>,
        restored: Option<&CheckpointManifest>,
        undone: u64,
    ) -> Keeper {
        let ledger = restored.into_iter().flat_map(|manifest| &manifest.ledger).map(|group| {
            let GroupLedger { group, steps, log_remaining } = group;
            (group.clone(), DecayLedger { steps: *steps, log_remaining: *log_remaining })
        });
        let ledger = Mutex::new(ledger.collect());
        Keeper { checkpoints, keeping, retention, revisions, undone, ledger }
    }

    /// What decides about cuts.
    #[must_use]
    pub fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// The checkpoint that this generation began with.
    #[must_use]
    pub fn restored(&self) -> Option<CheckpointName> {
        self.keeping.plan.restore
    }

    /// The job's settings so far, and the step from which each is in force.
    #[must_use]
    pub fn revisions(&self) -> &[SpecRevision] {
        &self.revisions
    }

    /// Times the job's settings were changed.
    #[must_use]
    pub fn spec_revision(&self) -> u64 {
        (self.revisions.len() as u64).saturating_sub(1)
    }

    /// Commits the checkpoint whose parts the servers have written.
    ///
    /// # Errors
    /// [`NotCommitted`], with what a person should know.
    pub(super) async fn commit(&self, lead: &Lead, written: &Written) -> Result<(), NotCommitted> {
        let Written { step, ref files, tickets } = *written;
        let id = CheckpointId { step, generation: lead.identity().generation };
        let (model, placement) = lead
            .read(|state| state.model().cloned())
            .ok_or_else(|| NotCommitted::Failed("the job has no model".to_owned()))?;
        let files: Vec<FileRecord> = files.iter().map(|(server, file)| record(*server, *file)).collect();
        let digests = self.checkpoints.digests(id, &model, placement.block_elements(), &files).await;
        let digests = digests.map_err(|error| NotCommitted::Failed(error.to_string()))?;
        let manifest = CheckpointManifest {
            format_version: FORMAT_VERSION,
            id,
            job: lead.identity().job.clone(),
            mode: lead.spec().job.mode.name().to_owned(),
            spec_toml: lead.spec().to_toml(),
            revisions: self.revisions.clone(),
            model,
            block_elements: placement.block_elements(),
            files,
            weights_digest: digests.weights,
            state_digest: digests.state,
            ledger: self.ledger_at(&lead.optimizer, step),
            schedule: schedule(&lead.optimizer, step),
            counters: self.counters(tickets),
        };
        fault_point::reach(FaultPoint::BeforeManifest);
        self.checkpoints.commit(&manifest).await.map_err(|error| match error {
            CommitError::Fenced { newest, .. } => NotCommitted::Fenced(newest),
            error => NotCommitted::Failed(error.to_string()),
        })?;
        fault_point::reach(FaultPoint::AfterManifest);
        info!(%id, "a checkpoint is committed");
        Ok(())
    }

    /// Throws away what retention does not keep, and what no checkpoint needs.
    pub(super) async fn prune(&self) {
        // Every server has read it, or it would have no part in a checkpoint.
        if let Err(error) = self.checkpoints.delete_nonce(&self.keeping.plan.nonce).await {
            warn!(%error, "the proof of a shared store cannot be removed; it stays");
        }
        match self.checkpoints.prune(self.retention).await {
            Ok(pruned) if pruned.checkpoints.is_empty() && pruned.orphans.is_empty() => {}
            Ok(pruned) => info!(
                checkpoints = pruned.checkpoints.len(),
                orphans = pruned.orphans.len(),
                bytes = pruned.bytes,
                "old checkpoints are removed"
            ),
            Err(error) => warn!(%error, "old checkpoints cannot be removed; they stay"),
        }
    }

    fn counters(&self, tickets: Option<(u64, u64)>) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::from([(UNDONE.to_owned(), self.undone)]);
        if let Some((void, torn)) = tickets {
            counters.insert(VOIDED.to_owned(), void);
            counters.insert(TORN.to_owned(), torn);
        }
        counters
    }

    /// Each group's decay over the steps so far: recorded once, so that a later change of settings changes nothing of it.
    fn ledger_at(&self, optimizer: &Optimizer, step: Step) -> Vec<GroupLedger> {
        // Adding to totals does not panic half-way.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let of_group = |rule: &TensorRule| {
            let group = rule.group().unwrap_or(NO_GROUP).to_owned();
            let total = ledger.entry(group.clone()).or_default();
            optimizer.extend_ledger(rule, total, step.0);
            GroupLedger { group, steps: total.steps, log_remaining: total.log_remaining }
        };
        optimizer.group_rules().iter().map(of_group).collect()
    }
}

fn record(server: ServerIndex, file: SavedFile) -> FileRecord {
    let SavedFile { bytes, header_bytes, header_blake3, index_blake3 } = file;
    FileRecord { server, bytes, header_bytes, header_blake3, index_blake3 }
}

/// Where the schedules stand after `step`, for the manifest.
pub(crate) fn schedule(optimizer: &Optimizer, step: Step) -> ScheduleState {
    let next_step = step.next();
    let ungrouped = optimizer.group_rules().swap_remove(0);
    let factors = optimizer.factors(&ungrouped, next_step.0, next_step.0);
    ScheduleState { next_step, lr: factors.lr(), decay: factors.decay() }
}
