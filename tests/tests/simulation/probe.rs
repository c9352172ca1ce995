//! Nonsense, sent now and then to a server or to the lead: each must be refused for its own reason and change nothing.

use bytes::Bytes;
use halflife_proto::blocks::{BlockId, block_range};
use halflife_proto::contribution::{Contribution, Payload, Push};
use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Generation, Incarnation, JobId, Step, TensorIndex, Ticket};
use halflife_proto::job::Combine;
use halflife_proto::manifest::{Manifest, Tensor};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::{Dtype, Encoded};
use halflife_server::shard::Shard;

use crate::world::World;

/// What a contribution is probed for.
const CONTRIBUTIONS: [RefusalCause; 10] = [
    RefusalCause::WrongGeneration,
    RefusalCause::WrongDtype,
    RefusalCause::WrongSize,
    RefusalCause::MisalignedSlots,
    RefusalCause::StepAhead,
    RefusalCause::UnknownBlock,
    RefusalCause::NotOwner,
    RefusalCause::NonfiniteData,
    RefusalCause::InvalidWeight,
    RefusalCause::InitializationDiffers,
];

impl World<'_> {
    pub(crate) fn probe(&mut self) {
        match self.random.below(8) {
            0 => self.probe_lead(),
            1 => self.probe_reads(),
            2 => self.probe_hello(),
            _ => self.probe_contribution(),
        }
    }

    pub(crate) fn expect(&mut self, expected: RefusalCause, found: Result<String, Refusal>) {
        match found {
            Err(refusal) if refusal.cause == expected => self.coverage.count("refusal", expected),
            Err(refusal) => self.promises.fail(format!("expected {expected:?}, found {:?}: {refusal}", refusal.cause)),
            Ok(taken) => self.promises.fail(format!("expected {expected:?}, but it was taken: {taken}")),
        }
    }

    fn probe_lead(&mut self) {
        if !self.lead.is_leading {
            return;
        }
        let now = self.lead_now();
        let is_stopped = self.lead.is_stopped();
        let (workers, step) = (self.lead.state.workers().len(), self.lead.state.complete_step());
        let is_full = self.lead.state.servers().iter().all(Option::is_some);
        let stranger = Incarnation(self.random.next());
        match self.random.below(4) {
            2 => {
                let found = self.lead.state.ticket(stranger, 1);
                let expected = match self.scenario.job.mode.has_tickets() {
                    _ if is_stopped => RefusalCause::JobStopped,
                    true => RefusalCause::Fenced,
                    false => RefusalCause::Malformed,
                };
                self.expect(expected, found.map(|answer| format!("{answer:?}")));
            }
            0 if is_full => {
                let found = self.lead.state.register(stranger, "http://stranger".to_owned().into(), None);
                // Where a lost server comes back the place may be about to be free.
                let full = match self.scenario.job.checkpoints {
                    Some(_) => RefusalCause::NotReady,
                    None => RefusalCause::JobFull,
                };
                let expected = if is_stopped { RefusalCause::JobStopped } else { full };
                self.expect(expected, found.map(|index| index.to_string()));
            }
            1 if self.lead.state.model().is_some() && !self.is_restoring() => {
                let other = Manifest::new(vec![Tensor::trainable("another", &[3])]).expect("a manifest");
                let (found, effects) = self.lead.state.join(now, stranger, Fingerprint::default(), other);
                let expected = if is_stopped { RefusalCause::JobStopped } else { RefusalCause::ManifestMismatch };
                self.expect(expected, found.map(|joined| format!("{joined:?}, {effects:?}")));
            }
            _ => {
                let found = self.lead.state.heartbeat(now, stranger, Step(3), Vec::new(), true);
                self.expect(RefusalCause::Fenced, found.map(|()| "a heartbeat".to_owned()));
            }
        }
        if (workers, step) != (self.lead.state.workers().len(), self.lead.state.complete_step()) {
            self.promises.fail("a refused request changed the lead's state".to_owned());
        }
    }

    /// Nobody is told anything of the model while the servers read a checkpoint.
    fn is_restoring(&self) -> bool {
        self.lead.is_restored && self.lead.state.complete_step().is_none()
    }

    fn some_shard(&mut self) -> Option<(usize, std::sync::Arc<Shard>)> {
        let server = self.random.below(self.servers.len() as u64) as usize;
        if self.servers[server].is_lost || !self.is_current(server) {
            return None;
        }
        self.servers[server].shard.clone().map(|shard| (server, shard))
    }

    fn probe_hello(&mut self) {
        let Some((_, shard)) = self.some_shard() else { return };
        let own = shard.identity().hello();
        let mut hello = own.clone();
        let expected =
            self.random.pick(&[RefusalCause::WrongProtocol, RefusalCause::WrongJob, RefusalCause::WrongGeneration]);
        match expected {
            RefusalCause::WrongProtocol => hello.protocol_version += 1,
            RefusalCause::WrongJob => hello.job = Some(JobId("another".to_owned())),
            _ => hello.generation = Generation(own.generation.0 + 1),
        }
        self.expect(expected, own.check(&hello).map(|()| "a hello".to_owned()));
    }

    fn probe_reads(&mut self) {
        let Some((server, shard)) = self.some_shard() else { return };
        let Some(block) = self.some_block(server) else { return };
        let has_tickets = self.scenario.job.mode.has_tickets();
        let complete = match has_tickets {
            true => shard.inspect(block).and_then(|seen| seen.step),
            false => shard.complete(),
        };
        let (step, expected) = match complete {
            None => (None, RefusalCause::NotInitialized),
            // Blocks count their own versions: there is none that all have yet, or had.
            Some(_) if has_tickets => (Some(Step(1_000_000)), RefusalCause::StepGone),
            Some(Step(complete)) if complete > 2 && self.random.once_in(2) => (Some(Step(0)), RefusalCause::StepGone),
            Some(_) => (Some(Step(1_000_000)), RefusalCause::StepAhead),
        };
        let found = shard.pull(&[block], None, step);
        self.expect(expected, found.map(|(step, _)| format!("a pull of {step}")));
    }

    /// A block of the server that steps change.
    fn some_block(&mut self, server: usize) -> Option<BlockId> {
        let frozen = TensorIndex(0);
        let mut blocks = self.promises.blocks_of(server, self.lead.state.model());
        blocks.retain(|block| block.tensor != frozen);
        (!blocks.is_empty()).then(|| self.random.pick(&blocks))
    }

    fn probe_contribution(&mut self) {
        let Some((server, shard)) = self.some_shard() else { return };
        let Some(block) = self.some_block(server) else { return };
        let before = shard.inspect(block);
        let mut expected = self.random.pick(&CONTRIBUTIONS);
        let Some(mut contribution) = self.nonsense(server, block, expected, &shard) else { return };
        let has_tickets = self.scenario.job.mode.has_tickets();
        let comes_first =
            [RefusalCause::WrongGeneration, RefusalCause::UnknownBlock, RefusalCause::NotOwner].contains(&expected);
        if contribution.step > Step::ZERO && shard.complete().is_none() && !comes_first && !has_tickets {
            expected = RefusalCause::NotInitialized;
        }
        if contribution.step > self.servers[server].last_step && !comes_first && !has_tickets {
            expected = RefusalCause::StepAhead;
        }
        // A push is looked at by the block alone, which knows its own version.
        if has_tickets && expected == RefusalCause::StepAhead && before.as_ref().is_some_and(|seen| seen.step.is_none())
        {
            expected = RefusalCause::NotInitialized;
        }
        // What is not a push has no place where each push is applied by itself.
        let is_bare = matches!(contribution.payload, Payload::Absent) && contribution.step > Step::ZERO;
        if has_tickets && is_bare && !comes_first && self.random.once_in(3) {
            contribution.push = None;
            expected = RefusalCause::Malformed;
        }
        if expected == RefusalCause::NonfiniteData && !has_tickets && self.random.once_in(3) {
            // The frozen tensor takes no gradient at all.
            let frozen = BlockId { tensor: TensorIndex(0), index: 0 };
            let owns = self.promises.blocks_of(server, self.lead.state.model()).contains(&frozen);
            if owns && shard.complete().is_some() {
                contribution = Contribution { block: frozen, step: Step(1), payload: Payload::Absent, ..contribution };
                expected = RefusalCause::Malformed;
            }
        }
        if shard.standing().borrow().halted.is_some() {
            expected = RefusalCause::JobStopped;
        }
        let found = shard.contribute(contribution);
        self.expect(expected, found.map(|acknowledgement| format!("{acknowledgement:?}")));
        if shard.inspect(block) != before {
            self.promises.fail(format!("a refused contribution changed {block}"));
        }
    }

    /// A contribution that is right but for one thing.
    fn nonsense(&mut self, server: usize, block: BlockId, wrong: RefusalCause, shard: &Shard) -> Option<Contribution> {
        let spec = &self.scenario.job.spec;
        let (slots, complete) = (spec.job.slots, shard.complete());
        let seen = shard.inspect(block)?;
        let tensor = self.scenario.job.manifest.get(block.tensor)?;
        let range = block_range(tensor, block.index, spec.job.block_elements)?;
        let elements = range.end - range.start;
        let generation = shard.identity().generation;
        let garbage = |value: f32| {
            let bytes: Vec<u8> = (0..elements).flat_map(|_| value.to_le_bytes()).collect();
            Payload::Dense(Encoded::f32(bytes))
        };
        let has_tickets = self.scenario.job.mode.has_tickets();
        let right = match has_tickets {
            false => Contribution {
                block,
                generation,
                step: complete.map_or(Step(1), Step::next),
                slots: SlotRange { begin: slots - 1, end: slots },
                weight: 1.0,
                payload: Payload::Absent,
                push: None,
            },
            true => Contribution {
                block,
                generation,
                step: seen.step.unwrap_or_default(),
                slots: SlotRange { begin: 0, end: slots },
                weight: f64::from(slots),
                payload: Payload::Absent,
                push: Some(Push { ticket: Ticket(1 + self.random.below(spec.job.steps)), sequence: 1 }),
            },
        };
        Some(match wrong {
            RefusalCause::WrongGeneration => {
                // What a worker from before a restore would send: plausible in all but its generation.
                let is_lossy = spec.wire.gradients != Dtype::F32;
                let payload = if is_lossy { Payload::Absent } else { garbage(3.0) };
                Contribution { generation: Generation(generation.0 - 1), payload, ..right }
            }
            RefusalCause::WrongDtype => {
                let payload = Payload::Dense(Encoded { dtype: Dtype::I8Scaled, bytes: Bytes::from_static(&[0; 8]) });
                Contribution { payload, ..right }
            }
            RefusalCause::WrongSize => {
                let dtype = match self.scenario.job.buffer() == block.tensor.0 {
                    true => Dtype::F32,
                    false => spec.wire.gradients,
                };
                let payload = Payload::Dense(Encoded { dtype, bytes: Bytes::from_static(&[0; 3]) });
                Contribution { payload, ..right }
            }
            RefusalCause::MisalignedSlots => {
                let slots = SlotRange { begin: 0, end: slots + 1 };
                Contribution { slots, weight: f64::from(slots.count()), ..right }
            }
            RefusalCause::StepAhead => {
                let newest = if has_tickets { seen.step } else { complete };
                let step = newest.map_or(Step(1), |newest| newest.next().next());
                Contribution { step, ..right }
            }
            RefusalCause::UnknownBlock => {
                Contribution { block: BlockId { tensor: TensorIndex(77), index: 0 }, ..right }
            }
            RefusalCause::NotOwner => {
                let block = self.some_block((server + 1) % self.servers.len())?;
                Contribution { block, ..right }
            }
            RefusalCause::NonfiniteData => {
                let slots = SlotRange { begin: 0, end: 1 };
                Contribution { step: Step::ZERO, slots, payload: garbage(f32::NAN), push: None, ..right }
            }
            RefusalCause::InvalidWeight if spec.job.combine != Combine::WeightedMean => {
                Contribution { weight: 0.5 + right.weight, ..right }
            }
            // What a restored block began with is not known any more.
            RefusalCause::InitializationDiffers if seen.step.is_some() && !self.lead.is_restored => {
                let slots = SlotRange { begin: 0, end: 1 };
                Contribution { step: Step::ZERO, slots, payload: garbage(7.0), push: None, ..right }
            }
            _ => return None,
        })
    }
}
