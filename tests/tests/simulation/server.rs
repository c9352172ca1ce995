//! A server's edges in virtual time: what `node.rs` does with orders and reports, `data_service.rs` with streams.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use halflife_proto::contribution::{BlockWeights, Contribution, Outcome};
use halflife_proto::framing::{Framed, MessageReader};
use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Incarnation, JobId, ServerIndex, Step};
use halflife_proto::membership::{Order, Partial, Report};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::v1::{self, step_response::Message};
use halflife_proto::wire;
use halflife_server::SessionId;
use halflife_server::outbox::{Outbox, Outgoing};
use halflife_server::shard::{Identity, Shard, Standing};
use tokio::sync::watch;
use tokio_stream::Stream;

use crate::coverage::Transition;
use crate::event::{Down, Event, Up};
use crate::faults::Point;
use crate::ledger::Answered;
use crate::network::{ConnectionId, Way};
use crate::promises::Expected;
use crate::random::Random;
use crate::scenario::{GENERATION, STEPS};
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
    sessions: Vec<Session>,
}

struct Session {
    connection: ConnectionId,
    id: SessionId,
    outbox: Arc<Outbox>,
    outgoing: Outgoing,
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
    fn wake_node(&mut self, server: usize) {
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

    pub(crate) fn server_hears(&mut self, connection: ConnectionId, message: Up) {
        let server = self.network.get(connection).peer;
        if self.servers[server].is_lost {
            return;
        }
        match message {
            Up::Open { from_step } => self.open_session(server, connection, from_step),
            Up::Contribution(contribution) => self.take_contribution(server, connection, contribution),
            Up::Pull(step) => {
                let pulled = self.pull(server, connection, step);
                if let Err(refusal) = &pulled {
                    self.coverage.count("refusal", refusal.cause);
                }
                self.push_down(connection, Down::Pulled(pulled));
            }
            Up::Mark(number) => self.take_mark(server, connection, number),
            Up::Join | Up::Leave | Up::Beat { .. } | Up::Ticket(_) => {}
        }
    }

    fn open_session(&mut self, server: usize, connection: ConnectionId, from_step: Option<Step>) {
        let not_ready = Refusal::new(RefusalCause::NotReady, "this server has no blocks yet");
        let opened = match self.servers[server].shard.clone() {
            None => Err(not_ready),
            Some(shard) => {
                let outbox = Arc::new(Outbox::default());
                outbox.reply(Message::Welcome(v1::Welcome {
                    server: Some((&shard.identity().hello()).into()),
                    server_index: shard.identity().index.0,
                    step: shard.complete().map(|step| step.0),
                }));
                shard.open_session(from_step, &outbox).map(|id| (id, outbox))
            }
        };
        match opened {
            Ok((id, outbox)) => {
                let outgoing = Outgoing::new(outbox.clone(), GENERATION, ());
                let at_a_step = from_step.is_some();
                self.coverage.pass(if at_a_step { Transition::StreamAtStep } else { Transition::StreamAtNewest });
                self.servers[server].sessions.push(Session { connection, id, outbox, outgoing });
                self.pump_session(connection);
            }
            Err(refusal) => {
                self.coverage.count("refusal", refusal.cause);
                self.push_down(connection, Down::Ended(refusal));
            }
        }
    }

    fn take_contribution(&mut self, server: usize, connection: ConnectionId, contribution: Contribution) {
        let (Some(shard), Some(session)) = (
            self.servers[server].shard.clone(),
            self.servers[server].sessions.iter().find(|session| session.connection == connection),
        ) else {
            return;
        };
        let outbox = session.outbox.clone();
        let (block, worker) = (contribution.block, self.network.get(connection).worker);
        let numbers = [server as u64, worker as u64, contribution.step.0, u64::from(contribution.slots.begin)];
        let (step, slots) = (contribution.step, contribution.slots);
        let (push, weight) = (contribution.push, contribution.weight);
        let payload = push.is_some().then(|| contribution.payload.clone());
        let before = shard.inspect(block).and_then(|seen| seen.step);
        match shard.contribute(contribution) {
            Ok(acknowledgement) => {
                let outcome = acknowledgement.outcome;
                self.trace.note(self.now, &numbers, || {
                    format!("server {server}: {step} {slots} of {block} from worker {worker}: {outcome:?}")
                });
                self.coverage.count("outcome", outcome);
                if let (Outcome::Added, Expected::Quorum(closings)) = (outcome, &mut self.promises.expected) {
                    closings.note_added(block, step, slots.begin);
                }
                if let (Some(push), Some(payload)) = (push, &payload) {
                    let answered = Answered { server, block, push, read: step, weight, payload, outcome };
                    self.ledger(|ledger| ledger.take(&answered));
                }
                if outcome != Outcome::Added {
                    outbox.reply(Message::Acknowledgement(acknowledgement.into()));
                }
            }
            Err(refusal) => {
                self.coverage.count("refusal", refusal.cause);
                outbox.reply(Message::Refusal(refusal.into()));
                self.wake_node(server);
            }
        }
        if shard.inspect(block).and_then(|seen| seen.step) != before {
            self.reached(Point::AppliedNotSent, worker);
        }
        self.block_may_have_changed(server, block);
        self.pump_session(connection);
    }

    fn take_mark(&mut self, server: usize, connection: ConnectionId, number: u64) {
        let sessions = &self.servers[server].sessions;
        if let Some(session) = sessions.iter().find(|session| session.connection == connection) {
            session.outbox.mark(number);
            self.pump_session(connection);
        }
    }

    fn pull(&self, server: usize, connection: ConnectionId, step: Step) -> Result<Vec<BlockWeights>, Refusal> {
        let shard = self.servers[server].shard.as_ref();
        let shard = shard.ok_or_else(|| Refusal::new(RefusalCause::NotReady, "no blocks"))?;
        let ids = self.workers[self.network.get(connection).worker].blocks_of(ServerIndex(server as u32));
        shard.pull(&ids, None, Some(step)).map(|(_, blocks)| blocks)
    }

    /// A block was given something, or several were: checks it, and lets everything follow that does.
    fn block_may_have_changed(&mut self, server: usize, block: halflife_proto::blocks::BlockId) {
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

    /// Sends what waits in an outbox, as far as the connection takes it.
    pub(crate) fn pump_session(&mut self, connection: ConnectionId) {
        let server = self.network.get(connection).peer;
        while self.network.has_room(connection, Way::Down) {
            let sessions = &mut self.servers[server].sessions;
            let Some(session) = sessions.iter_mut().find(|session| session.connection == connection) else { return };
            let mut context = Context::from_waker(Waker::noop());
            let message = match Pin::new(&mut session.outgoing).poll_next(&mut context) {
                Poll::Ready(Some(Ok(framed))) => read(framed),
                Poll::Ready(Some(Err(status))) => {
                    let unexplained = Refusal::new(RefusalCause::Malformed, status.message().to_owned());
                    Down::Ended(Refusal::from_status(&status).unwrap_or(unexplained))
                }
                Poll::Ready(None) | Poll::Pending => return,
            };
            self.push_down(connection, message);
        }
    }

    pub(crate) fn close_session(&mut self, connection: ConnectionId) {
        let server = self.network.get(connection).peer;
        let sessions = &mut self.servers[server].sessions;
        let Some(place) = sessions.iter().position(|session| session.connection == connection) else { return };
        let session = sessions.remove(place);
        session.outbox.close(None);
        if let Some(shard) = &self.servers[server].shard {
            shard.close_session(session.id);
        }
    }
}

/// Reads a message of a step stream, as a client does.
fn read(framed: Framed) -> Down {
    let mut reader = MessageReader::default();
    reader.push(framed.head);
    reader.push(framed.data);
    let (response, data) = reader
        .next_message::<v1::StepResponse>()
        .expect("a server's messages are well formed")
        .expect("a framed message is whole");
    match response.message.expect("a server's message says something") {
        Message::Welcome(welcome) => Down::Welcome(welcome.step.map(Step)),
        Message::Weights(weights) => {
            let weights = wire::read_weights(weights).expect("a server's weights are well formed");
            Down::Weights(BlockWeights { data, ..weights })
        }
        Message::Acknowledgement(acknowledgement) => {
            wire::read_acknowledgement(acknowledgement).expect("a server's acknowledgement is well formed");
            Down::Acknowledged
        }
        Message::Refusal(refusal) => Down::Refusal(refusal.into()),
        Message::Mark(mark) => Down::Mark(mark.number),
    }
}
