//! The lead's edge in virtual time: what `lead.rs` and `lead/control_service.rs` do around the state.
//!
//! Faithful to them in this: effects are carried out in the order of the decisions, notices are read off the state
//! when a decision had effects, and a slow reader gets the newest.

use std::time::Duration;

use halflife_proto::PROTOCOL_VERSION;
use halflife_proto::hello::{Fingerprint, Hello};
use halflife_proto::ids::{Generation, Incarnation, JobId, ServerIndex};
use halflife_proto::membership::{Notice, Order, Report};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_server::lead::simulation::{Effect, Heard};
use halflife_server::lead::{Cuts, Keeping, LeadState, Phase};

use crate::coverage::Transition;
use crate::event::{Down, Event, Up};
use crate::network::{ConnectionId, Way};
use crate::promises::Expected;
use crate::random::Random;
use crate::scenario::{GENERATION, Job};
use crate::tickets::Asking;
use crate::world::World;

/// As in `lead.rs`.
pub const TICK_US: u64 = 50_000;
/// Notices under way to one worker: the channel holds one, the connection another.
const NOTICES_MAX: usize = 2;

/// The lead and who listens to it.
pub struct LeadSide {
    pub state: LeadState,
    pub generation: Generation,
    /// In a job that keeps checkpoints there may be none for a while.
    pub is_leading: bool,
    /// Whether it goes on from a checkpoint.
    pub is_restored: bool,
    /// Rises whenever one ends.
    pub life: u64,
    /// To each server.
    pub links: Vec<Option<u64>>,
    began_at: u64,
    /// Its clock runs so many millionths as fast as time.
    pub rate_ppm: u64,
    hearts: Vec<Heart>,
    /// Requests for tickets that wait.
    pub asking: Vec<Asking>,
    /// Tickets done, void and torn, as far as they are counted.
    pub settled: (u64, u64, u64),
}

struct Heart {
    connection: ConnectionId,
    incarnation: Incarnation,
    heard: Heard,
    is_over: bool,
}

impl LeadSide {
    /// Nobody has come yet.
    pub fn new(job: &Job, random: &mut Random) -> LeadSide {
        let rate_ppm = random.between(950_000, 1_050_000);
        LeadSide {
            state: LeadState::new(job.settings(None)),
            generation: GENERATION,
            is_leading: job.checkpoints.is_none(),
            is_restored: false,
            life: 0,
            links: vec![None; job.spec.job.servers as usize],
            began_at: 0,
            rate_ppm,
            hearts: Vec::new(),
            asking: Vec::new(),
            settled: (0, 0, 0),
        }
    }

    /// Leads a generation of a job that keeps checkpoints.
    pub fn leading(
        job: &Job,
        keeping: Keeping,
        generation: Generation,
        life: u64,
        began_at: u64,
        random: &mut Random,
    ) -> LeadSide {
        let is_restored = keeping.restored.is_some();
        let state = LeadState::new(job.settings(Some(keeping)));
        LeadSide { state, generation, is_leading: true, is_restored, life, began_at, ..LeadSide::new(job, random) }
    }

    /// Whether every step is complete, and kept if it is to be.
    pub fn is_finished(&self) -> bool {
        self.state.phase() == Phase::Finished
    }

    /// Nobody is listened to any more: the connections of those who were.
    pub fn forget_all(&mut self) -> Vec<ConnectionId> {
        let hearts = std::mem::take(&mut self.hearts).into_iter().map(|heart| heart.connection);
        let asking = std::mem::take(&mut self.asking).into_iter().map(|asking| asking.connection());
        hearts.chain(asking).collect()
    }

    /// Whether the job ended early.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state.phase(), Phase::Stopped(_))
    }

    /// A heartbeat stream is gone, or whoever waits for a ticket.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.asking.retain(|asking| !asking.is_of(connection));
        self.hearts.retain(|heart| heart.connection != connection);
    }
}

/// How somebody of a generation introduces itself.
pub fn hello(generation: Generation) -> Hello {
    let (job, fingerprint) = (JobId("simulation".to_owned()), Fingerprint::default());
    Hello { protocol_version: PROTOCOL_VERSION, job: Some(job), generation, incarnation: Incarnation(0), fingerprint }
}

