//! A member's streams in virtual time: to every server and to the lead, opened again when they break.
//!
//! As the SDK does it: the heart first, then the servers in turn; a broken stream is opened again after a growing
//! pause, beginning with the newest version that the worker has, and what was sent to anyone is then work again.

use std::collections::VecDeque;

use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};

use crate::coverage::Transition;
use crate::event::{Timer, Up};
use crate::faults::Point;
use crate::network::{ConnectionId, Kind, Way};
use crate::scenario::HEARTBEAT_US;
use crate::world::World;

pub const BACKOFF_MIN_US: u64 = 50_000;
pub const BACKOFF_MAX_US: u64 = 2_000_000;
/// One shipment being sent, and as many queued as `server_stream.rs` has.
pub const SHIPMENTS_MAX: usize = 3;

/// As in the client's `session.rs`.
const SEND_AGAIN_AFTER_US: u64 = 50_000;

/// A stream of a member.
pub struct Stream {
    pub connection: Option<ConnectionId>,
    pub is_open: bool,
    /// Whether it was open before.
    was_open: bool,
    from_step: Option<Step>,
    /// Opened again, it begins with the newest version that the worker has then.
    begins_with_newest: bool,
    backoff_us: u64,
    /// What waits to be sent; the first is being sent.
    pub shipments: VecDeque<VecDeque<Up>>,
}

impl Stream {
    /// Not opened yet; weights will begin with a step.
    pub fn new(from_step: Option<Step>) -> Stream {
        Stream {
            connection: None,
            is_open: false,
            was_open: false,
            from_step,
            begins_with_newest: false,
            backoff_us: BACKOFF_MIN_US,
            shipments: VecDeque::new(),
        }
    }

    /// Whether it is open, or was before it broke.
    pub fn has_been_open(&self) -> bool {
        self.was_open
    }
}

