//! A worker in virtual time: its process, joining and leaving. What it does as a member is in `streams.rs` and
//! `working.rs`; what it decides is the SDK's (`halflife_client::simulation`).

use std::collections::{BTreeSet, HashMap};

use halflife_client::simulation::WorkerDecisions;
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::{Generation, Incarnation, ServerIndex};
use halflife_proto::membership::Notice;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_server::lead::simulation::Joined;

use crate::coverage::Transition;
use crate::event::{Down, Event, Timer, Up};
use crate::network::{ConnectionId, End, Kind};
use crate::pushing::Pushing;
use crate::random::Random;
use crate::streams::{BACKOFF_MAX_US, BACKOFF_MIN_US, Stream};
use crate::working::Activity;
use crate::world::World;

/// A call or an opening without an answer for so long is given up.
pub const PATIENCE_US: u64 = 1_500_000;

/// A place where a worker runs: one process after the other.
pub struct Worker {
    /// Rises with every process and every membership: what was foreseen for an earlier one does not happen.
    pub life: u64,
    pub incarnation: Incarnation,
    earlier: Vec<(u64, Incarnation)>,
    /// The generation that each of its memberships is of, by life.
    generations: HashMap<u64, Generation>,
    pub state: State,
    /// Its clock runs so many millionths as fast as time.
    pub rate_ppm: u64,
    /// To compute one slot.
    pub slot_us: u64,
    pub is_paused: bool,
    /// What happened to it while it stood still.
    pub deferred: Vec<Event>,
    /// Since when nothing is wrong with it and its links.
    pub healthy_since: Option<u64>,
    /// Blocks sent of the step under way.
    pub blocks_sent: u64,
}

/// What the process is up to.
pub enum State {
    Down,
    Joining {
        call: Option<ConnectionId>,
        backoff_us: u64,
    },
    Member(Box<Member>),
    /// It has left, or knows that the job is over; it does not come back.
    Gone,
}

/// A worker that has joined.
pub struct Member {
    pub decisions: WorkerDecisions,
    /// One per server, then the one to the lead.
    pub streams: Vec<Stream>,
    /// Servers it cannot reach just now.
    pub unreachable: BTreeSet<ServerIndex>,
    pub activity: Activity,
    /// With tickets: where it is with them.
    pub pushing: Pushing,
    /// Counts changes of what it knows.
    pub changes: u64,
    /// The operator asks it to leave.
    pub is_drained: bool,
    /// Streams to servers opened so far.
    pub opened: u64,
    pub is_leaving: bool,
    /// What was sent is about to be sent again.
    pub sends_again: bool,
    /// The lead was told that it can compute.
    pub was_ready: bool,
}

impl Worker {
    /// Not started.
    pub fn new(random: &mut Random) -> Worker {
        Worker {
            life: 0,
            incarnation: Incarnation(0),
            earlier: Vec::new(),
            generations: HashMap::new(),
            state: State::Down,
            rate_ppm: random.between(950_000, 1_050_000),
            slot_us: random.between(500, 8_000),
            is_paused: false,
            deferred: Vec::new(),
            healthy_since: None,
            blocks_sent: 0,
        }
    }

    /// The member, if it is one.
    pub fn member(&mut self) -> Option<&mut Member> {
        match &mut self.state {
            State::Member(member) => Some(member),
            _ => None,
        }
    }

    /// Whether it does not come back.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// Who it was in a life.
    pub fn incarnation_of(&self, life: u64) -> Incarnation {
        let earlier = self.earlier.iter().find(|(known, _)| *known == life);
        earlier.map_or(self.incarnation, |(_, incarnation)| *incarnation)
    }

    /// The generation of its membership in a life; `None` for who only wants to join.
    pub fn generation_of(&self, life: u64) -> Option<Generation> {
        self.generations.get(&life).copied()
    }

    /// The generation that it is a member of.
    pub fn generation(&self) -> Option<Generation> {
        self.generation_of(self.life)
    }

    /// Its blocks on a server.
    pub fn blocks_of(&self, server: ServerIndex) -> Vec<BlockId> {
        match &self.state {
            State::Member(member) => member.decisions.blocks_of(server),
            _ => Vec::new(),
        }
    }

    /// Time until its clock has advanced by `own_us`.
    pub fn wait(&self, own_us: u64) -> u64 {
        own_us * 1_000_000 / self.rate_ppm
    }

