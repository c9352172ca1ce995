//! The first model shown becomes the job's: its blocks are placed, its memory reserved.

use std::collections::BTreeMap;

use halflife_proto::blocks::{BLOCKS_MAX, all_blocks, block_count};
use halflife_proto::ids::ServerIndex;
use halflife_proto::manifest::{Manifest, Role};
use halflife_proto::membership::Order;
use halflife_proto::placement::Placement;
use halflife_proto::refusal::{Refusal, RefusalCause};

use super::modes::changing_servers;
use super::{Effect, Holding, LeadState};
use crate::placement::balance;

impl LeadState {
    /// Shows a model: the first one becomes the job's. Gives the placement once it is in effect.
    ///
    /// # Errors
    /// As [`LeadState::join`].
    pub fn admit_model(&mut self, manifest: Manifest) -> (Result<Placement, Refusal>, Vec<Effect>) {
        // A stopped job's weights can still be read, if it ever had a model.
        if let (Err(refusal), None) = (self.check_not_stopped(), &self.model) {
            return (Err(refusal), Vec::new());
        }
        let present = self.present().count();
        if present < self.servers.len() {
            let message = format!("waiting for servers: {present} of {} are here", self.servers.len());
            return (Err(Refusal::new(RefusalCause::NotReady, message)), Vec::new());
        }
        if self.is_restoring() {
            return (
                Err(Refusal::new(RefusalCause::NotReady, "the servers read the job's last checkpoint")),
                Vec::new(),
            );
        }
        let Some((known, placement)) = &self.model else {
            return match self.place(manifest) {
                Ok(effects) => (Err(Refusal::new(RefusalCause::NotReady, "the servers place their blocks")), effects),
                Err(refusal) => (Err(refusal), Vec::new()),
            };
        };
        let differences = known.differences(&manifest);
        if !differences.is_empty() {
            let message = format!("the worker's model is not the job's: {}", differences.join("; "));
            return (Err(Refusal::new(RefusalCause::ManifestMismatch, message)), Vec::new());
        }
        if !self.all_placed() {
            return (Err(Refusal::new(RefusalCause::NotReady, "the servers place their blocks")), Vec::new());
        }
        (Ok(placement.clone()), Vec::new())
    }

    pub(super) fn place(&mut self, manifest: Manifest) -> Result<Vec<Effect>, Refusal> {
        if !manifest.tensors().iter().any(|tensor| matches!(tensor.role, Role::Trainable)) {
            return Err(Refusal::mismatch(
                RefusalCause::ManifestMismatch,
                "manifest",
                "at least one trainable tensor",
                "none",
            ));
        }
        let blocks: u64 =
            manifest.tensors().iter().map(|tensor| block_count(tensor, self.settings.block_elements)).sum();
        if blocks > BLOCKS_MAX {
            let what =
                format!("model of {} elements in blocks of {}", manifest.elements(), self.settings.block_elements);
            let expected = format!("at most {BLOCKS_MAX} blocks");
            return Err(Refusal::mismatch(RefusalCause::TooLarge, what, expected, format!("{blocks}")));
        }
        if let Some(initial) = &self.settings.initial_tensors {
            check_initial_tensors(initial, &manifest)?;
        }
        let addresses = self.present().map(|server| server.address.clone()).collect();
        let placement = balance(&manifest, 1, self.settings.block_elements, self.settings.whole_tensors, addresses)
            .map_err(|error| Refusal::new(RefusalCause::Malformed, error.to_string()))?;
        self.changing_servers = changing_servers(&manifest, &placement);
        self.holdings = holdings(&manifest, &placement);
        if let Err(refusal) = self.check_memory(1) {
            self.holdings.clear();
            return Err(refusal);
        }
        self.model = Some((manifest.clone(), placement.clone()));
        let checkpoint = self.settings.checkpoints.as_ref().map(|keeping| keeping.plan.clone());
        Ok(self.order_all(&Order::Place { manifest, placement, checkpoint }))
    }

    pub(super) fn check_memory(&self, workers: usize) -> Result<(), Refusal> {
        let demand = &self.settings.demand;
        self.present().zip(&self.holdings).enumerate().try_for_each(|(index, (server, holding))| {
            let name = format!("{} ({})", ServerIndex(index as u32), server.address.url);
            demand.check(&name, server.memory_max, holding.elements, workers as u64)
        })
    }
}

fn holdings(manifest: &Manifest, placement: &Placement) -> Vec<Holding> {
    let mut holdings = vec![Holding::default(); placement.servers().len()];
    for (block, range) in all_blocks(manifest, placement.block_elements()) {
        if let Some(holding) = placement.server_of(block).and_then(|owner| holdings.get_mut(owner.0 as usize)) {
            holding.blocks += 1;
            holding.elements += range.end - range.start;
        }
    }
    holdings
}

fn check_initial_tensors(initial: &BTreeMap<String, Vec<u64>>, manifest: &Manifest) -> Result<(), Refusal> {
    let mut lines = Vec::new();
    for tensor in manifest.tensors().iter().filter(|tensor| !matches!(tensor.role, Role::Tied(_))) {
        match initial.get(&tensor.name) {
            None => lines.push(format!("{:?} is in the model, not in the file", tensor.name)),
            Some(shape) if *shape != tensor.shape => {
                lines.push(format!("{:?}: the model has shape {:?}, the file {shape:?}", tensor.name, tensor.shape));
            }
            Some(_) => {}
        }
    }
    let known = |name: &String| manifest.tensors().iter().any(|tensor| tensor.name == *name);
    lines.extend(
        initial.keys().filter(|name| !known(name)).map(|name| format!("{name:?} is in the file, not in the model")),
    );
    if lines.is_empty() {
        return Ok(());
    }
    let message = format!("job.init_from does not fit the worker's model: {}", lines.join("; "));
    Err(Refusal::new(RefusalCause::ManifestMismatch, message))
}
