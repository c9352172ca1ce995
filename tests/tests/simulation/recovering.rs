//! Lives and generations in virtual time: what `server.rs` of the product does when a server, the lead or a link between
//! them is gone, and what `recovery.rs` does to begin again. Only jobs that keep checkpoints come here.
//!
//! A process has as many lives as it takes part in generations; whatever was foreseen for an earlier one does not happen.
//! The process of a server is always the server of the same number: it registers when its turn has come.

use std::collections::BTreeMap;

use halflife_checkpoint::{CheckpointId, Claim};
use halflife_proto::ids::{Generation, Incarnation, JobId, ServerIndex, Step};
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::{CheckpointName, CheckpointPlan, Order, Report};
use halflife_proto::placement::Placement;
use halflife_proto::refusal::RefusalCause;
use halflife_server::lead::{Keeping, LeadState, Restored};
use halflife_server::shard::Shard;

use crate::coverage::Transition;
use crate::event::Event;
use crate::keeping::Deed;
use crate::lead::LeadSide;
use crate::network::{ConnectionId, End};
use crate::server::Reading;
use crate::server_faults::{FOR_EVER, ServerPoint};
use crate::store::id_of;
use crate::strike::KEEPALIVE_US;
use crate::world::World;

/// A server that was refused tries again after so long.
const REGISTER_AGAIN_US: u64 = 60_000;
/// So long after a server has its blocks, contributions of the generation before still arrive.
const LATE_US: u64 = 400_000;