impl World<'_> {
    pub(crate) fn open_stream(&mut self, worker: usize, peer: usize) {
        let is_lead = peer == self.servers.len();
        let Some(member) = self.workers[worker].member() else { return };
        if member.streams[peer].connection.is_some() {
            return;
        }
        let newest = member.decisions.weights().map(|weights| weights.step);
        let stream = &mut member.streams[peer];
        if stream.begins_with_newest {
            stream.from_step = newest;
        }
        let first = match is_lead {
            true => Up::Beat {
                step: member.decisions.current_step(),
                unreachable: member.unreachable.iter().copied().collect(),
                ready: member.decisions.is_ready(),
            },
            false => Up::Open { from_step: member.streams[peer].from_step },
        };
        let kind = if is_lead { Kind::Heartbeat } else { Kind::Data };
        let connection = self.open(worker, peer, kind, first);
        if let Some(member) = self.workers[worker].member() {
            member.streams[peer].connection = Some(connection);
        }
    }

    /// A peer has taken the stream; a server says which step it has complete.
    pub(crate) fn stream_opened(&mut self, worker: usize, connection: ConnectionId, server_step: Option<Option<Step>>) {
        let peer = self.network.get(connection).peer;
        let servers = self.servers.len();
        let Some(member) = self.workers[worker].member() else { return };
        let stream = &mut member.streams[peer];
        if stream.connection != Some(connection) {
            return;
        }
        stream.is_open = true;
        stream.backoff_us = BACKOFF_MIN_US;
        let was_open = std::mem::replace(&mut stream.was_open, true);
        if let Some(step) = server_step {
            member.unreachable.remove(&ServerIndex(peer as u32));
            member.opened += 1;
            member.decisions.forget_sent();
            if step.is_none() {
                member.decisions.note_uninitialized();
            }
        }
        if was_open {
            if peer == servers {
                member.decisions.hold(None);
            }
            let kind = if peer == servers { Transition::HeartAgain } else { Transition::StreamAgain };
            self.coverage.pass(kind);
            return self.push_may_be_lost(worker);
        }
        let next = if peer == servers { 0 } else { peer + 1 };
        if next < servers {
            self.open_stream(worker, next);
        } else {
            self.coverage.pass(Transition::MemberComplete);
            self.changed(worker);
        }
    }

    pub(crate) fn stream_ended(&mut self, worker: usize, connection: ConnectionId) {
        let (peer, servers) = (self.network.get(connection).peer, self.servers.len());
        let Some(member) = self.workers[worker].member() else { return };
        let stream = &mut member.streams[peer];
        if stream.connection != Some(connection) {
            return;
        }
        stream.connection = None;
        stream.is_open = false;
        stream.shipments.clear();
        let server = ServerIndex(peer as u32);
        if peer < servers {
            // Before it was open for the first time it is opened whatever the server has, as `member/opening.rs` does.
            if member.streams[peer].was_open && member.decisions.has_all_of(server) {
                self.changed(worker); // it owes nothing more
                return self.sending_may_go_on(worker);
            }
            member.unreachable.insert(server);
            member.streams[peer].begins_with_newest = true;
        }
        self.open_later(worker, peer);
        self.sending_may_go_on(worker);
    }

    fn open_later(&mut self, worker: usize, peer: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        let backoff_us = member.streams[peer].backoff_us;
        let (wait, next) = self.next_backoff(backoff_us);
        if let Some(member) = self.workers[worker].member() {
            member.streams[peer].backoff_us = next;
        }
        self.set_timer(worker, wait, Timer::Open(peer));
    }

    /// A peer said no: to the stream, or to something in it.
    pub(crate) fn refused(&mut self, worker: usize, connection: ConnectionId, refusal: &Refusal) {
        let peer = self.network.get(connection).peer;
        // A generation that is over may have been about to end, too.
        let ends_early = self.lead.state.ends_early() || !self.is_up_to_date(worker);
        let Some(member) = self.workers[worker].member() else { return };
        match refusal.cause {
            _ if member.is_leaving && peer == self.servers.len() => self.is_gone_for_good(worker),
            RefusalCause::Fenced => self.rejoin(worker),
            RefusalCause::WrongGeneration => {
                self.coverage.pass(Transition::HeardOfAGeneration);
                self.rejoin(worker);
            }
            RefusalCause::StepGone | RefusalCause::StepAhead if !member.streams[peer].is_open => {
                self.close(connection);
                let Some(member) = self.workers[worker].member() else { return };
                let stream = &mut member.streams[peer];
                stream.connection = None;
                stream.begins_with_newest = false;
                match stream.from_step.take() {
                    // The job went on: begin with what the server has.
                    Some(_) => self.open_stream(worker, peer),
                    None => self.open_later(worker, peer),
                }
            }
            RefusalCause::NotReady => {
                self.close(connection);
                if let Some(member) = self.workers[worker].member() {
                    member.streams[peer].connection = None;
                }
                self.open_later(worker, peer);
            }
            // A notice says so, too.
            RefusalCause::JobStopped => {}
            // The operator ends the job, and the notice of it is under way.
            RefusalCause::StepAhead if ends_early => {
                self.coverage.pass(Transition::RefusedBeyondTheEnd);
                if !std::mem::replace(&mut member.sends_again, true) {
                    self.set_timer(worker, SEND_AGAIN_AFTER_US, Timer::SendAgain);
                }
            }
            _ => self.promises.fail(format!("an honest worker was refused: {refusal}")),
        }
    }

    pub(crate) fn beat(&mut self, worker: usize) {
        self.set_timer(worker, HEARTBEAT_US, Timer::Beat);
        self.beat_now(worker);
    }

    /// The lead waits for a worker that has just got the first weights.
    pub(crate) fn may_be_ready(&mut self, worker: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        if member.decisions.is_ready() && !std::mem::replace(&mut member.was_ready, true) {
            self.beat_now(worker);
        }
    }

    fn beat_now(&mut self, worker: usize) {
        let lead = self.servers.len();
        let Some(member) = self.workers[worker].member() else { return };
        if let (Some(connection), true) = (member.streams[lead].connection, member.streams[lead].is_open) {
            let (step, ready) = (member.decisions.current_step(), member.decisions.is_ready());
            let unreachable = member.unreachable.iter().copied().collect();
            if self.network.has_room(connection, Way::Up) {
                self.push_up(connection, Up::Beat { step, unreachable, ready });
            }
        }
    }

    /// Sends what waits, as far as the connection takes it.
    pub(crate) fn pump_up(&mut self, connection: ConnectionId) {
        let known = self.network.get(connection);
        let (worker, peer, life) = (known.worker, known.peer, known.life);
        if self.workers[worker].is_paused || self.workers[worker].life != life || peer == self.servers.len() {
            return;
        }
        while self.network.has_room(connection, Way::Up) {
            let Some(member) = self.workers[worker].member() else { return };
            let stream = &mut member.streams[peer];
            if stream.connection != Some(connection) {
                return;
            }
            let Some(shipment) = stream.shipments.front_mut() else { return };
            let Some(message) = shipment.pop_front() else {
                stream.shipments.pop_front();
                if member.streams.iter().any(|stream| !stream.shipments.is_empty()) {
                    self.reached(Point::BetweenServers, worker);
                }
                self.sending_may_go_on(worker);
                continue;
            };
            let is_initial = match &message {
                Up::Contribution(contribution) => contribution.step == Step::ZERO && contribution.push.is_none(),
                _ => {
                    self.push_up(connection, message);
                    continue;
                }
            };
            self.push_up(connection, message);
            self.workers[worker].blocks_sent += 1;
            self.reached(if is_initial { Point::Initializing } else { Point::AfterBlocks }, worker);
        }
    }
}
