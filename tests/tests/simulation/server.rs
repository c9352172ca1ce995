//! A server in virtual time: what `node.rs` does with orders and reports. Its streams are in `sessions.rs`.

use std::sync::Arc;

use halflife_checkpoint::CheckpointId;
use halflife_proto::blocks::BlockId;
use halflife_proto::contribution::Contribution;
use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Generation, Incarnation, JobId, ServerIndex, Step};
use halflife_proto::membership::{Order, Partial, Report};
use halflife_server::lead::LeadState;
use halflife_server::shard::{CutAnswer, Identity, Shard, Standing};
use tokio::sync::watch;

use crate::coverage::Transition;
use crate::event::Event;
use crate::network::ConnectionId;
use crate::random::Random;
use crate::sessions::Session;
use crate::world::World;

/// Blocks that are read from a checkpoint, and what the node was ordered meanwhile.
pub struct Reading {
    pub shard: Arc<Shard>,
    pub id: CheckpointId,
    pub orders: Vec<Order>,
}

/// A server.
pub struct ServerSide {
    pub identity: Option<Identity>,
    pub shard: Option<Arc<Shard>>,
    /// Rises with every process, and with every generation that it takes part in.
    pub life: u64,
    /// Whether there is a process.
    pub is_up: bool,
    /// To the lead.
    pub link: Option<u64>,
    /// Blocks that are read from a checkpoint.
    pub reading: Option<Reading>,
    /// Some of what it was sent in its last generation.
    pub late: Vec<Contribution>,
    pub has_finished: bool,
    /// The lead has lost it.
    pub is_lost: bool,
    /// It takes nothing beyond.
    pub last_step: Step,
    reported: Standing,
    reported_partial: Option<Partial>,
    /// Changes when there is news of slots or pushes.
    news: Option<watch::Receiver<()>>,
    /// Changes when a cut is whole.
    cuts: Option<watch::Receiver<()>>,
    /// The link to the lead: its delay, and when the last message in each direction arrives.
    delay_us: u64,
    pub slow_until: u64,
    last_order: u64,
    last_report: u64,
    pub sessions: Vec<Session>,
}

impl ServerSide {
    /// Not registered yet.
    pub fn new(last_step: Step, random: &mut Random) -> ServerSide {
        ServerSide {
            identity: None,
            shard: None,
            life: 0,
            is_up: true,
            link: None,
            reading: None,
            late: Vec::new(),
            has_finished: false,
            is_lost: false,
            last_step,
            reported: Standing::default(),
            reported_partial: None,
            news: None,
            cuts: None,
            delay_us: random.between(10, 3_000),
            slow_until: 0,
            last_order: 0,
            last_report: 0,
            sessions: Vec::new(),
        }
    }

    /// The lead has taken it in.
    pub fn admit(&mut self, index: ServerIndex, incarnation: Incarnation, generation: Generation, link: u64) {
        let (job, fingerprint) = (JobId("simulation".to_owned()), Fingerprint::default());
        self.identity = Some(Identity { job, generation, incarnation, fingerprint, index });
        self.link = Some(link);
    }

    /// It holds its blocks.
    pub fn hold(&mut self, shard: Arc<Shard>) {
        (self.news, self.cuts) = (Some(shard.news()), Some(shard.cuts()));
        self.shard = Some(shard);
    }

    /// It has nothing to do with its generation any more.
    pub fn end_life(&mut self, last_step: Step) {
        self.life += 1;
        (self.identity, self.shard, self.link, self.reading) = (None, None, None, None);
        (self.reported, self.reported_partial, self.news, self.cuts) = (Standing::default(), None, None, None);
        self.last_step = last_step;
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
    pub(crate) fn take_order(&mut self, server: usize, link: u64, order: Order) {
        if self.servers[server].is_lost || self.servers[server].link != Some(link) {
            return;
        }
        let Some(order) = self.behind_reading(server, order) else { return };
        match order {
            Order::Place { manifest, placement, checkpoint } => self.place(server, manifest, placement, checkpoint),
            Order::Cut(step) => {
                if let Some(shard) = self.servers[server].shard.clone() {
                    match shard.cut(step) {
                        CutAnswer::Taken => self.wake_node(server),
                        CutAnswer::Passed(newest) => self.send_report(server, Report::CutPassed { step, newest }),
                    }
                }
            }
            Order::Durable(step) => {
                if let Some(shard) = &self.servers[server].shard {
                    shard.note_durable(step);
                }
            }
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

    pub(crate) fn send_report(&mut self, server: usize, report: Report) {
        let Some(link) = self.servers[server].link else { return };
        let at_us = self.servers[server].report_arrival(self.now, &mut self.random);
        self.queue.push(at_us, Event::Report { server, link, report });
    }

    /// The node's task gets its turn soon after its shard has something new to report.
    pub(crate) fn wake_node(&mut self, server: usize) {
        let side = &self.servers[server];
        let Some(shard) = &side.shard else { return };
        let has_changed = |watched: &Option<watch::Receiver<()>>| {
            watched.as_ref().is_some_and(|watched| watched.has_changed().unwrap_or(false))
        };
        if has_changed(&side.news)
            || has_changed(&side.cuts)
            || *shard.standing().borrow() != side.reported
            || *shard.partials().borrow() != side.reported_partial
        {
            // Now and then it is busy for longer than an update takes: what is set aside stays as it was.
            let is_busy = self.scenario.job.checkpoints.is_some() && self.random.once_in(8);
            let at_us = self.now + self.random.below(if is_busy { 20_000 } else { 300 });
            self.queue.push(at_us, Event::NodeLooks { server, life: self.servers[server].life });
        }
    }

    /// What a node does when a watch of its shard has changed: the newest is reported, what it replaced is not.
    pub(crate) fn node_looks(&mut self, server: usize, life: u64) {
        let Some(shard) = self.servers[server].shard.clone().filter(|_| self.servers[server].life == life) else {
            return;
        };
        if let Some(cuts) = &mut self.servers[server].cuts {
            cuts.mark_unchanged();
        }
        if let Some(cut) = shard.take_cut() {
            self.begin_to_save(server, cut);
            if self.servers[server].life != life {
                return;
            }
        }
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
    pub(crate) fn block_may_have_changed(&mut self, server: usize, block: BlockId) {
        if self.look_at(server, block) {
            // A norm may have released all blocks at once.
            self.all_blocks_may_have_changed(server);
        } else {
            self.wake_node(server);
        }
    }

    /// Whether a block has a new version, which is checked.
    fn look_at(&mut self, server: usize, block: BlockId) -> bool {
        if !self.is_current(server) {
            return false; // what it holds is about to be dropped
        }
        let Some(seen) = self.servers[server].shard.as_ref().and_then(|shard| shard.inspect(block)) else {
            return false;
        };
        let is_new = self.promises.check_block(block, &seen);
        if is_new {
            self.note_state(server, block);
        }
        is_new
    }

    fn all_blocks_may_have_changed(&mut self, server: usize) {
        if self.servers[server].shard.is_none() {
            return;
        }
        let model = self.lead_of(self.lead.generation).and_then(LeadState::model);
        for block in self.promises.blocks_of(server, model) {
            self.look_at(server, block);
        }
        self.wake_node(server);
        let open: Vec<ConnectionId> = self.servers[server].sessions.iter().map(|session| session.connection).collect();
        for connection in open {
            self.pump_session(connection);
        }
        self.steps_may_be_complete();
    }
}