impl World<'_> {
    // ---- processes ----

    /// A server's process is gone at once, and comes back as a new one.
    pub(crate) fn crash_server(&mut self, server: usize) {
        if !std::mem::replace(&mut self.servers[server].is_up, false) {
            return;
        }
        self.coverage.pass(if server == 0 { Transition::LeadCrashed } else { Transition::ServerCrashed });
        self.trace.note(self.now, &[14, server as u64], || format!("*** server {server} is gone"));
        self.break_link(server);
        self.end_life_of_server(server);
        self.cut_off_peer(server);
        if server == 0 {
            self.end_lead();
            self.cut_off_peer(self.servers.len());
        }
        let at_us = self.now + self.random.between(20_000, 1_500_000);
        self.queue.push(at_us, Event::StartServer(server));
    }

    /// A server's process begins, or begins anew.
    pub(crate) fn start_server(&mut self, server: usize) {
        self.servers[server].is_up = true;
        match server {
            0 => self.begin(),
            _ => self.register_later(server),
        }
    }

    /// A process ends its connections with all workers.
    fn cut_off_peer(&mut self, peer: usize) {
        let is_silent = self.random.once_in(4);
        for worker in 0..self.workers.len() {
            for connection in self.network.between(worker, Some(peer)) {
                self.network.forget_peer_end(connection);
                self.network.lose(connection, &mut self.random);
                let notice_us = if is_silent { KEEPALIVE_US } else { self.random.below(300_000) };
                self.queue.push(self.now + notice_us, Event::Ended { connection, end: End::Worker });
            }
        }
    }

    /// Nobody listens where this connection goes.
    pub(crate) fn refuse_connection(&mut self, connection: ConnectionId) {
        self.network.forget_peer_end(connection);
        let at_us = self.now + self.random.below(50_000);
        self.queue.push(at_us, Event::Ended { connection, end: End::Worker });
    }

    // ---- links between lead and servers ----

    /// The link is broken; its ends notice by and by.
    pub(crate) fn break_link(&mut self, server: usize) {
        let Some(link) = self.servers[server].link else { return };
        for at_lead in [true, false] {
            let notice_us = if self.random.once_in(4) { KEEPALIVE_US } else { self.random.below(200_000) };
            self.queue.push(self.now + notice_us, Event::LinkEnded { server, link, at_lead });
        }
    }

    pub(crate) fn link_ended(&mut self, server: usize, link: u64, at_lead: bool) {
        if at_lead {
            if self.lead.links[server] != Some(link) {
                return;
            }
            self.lead.links[server] = None;
            self.coverage.pass(Transition::LinkLost);
            let effects = self.lead.state.server_lost(ServerIndex(server as u32));
            return self.carry_out(effects, false);
        }
        if self.servers[server].link == Some(link) && !self.servers[server].has_finished {
            self.coverage.pass(Transition::LeadLost);
            self.end_life_of_server(server);
            self.register_later(server);
        }
    }

    /// A server has nothing to do with its generation any more.
    fn end_life_of_server(&mut self, server: usize) {
        self.servers[server].end_life(Step(self.scenario.job.spec.job.steps));
        for session in std::mem::take(&mut self.servers[server].sessions) {
            let at_us = self.now + self.random.below(100_000);
            self.network.forget_peer_end(session.connection);
            self.queue.push(at_us, Event::Ended { connection: session.connection, end: End::Worker });
        }
    }

    fn register_later(&mut self, server: usize) {
        let at_us = self.now + self.random.between(5_000, REGISTER_AGAIN_US);
        self.queue.push(at_us, Event::Register { server, life: self.servers[server].life });
    }

    /// A server registers, if there is a lead and its turn has come.
    pub(crate) fn register_again(&mut self, server: usize, life: u64) {
        if self.servers[server].life != life || !self.servers[server].is_up {
            return;
        }
        let servers = self.lead.state.servers();
        let next = servers.iter().position(Option::is_none);
        if !self.lead.is_leading || next.is_some_and(|next| next != server) {
            return self.register_later(server);
        }
        let (incarnation, address) = (Incarnation(self.random.next()), format!("http://s{server}").into());
        match self.lead.state.register(incarnation, address, None) {
            Ok(index) => {
                self.coverage.pass(Transition::Registered);
                self.links += 1;
                let (link, generation) = (self.links, self.lead.generation);
                self.lead.links[server] = Some(link);
                self.servers[server].admit(index, incarnation, generation, link);
                let effects = self.lead.state.restore_once_complete();
                self.carry_out(effects, false);
                self.notice_all();
            }
            Err(refusal) => {
                self.coverage.count("registration", refusal.cause);
                // Its operator ended the job meanwhile, before the first step: this server ends, too.
                if refusal.cause == RefusalCause::JobStopped && self.lead.is_stopped() {
                    return;
                }
                if refusal.cause != RefusalCause::NotReady {
                    self.promises.fail(format!("a server that comes back was refused: {refusal}"));
                }
                self.register_later(server);
            }
        }
    }

    // ---- the lead ----

    /// The lead of this generation decides nothing more.
    fn end_lead(&mut self) {
        self.lead.is_leading = false;
        self.lead.life += 1;
        for server in 1..self.servers.len() {
            if let Some(link) = self.lead.links[server].take() {
                let notice_us = if self.random.once_in(4) { KEEPALIVE_US } else { self.random.below(200_000) };
                self.queue.push(self.now + notice_us, Event::LinkEnded { server, link, at_lead: false });
            }
        }
        self.lead.links[0] = None;
        for connection in self.lead.forget_all() {
            let at_us = self.now + self.random.below(300_000);
            self.network.forget_peer_end(connection);
            self.queue.push(at_us, Event::Ended { connection, end: End::Worker });
        }
        self.lead.state = LeadState::new(self.scenario.job.settings(None));
    }

    /// The lead lets go of its servers, and begins the next generation.
    pub(crate) fn go_back(&mut self) {
        self.coverage.pass(Transition::WentBack);
        self.trace.note(self.now, &[15], || "lead: the job goes back to its last checkpoint".to_owned());
        self.end_lead();
        self.end_life_of_server(0);
        self.begin();
    }

    fn begin(&mut self) {
        self.promises.note_fault(self.now, KEEPALIVE_US);
        self.ask_store(Deed::Begin { life: self.lead.life });
    }

    fn begin_later(&mut self, life: u64) {
        let at_us = self.now + self.random.between(20_000, 400_000);
        self.queue.push(at_us, Event::Store(Box::new(Deed::Begin { life })));
    }

    /// The newest checkpoint of the surviving history is the one to go on from.
    pub(crate) fn choose_checkpoint(&mut self, life: u64) {
        if self.lead.life != life || !self.servers[0].is_up {
            return;
        }
        let (chosen, surviving) = (self.store.newest(), self.store.surviving());
        if chosen != surviving {
            return self.promises.fail(format!("rule 8: the job goes on from {chosen:?}, {surviving:?} is its last"));
        }
        let claim = Claim {
            generation: Generation(self.store.newest_generation().map_or(0, |newest| newest.0) + 1),
            claimant: format!("{:016x}", self.random.next()),
            job: JobId("simulation".to_owned()),
            continues: chosen,
            spec_toml: String::new(),
            from_step: chosen.map_or(Step(1), |id| id.step.next()),
        };
        self.ask_store(Deed::Claim { life, claim });
        if self.random.once_in(2) {
            self.former_lead_creates_its_manifest();
        }
        self.server_reached(ServerPoint::Claiming, 0);
    }

    pub(crate) fn claim_generation(&mut self, life: u64, claim: Claim) {
        let is_there = self.lead.life == life && self.servers[0].is_up;
        // A claim finds room where a part does not, or a job whose store stays full could not even end.
        let is_full = self.store.is_full(self.now) && self.store.full_until != FOR_EVER;
        if is_full || (!is_there && self.random.once_in(2)) {
            if is_there {
                self.coverage.pass(Transition::ClaimFailed);
                self.begin_later(life);
            }
            return;
        }
        let is_claimed = self.store.claim(claim.clone());
        if !is_there {
            return self.coverage.pass(if is_claimed { Transition::ClaimedByNobody } else { Transition::ClaimTaken });
        }
        if !is_claimed {
            self.coverage.pass(Transition::ClaimTaken);
            return self.begin_later(life);
        }
        self.coverage.pass(Transition::Claimed);
        let generation = claim.generation;
        self.trace.note(self.now, &[16, generation.0], || {
            format!("store: {generation} is claimed, and continues {:?}", claim.continues)
        });
        if !self.server_reached(ServerPoint::Claimed, 0) {
            self.ask_store(Deed::LookAgain { life, claim });
        }
    }

    /// What was committed before the claim may have been told as durable.
    pub(crate) fn look_once_more(&mut self, life: u64, claim: Claim) {
        if self.lead.life != life || !self.servers[0].is_up {
            return;
        }
        let newest = self.store.newest();
        if newest == claim.continues {
            return self.ask_store(Deed::Begun { life, claim });
        }
        self.coverage.pass(Transition::ClaimedAgain);
        let from_step = newest.map_or(Step(1), |id| id.step.next());
        let claim = Claim { generation: claim.generation.next(), continues: newest, from_step, ..claim };
        self.ask_store(Deed::Claim { life, claim });
    }

    pub(crate) fn generation_begun(&mut self, life: u64, claim: Claim) {
        let is_there = self.lead.life == life && self.servers[0].is_up;
        if !is_there && self.random.once_in(2) {
            return; // it never arrived
        }
        self.store.begin(&claim);
        if is_there {
            self.ask_store(Deed::Nonce { life, claim });
        }
    }

    /// The generation is this lead's, and begins.
    pub(crate) fn begin_to_lead(&mut self, life: u64, claim: &Claim) {
        if self.lead.life != life || !self.servers[0].is_up {
            return;
        }
        let Some(checkpoints) = &self.scenario.job.checkpoints else { return };
        let manifest = claim.continues.and_then(|id| self.store.kept.get(&id)?.manifest.clone());
        let restored =
            manifest.map(|manifest| Restored { model: manifest.model, voided: manifest.voided, torn: manifest.torn });
        if claim.continues.is_some() && restored.is_none() {
            return self.promises.fail(format!("P6: {:?} is continued, and has no manifest", claim.continues));
        }
        let name = |id: CheckpointId| CheckpointName { step: id.step, generation: id.generation };
        let plan = CheckpointPlan { nonce: claim.claimant.clone(), restore: claim.continues.map(name) };
        let keeping = Keeping { every: checkpoints.every, plan, restored };
        let is_first = claim.generation == Generation(1);
        self.coverage.pass(match claim.continues {
            Some(_) => Transition::GoesOn,
            None if is_first => Transition::Begun,
            None => Transition::BegunAnew,
        });
        self.lead = LeadSide::leading(&self.scenario.job, keeping, claim.generation, life, self.now, &mut self.random);
        self.begin_generation(claim.continues);
        self.register_again(0, self.servers[0].life);
    }

    // ---- a server's blocks ----

    /// A server is to hold blocks as a checkpoint has them: it reads them first.
    pub(crate) fn begin_to_restore(&mut self, server: usize, shard: std::sync::Arc<Shard>, name: CheckpointName) {
        let (id, life) = (id_of(name.step, name.generation), self.servers[server].life);
        self.servers[server].reading = Some(Reading { shard, id, orders: Vec::new() });
        if !self.server_reached(ServerPoint::Restoring, server) {
            self.ask_store(Deed::Read { server, life });
        }
    }

    pub(crate) fn blocks_read(&mut self, server: usize, life: u64) {
        if self.servers[server].life != life {
            return;
        }
        let Some(Reading { shard, id, orders }) = self.servers[server].reading.take() else { return };
        let mut stored = BTreeMap::new();
        for block in shard.block_ids() {
            let Some(found) = self.store.block(id, block) else {
                return self.promises.fail(format!("P6: {block} is not in {id}, which is restored"));
            };
            stored.insert(block, found.digest);
            let (weights, planes) = (&found.weights, found.planes.clone());
            if let Err(refusal) = shard.restore_block(block, id.step, weights, planes, found.updates) {
                return self.promises.fail(format!("P6: {block} of {id} cannot be restored: {refusal}"));
            }
        }
        shard.restored(id.step);
        self.coverage.pass(Transition::BlocksRestored);
        self.check_restored(server, id, &shard, &stored);
        if self.server_reached(ServerPoint::Restored, server) {
            return;
        }
        self.hold(server, shard);
        for order in orders {
            self.take_order(server, self.servers[server].link.unwrap_or_default(), order);
        }
    }

    /// The blocks are in place: seen by others only now.
    pub(crate) fn hold(&mut self, server: usize, shard: std::sync::Arc<Shard>) {
        self.servers[server].hold(shard);
        self.send_report(server, Report::Placed(0));
        self.wake_node(server);
        for _ in 0..self.servers[server].late.len() {
            let at_us = self.now + self.random.below(LATE_US);
            self.queue.push(at_us, Event::Late(server));
        }
        self.steps_may_be_complete();
    }

    /// What was sent to the generation before arrives now, and is refused.
    pub(crate) fn late_contribution(&mut self, server: usize) {
        let Some(shard) = self.servers[server].shard.clone() else { return };
        let Some(contribution) = self.servers[server].late.pop() else { return };
        let (block, is_halted) = (contribution.block, self.servers[server].is_halted());
        if contribution.generation == shard.identity().generation {
            return; // it was taken meanwhile by a generation that is over, too
        }
        let before = shard.capture(block).map(|captured| crate::store::digest(&captured));
        let expected = if is_halted { RefusalCause::JobStopped } else { RefusalCause::WrongGeneration };
        let answer = shard.contribute(contribution);
        self.coverage.pass(Transition::LateRefused);
        self.expect(expected, answer.map(|answer| format!("P7: {answer:?}")));
        if shard.capture(block).map(|captured| crate::store::digest(&captured)) != before {
            self.promises.fail(format!("P7: a contribution of a generation that is over changed {block}"));
        }
    }

    /// Shows a server the model, and which blocks are its.
    pub(crate) fn place(
        &mut self,
        server: usize,
        manifest: Manifest,
        placement: Placement,
        plan: Option<CheckpointPlan>,
    ) {
        let Some(identity) = self.servers[server].identity.clone() else {
            return self.promises.fail("blocks were placed on a server that is not in the job".to_owned());
        };
        match Shard::new(
            identity,
            &self.scenario.job.spec,
            manifest,
            placement,
            self.compute.clone(),
            std::sync::Arc::default(),
        ) {
            Ok(shard) => match plan.and_then(|plan| plan.restore) {
                Some(name) => self.begin_to_restore(server, shard, name),
                None => self.hold(server, shard),
            },
            Err(refusal) => self.promises.fail(format!("blocks cannot be placed: {refusal}")),
        }
    }

    /// An order that waits until the server has read its blocks; the order, if it need not.
    pub(crate) fn behind_reading(&mut self, server: usize, order: Order) -> Option<Order> {
        match &mut self.servers[server].reading {
            Some(reading) => {
                reading.orders.push(order);
                None
            }
            None => Some(order),
        }
    }
}
