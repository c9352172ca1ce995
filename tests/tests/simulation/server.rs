//! A server in virtual time: what `node.rs` does with orders and reports. Its streams are in `sessions.rs`.

use std::sync::Arc;

use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Incarnation, JobId, ServerIndex, Step};
use halflife_proto::membership::{Order, Partial, Report};
use halflife_server::shard::{Identity, Shard, Standing};
use tokio::sync::watch;

use crate::coverage::Transition;
use crate::event::Event;
use crate::network::ConnectionId;
use crate::random::Random;
use crate::scenario::{GENERATION, STEPS};
use crate::sessions::Session;
use crate::world::World;

/// A server.
pub struct ServerSide {
    pub identity: Option<Identity>,
    pub shard: Option<Arc<Shard>>,
    pub has_finished: bool,
    /// The lead has lost it.
    pub is_lost: bool,
    /// It takes nothing beyond.
    pub last_step: Step,
    reported: Standing,
    reported_partial: Option<Partial>,
    /// Changes when there is news of slots or pushes.
    news: Option<watch::Receiver<()>>,
    /// The link to the lead: its delay, and when the last message in each direction arrives.
    delay_us: u64,
    pub slow_until: u64,
    last_order: u64,
    last_report: u64,
    pub sessions: Vec<Session>,
}

impl ServerSide {
    /// Not registered yet.
    pub fn new(random: &mut Random) -> ServerSide {
        ServerSide {
            identity: None,
            shard: None,
            has_finished: false,
            is_lost: false,
            last_step: Step(STEPS),
            reported: Standing::default(),
            reported_partial: None,
            news: None,
            delay_us: random.between(10, 3_000),
            slow_until: 0,
            last_order: 0,
            last_report: 0,
            sessions: Vec::new(),
        }
    }

    /// The lead has taken it in.
    pub fn admit(&mut self, index: ServerIndex, incarnation: Incarnation) {
        let (job, fingerprint) = (JobId("simulation".to_owned()), Fingerprint::default());
        self.identity = Some(Identity { job, generation: GENERATION, incarnation, fingerprint, index });
    }

    /// Whether its shard takes nothing more.
    pub fn is_halted(&self) -> bool {
        self.shard.as_ref().is_some_and(|shard| shard.standing().borrow().halted.is_some())
    }

    fn travel(&self, now: u64, random: &mut Random) -> u64 {
        let slower = if now < self.slow_until { 40 } else { 1 };
        slower * (self.delay_us + random.below(500))
    }

    /// When an order that leaves now arrives.
    pub fn order_arrival(&mut self, now: u64, random: &mut Random) -> u64 {
        self.last_order = self.last_order.max(now + self.travel(now, random));
        self.last_order
    }

    fn report_arrival(&mut self, now: u64, random: &mut Random) -> u64 {
        self.last_report = self.last_report.max(now + self.travel(now, random));
        self.last_report
    }
}

