//! Who reads of a shard: sessions that follow it, and calls that pull blocks of one step.
//!
//! Changes nothing but the list of sessions.

use std::sync::Arc;

use halflife_proto::PULL_BYTES_MAX;
use halflife_proto::blocks::BlockId;
use halflife_proto::contribution::BlockWeights;
use halflife_proto::ids::{Incarnation, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::tensor_codec::Dtype;

use super::{Shard, standing_step};
use crate::block::{Block, Version};
use crate::outbox::Outbox;
use crate::planted::{Bug, planted};
use crate::registry::SessionId;

impl Shard {
    /// Opens a session that begins with the weights of `from_step` (`None`: the newest step
    /// complete here; in the asynchronous modes each block's newest version, whatever was asked for) and
    /// then gets every newer version. It takes the place of an earlier one of the same `peer`.
    ///
    /// # Errors
    /// `STEP_GONE` when the weights of that step are not kept any more, `OUT_OF_MEMORY` when others have too many open.
    pub fn open_session(
        &self,
        peer: Incarnation,
        from_step: Option<Step>,
        outbox: &Arc<Outbox>,
    ) -> Result<SessionId, Refusal> {
        // First in the list, then the baseline: a version that appears in between comes twice
        // rather than never.
        let id = self.sessions.open(peer, outbox.clone())?;
        if let Err(refusal) = self.send_baseline(from_step, outbox) {
            self.sessions.close(id);
            return Err(refusal);
        }
        self.sessions.replace_earlier(id, peer);
        Ok(id)
    }

    fn send_baseline(&self, from_step: Option<Step>, outbox: &Outbox) -> Result<(), Refusal> {
        if self.rules.has_tickets() {
            for block in self.blocks.all() {
                if let Some(version) = block.current() {
                    outbox.send_baseline(block.id(), version);
                }
            }
            return Ok(());
        }
        // In the middle of the initialization there is no complete step, but blocks that have weights.
        let step = from_step.or(self.complete()).unwrap_or(Step::ZERO);
        for block in self.blocks.all() {
            let Some(version) = block.at(step) else {
                if block.current().is_none_or(|current| current.step < step) {
                    continue; // not there yet: it will come
                }
                return Err(step_gone(&block, step));
            };
            let stale = planted(Bug::StaleBaseline).then(|| block.current()).flatten();
            outbox.send_baseline(block.id(), stale.map_or(version, |newest| newest.carried_to(step)));
            if let Some(newer) = block.current().filter(|current| block.changes() && current.step > step) {
                outbox.send_weights(block.id(), &newer);
            }
        }
        Ok(())
    }

    /// Ends the sessions of peers that read nothing. To be called once a second.
    pub fn look_after_sessions(&self) {
        self.sessions.look_after();
    }

    /// Forgets a session.
    pub fn close_session(&self, id: SessionId) {
        self.sessions.close(id);
    }

    /// The weights of named blocks, or one of their planes, all of one step (`None`: the newest
    /// step complete here). Always the f32 masters, whatever the wire carries to workers.
    ///
    /// # Errors
    /// `NOT_INITIALIZED`, `STEP_GONE`, `STEP_AHEAD`, `TOO_LARGE`, or a block or plane that is not here.
    pub fn pull(
        &self,
        ids: &[BlockId],
        plane: Option<&str>,
        step: Option<Step>,
    ) -> Result<(Step, Vec<BlockWeights>), Refusal> {
        self.check_pulled(ids, plane)?;
        if self.rules.has_tickets() {
            return self.pull_versions(ids, plane, step);
        }
        let not_initialized = || Refusal::new(RefusalCause::NotInitialized, "the weights are not initialized yet");
        // A server whose blocks never change is at every step.
        let complete =
            self.with_progress(|progress| standing_step(progress, self.rules.steps)).ok_or_else(not_initialized)?;
        let step = step.unwrap_or(complete);
        if step > complete {
            return Err(Refusal::mismatch(RefusalCause::StepAhead, "pull", format!("at most {complete}"), step));
        }
        let read = |id: &BlockId| {
            let block = self.find(*id)?;
            let version = block.at(step).ok_or_else(|| step_gone(&block, step))?;
            self.weights_of(&block, &version, plane)
        };
        Ok((step, ids.iter().map(read).collect::<Result<_, Refusal>>()?))
    }

    /// Before anything is read: a plane is copied, and a request may name one block thousands of times.
    fn check_pulled(&self, ids: &[BlockId], plane: Option<&str>) -> Result<(), Refusal> {
        let mut bytes: usize = 0;
        for id in ids {
            bytes = bytes.saturating_add(self.find(*id)?.pulled_bytes(plane)?);
        }
        if bytes > PULL_BYTES_MAX {
            let (expected, found) = (format!("at most {PULL_BYTES_MAX} bytes"), format!("{bytes} bytes"));
            return Err(Refusal::mismatch(RefusalCause::TooLarge, "pull", expected, found));
        }
        Ok(())
    }

    /// In the asynchronous modes each block counts its own versions: all of `version`, or each its newest.
    /// With the blocks, the oldest version among those that change.
    fn pull_versions(
        &self,
        ids: &[BlockId],
        plane: Option<&str>,
        version: Option<Step>,
    ) -> Result<(Step, Vec<BlockWeights>), Refusal> {
        let mut oldest: Option<Step> = None;
        let read = |id: &BlockId| {
            let block = self.find(*id)?;
            let current = block
                .current()
                .ok_or_else(|| Refusal::new(RefusalCause::NotInitialized, format!("{id} has no weights yet")))?;
            let found = match version {
                None => current,
                Some(version) => block.at(version).ok_or_else(|| step_gone(&block, version))?,
            };
            if block.changes() {
                oldest = Some(oldest.map_or(found.step, |oldest| oldest.min(found.step)));
            }
            self.weights_of(&block, &found, plane)
        };
        let blocks = ids.iter().map(read).collect::<Result<_, Refusal>>()?;
        Ok((oldest.or(version).unwrap_or_default(), blocks))
    }

    fn weights_of(&self, block: &Block, version: &Version, plane: Option<&str>) -> Result<BlockWeights, Refusal> {
        let Version { step, lr, decay, .. } = *version;
        let data = match plane {
            None => version.bytes(),
            Some(name) => block.plane_at(name, step)?,
        };
        let (generation, dtype, data) = (self.identity.generation, Dtype::F32, data.into());
        Ok(BlockWeights { block: block.id(), generation, step, dtype, data, lr, decay })
    }
}

fn step_gone(block: &Block, step: Step) -> Refusal {
    let newest = block.current().map_or("none".to_owned(), |version| version.step.to_string());
    Refusal::mismatch(
        RefusalCause::StepGone,
        format!("weights of {}", block.id()),
        format!("{newest} or the one before"),
        step,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::sample;

    #[test]
    fn a_peers_new_session_ends_its_earlier_one_and_nobody_elses() {
        let shard = sample::shard("steps = 9\nslots = 2", &[&[2]]);
        let open = |peer, from_step: Option<u64>| {
            let outbox = Arc::<Outbox>::default();
            shard.open_session(Incarnation(peer), from_step.map(Step), &outbox).map(|id| (id, outbox))
        };
        let (_, first) = open(1, None).unwrap();
        let (_, other) = open(2, None).unwrap();
        let (id, second) = open(1, None).unwrap();
        assert_eq!([&first, &other, &second].map(|outbox| outbox.is_closed()), [true, false, false]);
        assert_eq!(shard.load().sessions, 2);
        shard.close_session(id);
        assert_eq!(shard.load().sessions, 1);
    }

    #[test]
    fn a_pull_beyond_the_bound_is_refused_before_anything_is_read() {
        for mode in ["sync", "async"] {
            let shard = sample::shard(&format!("mode = \"{mode}\"\nsteps = 9\nslots = 2"), &[&[1024]]);
            let id = shard.block_ids()[0];
            for plane in [None, Some("m")] {
                // Whoever reads finds no weights yet.
                let refused = |count| shard.pull(&vec![id; count], plane, None).unwrap_err().cause;
                assert_eq!(
                    refused(1024),
                    RefusalCause::NotInitialized,
                    "{mode}, {plane:?}: as many bytes as are allowed"
                );
                assert_eq!(refused(1025), RefusalCause::TooLarge, "{mode}, {plane:?}");
            }
        }
    }
}