impl World<'_> {
    /// What the lead's clock says.
    pub fn lead_now(&self) -> Duration {
        let passed = self.now - self.lead.began_at;
        Duration::from_micros((u128::from(passed) * u128::from(self.lead.rate_ppm) / 1_000_000) as u64)
    }

    pub(crate) fn lead_tick(&mut self) {
        self.queue.push(self.now + TICK_US * 1_000_000 / self.lead.rate_ppm, Event::LeadTick);
        if !self.lead.is_leading {
            return self.check_liveness();
        }
        let (before, behind, arriving) = (self.lead.state.workers().len(), self.behind(), self.arriving());
        let now = self.lead_now();
        self.lead.state.clock(now);
        let effects = self.lead.state.tick(now);
        self.note_stood_back(behind);
        for incarnation in arriving {
            if self.lead.state.workers().get(&incarnation).is_some_and(|worker| !worker.arriving) {
                self.coverage.pass(Transition::Arrived);
            }
        }
        for effect in &effects {
            if matches!(effect, Effect::Notify(_, Notice::Fenced(_))) {
                self.coverage.pass(Transition::Fenced);
            }
        }
        let lost = before - self.lead.state.workers().len();
        self.carry_out(effects, lost > 0);
        self.check_liveness();
    }

    /// A server registers. Its number is the one that the lead gives it.
    pub(crate) fn register(&mut self, server: usize, life: u64) {
        if self.scenario.job.checkpoints.is_some() {
            return self.register_again(server, life);
        }
        let incarnation = Incarnation(self.random.next());
        let registered = self.lead.state.register(incarnation, format!("http://s{server}").into(), None);
        match registered {
            // Which process becomes which server makes no difference: they are alike.
            Ok(index) => {
                self.lead.links[index.0 as usize] = Some(0);
                self.servers[index.0 as usize].admit(index, incarnation, GENERATION, 0);
            }
            Err(refusal) => self.promises.fail(format!("a server that the job waits for was refused: {refusal}")),
        }
        self.coverage.pass(Transition::Registered);
        self.notice_all();
    }

    pub(crate) fn take_report(&mut self, server: usize, link: u64, report: Report) {
        if self.servers[server].is_lost || self.lead.links[server] != Some(link) {
            return self.keep_for_former_lead(server, link, report);
        }
        let now = self.lead_now();
        self.lead.state.clock(now);
        let index = ServerIndex(server as u32);
        let before = self.lead.state.complete_step();
        let behind = self.behind();
        let was_finished = self.lead.is_finished();
        let effects = match report {
            Report::Placed(_) => self.lead.state.placed(index),
            Report::Complete(step) => self.lead.state.complete(index, step),
            Report::Partial(partial) => self.lead.state.partial(partial),
            Report::Halted(refusal) => self.lead.state.halted(refusal),
            Report::Missing(step, slots) => {
                let now = self.lead_now();
                self.lead.state.missing(now, step, &slots)
            }
            Report::LastStep(step) => self.lead.state.last_step(index, step),
            Report::Load(load) => {
                self.lead.state.load(index, load);
                Vec::new()
            }
            Report::Slots { step, slots } => self.lead.state.slots_complete(index, step, &slots),
            Report::Pushes(pushes) => {
                let effects = self.lead.state.pushes(index, &pushes);
                self.check_pushes(server, &pushes);
                effects
            }
            Report::CutPassed { step, newest } => {
                self.coverage.pass(Transition::CutPassed);
                self.lead.state.cut_passed(index, step, newest)
            }
            Report::CutTaken(step) => self.lead.state.cut_taken(index, step),
            Report::Saved(step, file) => self.lead.state.saved(index, step, file),
            Report::SaveFailed(step, reason) => {
                if self.lead.state.cuts().and_then(Cuts::under_way) == Some(step) {
                    self.note_checkpoint_ended(step, Some(&reason));
                }
                self.lead.state.save_failed(index, step, &reason)
            }
            Report::Register { .. } => Vec::new(),
        };
        self.note_stood_back(behind);
        if self.lead.is_finished() && !was_finished {
            self.coverage.pass(Transition::Finished);
        }
        self.promises.check_lead_step(before, self.lead.state.complete_step());
        self.carry_out(effects, false);
    }

    pub(crate) fn lead_hears(&mut self, connection: ConnectionId, message: Up) {
        let worker = self.network.get(connection).worker;
        let life = self.network.get(connection).life;
        let incarnation = self.workers[worker].incarnation_of(life);
        if let Err(refusal) = self.check_peer(self.workers[worker].generation_of(life)) {
            self.coverage.count("refusal", refusal.cause);
            self.lead.forget(connection);
            let answer = match message {
                Up::Join => Down::Joined(Box::new(Err(refusal))),
                Up::Ticket(_) => Down::Ticket(Err(refusal)),
                _ => Down::Ended(refusal),
            };
            return self.push_down(connection, answer);
        }
        match message {
            Up::Join => self.lead_joins(connection, worker, incarnation),
            Up::Leave => {
                let was_member = self.lead.state.workers().contains_key(&incarnation);
                let effects = self.lead.state.leave(incarnation);
                if was_member {
                    self.coverage.pass(Transition::Left);
                }
                self.carry_out(effects, true);
                self.push_down(connection, Down::Left);
            }
            Up::Beat { step, unreachable, ready } => {
                let now = self.lead_now();
                match self.lead.state.heartbeat(now, incarnation, step, unreachable, ready) {
                    Ok(()) => self.beat_heard(connection, incarnation),
                    Err(refusal) => {
                        self.coverage.count("refusal", refusal.cause);
                        self.lead.forget(connection);
                        self.push_down(connection, Down::Ended(refusal));
                    }
                }
            }
            Up::Ticket(sequence) => self.lead_asked(connection, incarnation, sequence),
            Up::Pull(_) | Up::Open { .. } | Up::Contribution(_) | Up::Mark(_) => {}
        }
    }

    /// What the lead says to somebody of this generation, or of none yet.
    fn check_peer(&self, generation: Option<Generation>) -> Result<(), Refusal> {
        if !self.lead.is_leading {
            return Err(Refusal::new(RefusalCause::NotReady, "the job is about to begin"));
        }
        hello(self.lead.generation).check(&hello(generation.unwrap_or(self.lead.generation)))
    }

    fn lead_joins(&mut self, connection: ConnectionId, worker: usize, incarnation: Incarnation) {
        let (now, manifest) = (self.lead_now(), self.scenario.job.manifest.clone());
        let is_new = !self.lead.state.workers().contains_key(&incarnation);
        let (joined, effects) = self.lead.state.join(now, incarnation, Fingerprint::default(), manifest);
        match &joined {
            Ok(joined) => {
                let kind = match (is_new, joined.step, self.lead.state.workers().len()) {
                    (false, ..) => Transition::JoinedAgain,
                    (true, None, _) => Transition::JoinedAtFirst,
                    (true, _, 1) => Transition::JoinedAlone,
                    (true, _, _) => Transition::JoinedLater,
                };
                self.coverage.pass(kind);
                if joined.assignment.nodes.is_empty() {
                    self.coverage.pass(Transition::JoinedAsSpare);
                }
            }
            Err(refusal) => self.coverage.count("refusal", refusal.cause),
        }
        let has_joined = joined.is_ok();
        if has_joined
            && let Expected::Tickets(ledger) = &mut self.promises.expected
            && let Err(violation) = ledger.join(incarnation, self.lead.state.tickets())
        {
            self.promises.fail(violation);
        }
        self.carry_out(effects, false);
        let generation = self.lead.generation;
        self.push_down(connection, Down::Joined(Box::new(joined.map(|joined| (generation, joined)))));
        if has_joined {
            self.reached(crate::faults::Point::Joining, worker);
        }
    }

    fn beat_heard(&mut self, connection: ConnectionId, incarnation: Incarnation) {
        if !self.lead.state.workers().contains_key(&incarnation) {
            self.promises.fail(format!("P7: the heartbeat of {incarnation} was taken, which is no member"));
        }
        if self.lead.hearts.iter().all(|heart| heart.connection != connection) {
            self.push_down(connection, Down::HeartbeatsHeard);
            self.lead.hearts.push(Heart { connection, incarnation, heard: Heard::default(), is_over: false });
            self.pump_notices_of(connection);
        }
    }

    fn behind(&self) -> usize {
        self.lead.state.workers().values().filter(|worker| worker.behind.is_some()).count()
    }

    fn arriving(&self) -> Vec<Incarnation> {
        let workers = self.lead.state.workers().iter();
        workers.filter(|(_, worker)| worker.arriving).map(|(incarnation, _)| *incarnation).collect()
    }

    /// Whoever gets the slots of one that stands back gets time for them.
    fn note_stood_back(&mut self, before: usize) {
        for _ in before..self.behind() {
            self.coverage.pass(Transition::StoodBack);
            self.promises.note_disturbance(self.now);
        }
    }

    /// Carries effects out; `is_death`: slots have moved because a worker is gone.
    pub(crate) fn carry_out(&mut self, effects: Vec<Effect>, is_death: bool) {
        let acted = !effects.is_empty();
        let mut goes_back = false;
        if let Expected::Tickets(ledger) = &mut self.promises.expected
            && self.lead.is_leading
        {
            ledger.note_living(|worker| self.lead.state.workers().contains_key(&worker));
        }
        let mut reassigned = Vec::new();
        for effect in effects {
            match effect {
                Effect::Order(index, order) => {
                    if let Order::Close { step, slots } = &order {
                        self.note_closing(index, *step, slots);
                    }
                    if let Order::Void(tickets) = &order {
                        self.ledger(|ledger| ledger.order_void(index.0 as usize, tickets));
                    }
                    match &order {
                        Order::Cut(_) => self.coverage.pass(Transition::CutOrdered),
                        Order::Durable(step) => self.check_durable(*step),
                        _ => {}
                    }
                    self.send_order(index, order);
                }
                Effect::Commit(written) => self.begin_to_commit(written),
                Effect::Recover(_) => goes_back = true,
                Effect::LetGo(_) => unreachable!("simulated jobs wait for all servers"),
                Effect::Notify(incarnation, Notice::Assignment(assignment)) => {
                    let told = [8, assignment.epoch, assignment.from_step.0, assignment.nodes.len() as u64];
                    self.trace.note(self.now, &told, || {
                        let nodes: Vec<String> = assignment.nodes.iter().map(ToString::to_string).collect();
                        let place = self.workers.iter().position(|worker| worker.incarnation == incarnation);
                        format!("lead: worker {place:?} has [{}] from {}", nodes.join(" "), assignment.from_step)
                    });
                    let kind = if is_death { Transition::Reassigned } else { Transition::Assigned };
                    self.coverage.pass(kind);
                    if is_death && !assignment.nodes.is_empty() {
                        reassigned.push(incarnation);
                    }
                }
                Effect::Notify(..) | Effect::HoldChanged => {}
                Effect::TicketReady(incarnation) => self.call_to_desk(incarnation),
                Effect::LoadInitialWeights => self.send_initial_weights(),
                Effect::Warn(message) => {
                    self.coverage.pass(Transition::Warned);
                    self.trace.note(self.now, &[7], || format!("lead: {message}"));
                }
            }
        }
        for incarnation in reassigned {
            if let Some(worker) = self.workers.iter().position(|worker| worker.incarnation == incarnation) {
                self.reached(crate::faults::Point::Reassigned, worker);
            }
        }
        if goes_back {
            self.notice_all();
            return self.go_back();
        }
        let servers = self.servers.len();
        self.ledger(|ledger| ledger.check_void(servers));
        self.check_membership();
        if acted {
            self.notice_all();
        }
    }

    fn send_order(&mut self, index: ServerIndex, order: Order) {
        let server = index.0 as usize;
        let Some(link) = self.lead.links[server] else { return };
        let at_us = self.servers[server].order_arrival(self.now, &mut self.random);
        self.queue.push(at_us, Event::Order { server, link, order });
    }

    fn send_initial_weights(&mut self) {
        let orders = self.scenario.job.initial_orders(self.lead.state.model(), self.lead.generation);
        for (index, order) in orders {
            self.send_order(index, order);
        }
    }

    pub(crate) fn notice_all(&mut self) {
        let listening: Vec<ConnectionId> = self.lead.hearts.iter().map(|heart| heart.connection).collect();
        for connection in listening {
            self.pump_notices_of(connection);
        }
    }

    pub(crate) fn pump_notices_of(&mut self, connection: ConnectionId) {
        if self.network.get(connection).in_flight[Way::Down as usize] >= NOTICES_MAX {
            return; // read off the state once there is room
        }
        let Some(heart) = self.lead.hearts.iter_mut().find(|heart| heart.connection == connection) else { return };
        if heart.is_over {
            return;
        }
        for notice in self.lead.state.notices(heart.incarnation, &mut heart.heard) {
            heart.is_over |= matches!(notice, Notice::Fenced(_) | Notice::Stopped(_));
            let passage = self.network.send(connection, Way::Down, None, self.now, &mut self.random);
            if let Some(passage) = passage {
                let (number, message) = (passage.number, Down::Notice(notice));
                self.queue.push(passage.at_us, Event::Down { connection, number, is_copy: false, message });
            }
        }
    }
}