    fn begin_life(&mut self, random: &mut Random) {
        self.earlier.push((self.life, self.incarnation));
        self.life += 1;
        self.incarnation = Incarnation(random.next());
        self.blocks_sent = 0;
    }
}

impl World<'_> {
    pub(crate) fn set_timer(&mut self, worker: usize, own_us: u64, timer: Timer) {
        let (life, wait) = (self.workers[worker].life, self.workers[worker].wait(own_us));
        self.queue.push(self.now + wait, Event::Timer { worker, life, timer });
    }

    /// A process starts, or a member begins anew as another incarnation.
    pub(crate) fn start(&mut self, worker: usize) {
        if self.workers[worker].is_gone() {
            return;
        }
        self.workers[worker].begin_life(&mut self.random);
        self.workers[worker].state = State::Joining { call: None, backoff_us: BACKOFF_MIN_US };
        self.ask_to_join(worker);
    }

    fn ask_to_join(&mut self, worker: usize) {
        let connection = self.open(worker, self.servers.len(), Kind::Call, Up::Join);
        if let State::Joining { call, .. } = &mut self.workers[worker].state {
            *call = Some(connection);
        }
    }

    /// Opens a connection with its first message, and will give it up without an answer.
    pub(crate) fn open(&mut self, worker: usize, peer: usize, kind: Kind, first: Up) -> ConnectionId {
        let connection = self.network.open(worker, self.workers[worker].life, peer, kind);
        self.push_up(connection, first);
        self.set_timer(worker, PATIENCE_US, Timer::Unanswered(connection));
        connection
    }

    /// A time between half of `backoff_us` and all of it; the next is twice as long.
    pub(crate) fn next_backoff(&mut self, backoff_us: u64) -> (u64, u64) {
        let wait = self.random.between(backoff_us / 2, backoff_us);
        (wait, (2 * backoff_us).min(BACKOFF_MAX_US))
    }

    fn join_failed(&mut self, worker: usize) {
        let State::Joining { backoff_us, .. } = self.workers[worker].state else { return };
        let (wait, next) = self.next_backoff(backoff_us);
        self.workers[worker].state = State::Joining { call: None, backoff_us: next };
        self.set_timer(worker, wait, Timer::Join);
    }

    pub(crate) fn take_timer(&mut self, worker: usize, timer: Timer) {
        match timer {
            Timer::Join => self.ask_to_join(worker),
            Timer::Beat => self.beat(worker),
            Timer::Open(peer) => self.open_stream(worker, peer),
            Timer::Computed => self.computed(worker),
            Timer::SendAgain => self.send_again(worker),
            Timer::Ask => self.ask_again(worker),
            Timer::Mark(number) => self.mark_is_late(worker, number),
            Timer::Flush => self.flush_is_over(worker),
            Timer::Patience { changes } => self.patience_is_over(worker, changes),
            Timer::Unanswered(connection) => {
                let known = self.network.get(connection);
                if !known.is_answered && known.is_open[End::Worker as usize] {
                    self.coverage.pass(Transition::GaveUpWaiting);
                    self.network.lose(connection, &mut self.random);
                    self.queue.push(self.now, Event::Ended { connection, end: End::Peer });
                    self.worker_end_notices(connection);
                }
            }
        }
    }

    /// A connection of the worker's ended under its hands.
    pub(crate) fn worker_end_notices(&mut self, connection: ConnectionId) {
        let known = self.network.get_mut(connection);
        if !known.is_open[End::Worker as usize] {
            return;
        }
        known.is_open[End::Worker as usize] = false;
        let (worker, kind, life) = (known.worker, known.kind, known.life);
        if self.workers[worker].life != life {
            return;
        }
        match kind {
            Kind::Call => self.call_failed(worker, connection),
            Kind::Data | Kind::Heartbeat => self.stream_ended(worker, connection),
        }
    }

    fn call_failed(&mut self, worker: usize, connection: ConnectionId) {
        match &mut self.workers[worker].state {
            State::Joining { call, .. } if *call == Some(connection) => self.join_failed(worker),
            State::Member(member) if member.is_leaving => self.is_gone_for_good(worker),
            State::Member(member) if matches!(member.activity, Activity::Asking(_)) => {
                self.asking_failed(worker, connection);
            }
            State::Member(_) => self.pull_failed(worker),
            _ => {}
        }
    }

    /// The worker lets go of a connection; what is under way still arrives.
    pub(crate) fn close(&mut self, connection: ConnectionId) {
        self.network.get_mut(connection).is_open[End::Worker as usize] = false;
        let at_us = self.now + self.random.between(5_000, 30_000);
        self.queue.push(at_us, Event::Ended { connection, end: End::Peer });
    }

    /// What was refused may be taken by now.
    fn send_again(&mut self, worker: usize) {
        if let Some(member) = self.workers[worker].member() {
            member.sends_again = false;
            member.decisions.forget_sent();
            self.changed(worker);
        }
    }

    pub(crate) fn take_down(&mut self, connection: ConnectionId, message: Down) {
        let known = self.network.get(connection);
        let (worker, peer, life) = (known.worker, known.peer, known.life);
        if self.workers[worker].life != life {
            return;
        }
        match message {
            Down::Joined(joined) => {
                self.close(connection);
                match *joined {
                    Ok((generation, joined)) => self.become_member(worker, generation, joined),
                    Err(refusal) => self.join_refused(worker, &refusal),
                }
            }
            Down::Left => {
                self.close(connection);
                self.is_gone_for_good(worker);
            }
            Down::Ticket(answer) => {
                self.close(connection);
                self.ticket_answered(worker, connection, answer);
            }
            Down::Mark(number) => self.mark_back(worker, peer, number),
            Down::Pulled(pulled) => {
                self.close(connection);
                self.pulled(worker, peer, pulled);
            }
            Down::HeartbeatsHeard => self.stream_opened(worker, connection, None),
            Down::Notice(notice) => self.notified(worker, notice),
            Down::Welcome(step) => self.stream_opened(worker, connection, Some(step)),
            Down::Weights(weights) => self.receive_weights(worker, peer, &weights),
            Down::Acknowledged => {}
            Down::Refusal(refusal) | Down::Ended(refusal) => self.refused(worker, connection, &refusal),
        }
    }

    fn join_refused(&mut self, worker: usize, refusal: &Refusal) {
        match refusal.cause {
            RefusalCause::NotReady => self.join_failed(worker),
            RefusalCause::JobStopped => self.is_gone_for_good(worker),
            _ => self.promises.fail(format!("an honest worker may not join: {refusal}")),
        }
    }

    fn become_member(&mut self, worker: usize, generation: Generation, joined: Joined) {
        let (job, placement) = (&self.scenario.job, &joined.placement);
        let life = self.workers[worker].life;
        self.workers[worker].generations.insert(life, generation);
        let decisions = match WorkerDecisions::new(job.terms(generation), &job.manifest, placement, joined.assignment) {
            Ok(decisions) => decisions,
            Err(refusal) => return self.promises.fail(format!("an assignment makes no sense: {refusal}")),
        };
        let streams = (0..=self.servers.len()).map(|_| Stream::new(joined.step)).collect();
        self.workers[worker].state = State::Member(Box::new(Member {
            decisions,
            streams,
            unreachable: BTreeSet::new(),
            activity: Activity::Waiting,
            pushing: Pushing::new(),
            changes: 0,
            is_drained: false,
            opened: 0,
            is_leaving: false,
            sends_again: false,
            was_ready: false,
        }));
        self.trace.note(self.now, &[1, worker as u64], || format!("worker {worker} has joined"));
        self.set_timer(worker, crate::scenario::HEARTBEAT_US, Timer::Beat);
        // The heart first, since the lease runs from the join; then one server after the other.
        self.open_stream(worker, self.servers.len());
    }

    fn notified(&mut self, worker: usize, notice: Notice) {
        let Some(member) = self.workers[worker].member() else { return };
        match notice {
            Notice::Assignment(assignment) => {
                if let Err(refusal) = member.decisions.assign(assignment) {
                    self.promises.fail(format!("an assignment makes no sense: {refusal}"));
                }
            }
            Notice::Finished(step) => {
                member.decisions.finish(step);
                self.coverage.pass(Transition::HeardOfTheEnd);
            }
            Notice::Hold(after) => {
                member.decisions.hold(after);
                self.coverage.pass(Transition::HeardOfARest);
            }
            Notice::Drained => {
                member.is_drained = true;
                self.coverage.pass(Transition::HeardOfADrain);
            }
            Notice::Fenced(_) => return self.rejoin(worker),
            Notice::Stopped(_) => {
                self.coverage.pass(Transition::HeardOfTheStop);
                return self.is_gone_for_good(worker);
            }
        }
        self.changed(worker);
    }
}