impl World<'_> {
    pub(crate) fn take_order(&mut self, server: usize, order: Order) {
        if self.servers[server].is_lost {
            return;
        }
        match order {
            Order::Place { manifest, placement } => self.place(server, manifest, placement),
            Order::Initialize(contribution) => {
                let block = contribution.block;
                match self.servers[server].shard.clone().map(|shard| shard.contribute(contribution)) {
                    Some(Ok(_)) => self.block_may_have_changed(server, block),
                    other => self.promises.fail(format!("initial weights from the lead were refused: {other:?}")),
                }
            }
            Order::Total(total) => {
                if let Some(shard) = self.servers[server].shard.clone() {
                    shard.supply(total);
                    self.coverage.pass(Transition::NormTotalled);
                    self.all_blocks_may_have_changed(server);
                }
            }
            Order::Halt(refusal) => {
                if let Some(shard) = &self.servers[server].shard {
                    shard.halt(refusal);
                    self.coverage.pass(Transition::Halted);
                }
                self.wake_node(server);
            }
            Order::Finish(_) => {
                self.servers[server].has_finished = true;
                self.coverage.pass(Transition::ServerReleased);
            }
            Order::Close { step, slots } => {
                if let Some(shard) = self.servers[server].shard.clone() {
                    if let Err(refusal) = shard.close(step, &slots) {
                        // A NaN halts the shard first; any other reason is the lead's mistake.
                        if !self.servers[server].is_halted() {
                            self.promises.fail(format!("{step} cannot be closed: {refusal}"));
                        }
                        self.send_report(server, Report::Halted(refusal));
                    }
                    self.all_blocks_may_have_changed(server);
                }
            }
            Order::Void(tickets) => {
                if let Some(shard) = self.servers[server].shard.clone() {
                    shard.void(&tickets);
                    self.ledger(|ledger| {
                        ledger.refuse(server, &tickets);
                        Ok(())
                    });
                    self.wake_node(server);
                }
            }
            Order::AskMissing(step) => {
                if let Some(shard) = self.servers[server].shard.clone() {
                    self.coverage.pass(Transition::AskedForTheMissing);
                    self.send_report(server, Report::Missing(step, shard.missing(step)));
                }
            }
            Order::LastStep(step) => {
                if let Some(shard) = self.servers[server].shard.clone() {
                    self.coverage.pass(Transition::AskedToEnd);
                    let last_step = shard.end_with(step);
                    self.servers[server].last_step = last_step;
                    self.send_report(server, Report::LastStep(last_step));
                }
            }
            Order::Admit { .. } => {}
        }
    }

    fn place(
        &mut self,
        server: usize,
        manifest: halflife_proto::manifest::Manifest,
        placement: halflife_proto::placement::Placement,
    ) {
        let Some(identity) = self.servers[server].identity.clone() else {
            return self.promises.fail("blocks were placed on a server that is not in the job".to_owned());
        };
        let version = placement.version();
        match Shard::new(identity, &self.scenario.job.spec, manifest, placement, self.compute.clone()) {
            Ok(shard) => {
                self.servers[server].news = Some(shard.news());
                self.servers[server].shard = Some(shard);
            }
            Err(refusal) => return self.promises.fail(format!("blocks cannot be placed: {refusal}")),
        }
        self.send_report(server, Report::Placed(version));
        self.wake_node(server);
    }

    fn send_report(&mut self, server: usize, report: Report) {
        let at_us = self.servers[server].report_arrival(self.now, &mut self.random);
        self.queue.push(at_us, Event::Report(server, report));
    }

    /// The node's task gets its turn soon after its shard has something new to report.
    pub(crate) fn wake_node(&mut self, server: usize) {
        let side = &self.servers[server];
        let Some(shard) = &side.shard else { return };
        let has_news = side.news.as_ref().is_some_and(|news| news.has_changed().unwrap_or(false));
        if has_news
            || *shard.standing().borrow() != side.reported
            || *shard.partials().borrow() != side.reported_partial
        {
            let at_us = self.now + self.random.below(300);
            self.queue.push(at_us, Event::NodeLooks(server));
        }
    }

    /// What a node does when a watch of its shard has changed: the newest is reported, what it replaced is not.
    pub(crate) fn node_looks(&mut self, server: usize) {
        let Some(shard) = self.servers[server].shard.clone() else { return };
        if let Some(news) = &mut self.servers[server].news {
            news.mark_unchanged();
        }
        if let Some(report) = shard.take_news() {
            self.send_report(server, report);
        }
        let (now, partial) = (shard.standing().borrow().clone(), shard.partials().borrow().clone());
        if let Some(partial) = partial.filter(|partial| self.servers[server].reported_partial.as_ref() != Some(partial))
        {
            self.servers[server].reported_partial = Some(partial.clone());
            self.send_report(server, Report::Partial(partial));
        }
        let reported = std::mem::replace(&mut self.servers[server].reported, now.clone());
        if let Some(step) = now.complete.filter(|step| reported.complete != Some(*step)) {
            self.send_report(server, Report::Complete(step));
        }
        if let Some(refusal) = now.halted.filter(|refusal| reported.halted.as_ref() != Some(refusal)) {
            self.send_report(server, Report::Halted(refusal));
        }
    }

    /// A block was given something, or several were: checks it, and lets everything follow that does.
    pub(crate) fn block_may_have_changed(&mut self, server: usize, block: halflife_proto::blocks::BlockId) {
        let Some(shard) = self.servers[server].shard.clone() else { return };
        let Some(seen) = shard.inspect(block) else { return };
        if self.promises.check_block(block, &seen) {
            // A norm may have released all blocks at once.
            self.all_blocks_may_have_changed(server);
        } else {
            self.wake_node(server);
        }
    }

    fn all_blocks_may_have_changed(&mut self, server: usize) {
        let Some(shard) = self.servers[server].shard.clone() else { return };
        for block in self.promises.blocks_of(server, self.lead.state.model()) {
            if let Some(seen) = shard.inspect(block) {
                self.promises.check_block(block, &seen);
            }
        }
        self.wake_node(server);
        let open: Vec<ConnectionId> = self.servers[server].sessions.iter().map(|session| session.connection).collect();
        for connection in open {
            self.pump_session(connection);
        }
        self.steps_may_be_complete();
    }
}
