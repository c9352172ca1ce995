//! Faults strike: what each does to the processes, links and connections of one worker.

use crate::coverage::Transition;
use halflife_proto::membership::Operation;

use crate::event::Event;
use crate::faults::{Fault, Point};
use crate::network::{ConnectionId, End, Way};
use crate::scenario::Ending;
use crate::worker::State;
use crate::world::World;

/// Silence after which an end gives a connection up.
pub const KEEPALIVE_US: u64 = 3_000_000;
/// A point that nobody came to for so many steps is not waited for any longer.
const POINT_STEPS_MAX: u64 = 12;

impl World<'_> {
    /// A step is complete everywhere: the faults that wait for it begin to count down, or wait for their point.
    pub(crate) fn set_off_faults(&mut self, step: u64) {
        let scenario = self.scenario;
        while let Some(planned) = scenario.faults.get(self.next_fault).filter(|planned| planned.at_step <= step) {
            match planned.point {
                Point::Now => self.queue.push(self.now + planned.after_us, Event::Fault(self.next_fault)),
                _ => self.armed.push(self.next_fault),
            }
            self.next_fault += 1;
        }
        for planned in std::mem::take(&mut self.armed) {
            match scenario.faults[planned].at_step + POINT_STEPS_MAX < step {
                true => self.queue.push(self.now, Event::Fault(planned)),
                false => self.armed.push(planned),
            }
        }
        if let Ending::ServerLost(at_step) = scenario.ending
            && step >= at_step
            && self.servers.iter().all(|server| !server.is_lost)
        {
            self.lose_server(1);
        }
        if let Ending::Early { at_step, after_us } = scenario.ending
            && step >= at_step
        {
            self.queue.push(self.now + after_us, Event::EndEarly);
        }
    }

    /// A fault that waits for no point, or waited too long, strikes some worker that is there.
    pub(crate) fn strike_planned(&mut self, planned: usize) {
        let there: Vec<usize> = (0..self.workers.len())
            .filter(|worker| {
                let worker = &self.workers[*worker];
                !worker.is_paused && matches!(worker.state, State::Member(_) | State::Joining { .. })
            })
            .collect();
        if there.is_empty() {
            // Nobody is there to be struck: later.
            if !self.workers.iter().all(crate::worker::Worker::is_gone) {
                self.queue.push(self.now + 100_000, Event::Fault(planned));
            }
            return;
        }
        let worker = self.random.pick(&there);
        self.strike(planned, Point::Now, worker);
    }

    /// A worker comes to a point of the protocol: faults that wait for it strike.
    pub(crate) fn reached(&mut self, point: Point, worker: usize) {
        if self.armed.is_empty() || self.workers[worker].is_paused {
            return;
        }
        let counts_blocks = matches!(point, Point::AfterBlocks | Point::Initializing);
        let scenario = self.scenario;
        let sent = self.workers[worker].blocks_sent;
        let due = self.armed.iter().position(|planned| {
            let planned = &scenario.faults[*planned];
            planned.point == point && (!counts_blocks || planned.blocks <= sent)
        });
        if let Some(place) = due {
            let planned = self.armed.remove(place);
            self.strike(planned, point, worker);
        }
    }

    fn strike(&mut self, planned: usize, point: Point, worker: usize) {
        let planned = &self.scenario.faults[planned];
        let (fault, lasts_us) = (planned.fault, planned.lasts_us);
        self.coverage.count("fault", fault);
        self.coverage.count("point", point);
        self.trace.note(self.now, &[5, worker as u64, fault as u64, point as u64], || {
            format!("*** {fault:?} strikes worker {worker} at {point:?} for {lasts_us} us")
        });
        self.promises.note_fault(self.now, lasts_us.max(KEEPALIVE_US));
        let (server, lead) = (self.random.below(self.servers.len() as u64) as usize, self.servers.len());
        let both = [Way::Up, Way::Down];
        match fault {
            Fault::Crash => self.crash(worker),
            Fault::CrashAll => {
                for worker in 0..self.workers.len() {
                    if matches!(self.workers[worker].state, State::Member(_) | State::Joining { .. }) {
                        self.crash(worker);
                    }
                }
            }
            Fault::Pause => {
                self.workers[worker].is_paused = true;
                self.queue.push(self.now + lasts_us, Event::Continue(worker));
            }
            Fault::Drain => self.drain(worker),
            Fault::Rest => self.rest(lasts_us),
            Fault::Leave => match &self.workers[worker].state {
                State::Member(member) if !member.is_leaving => {
                    self.leave(worker);
                }
                _ => self.crash(worker),
            },
            Fault::CutData => self.cut(worker, server, 300_000, 0),
            Fault::CutHeartbeats => self.cut(worker, lead, 300_000, 0),
            Fault::LoseData => self.cut(worker, server, 500_000, KEEPALIVE_US),
            Fault::LoseHeartbeats => self.cut(worker, lead, 500_000, KEEPALIVE_US),
            Fault::SilentData => self.silence(worker, server, &both, lasts_us),
            Fault::SilentDataUp => self.silence(worker, server, &[Way::Up], lasts_us),
            Fault::SilentDataDown => self.silence(worker, server, &[Way::Down], lasts_us),
            Fault::SilentHeartbeats => self.silence(worker, lead, &both, lasts_us),
            Fault::SilentHeartbeatsUp => self.silence(worker, lead, &[Way::Up], lasts_us),
            Fault::SilentHeartbeatsDown => self.silence(worker, lead, &[Way::Down], lasts_us),
            Fault::Isolation => {
                for peer in 0..=lead {
                    self.silence(worker, peer, &both, lasts_us);
                }
            }
            Fault::SlowData => self.slow_down(worker, server, lasts_us),
            Fault::SlowHeartbeats => self.slow_down(worker, lead, lasts_us),
            Fault::SlowServer => self.servers[server].slow_until = self.now + lasts_us,
            Fault::Copies => {
                for lane in &mut self.network.link_mut(worker, server).lanes {
                    lane.copies_until = self.now + lasts_us;
                }
            }
            Fault::Disorder => {
                for lane in &mut self.network.link_mut(worker, server).lanes {
                    lane.disorder_until = self.now + lasts_us;
                }
            }
        }
    }

    fn drain(&mut self, worker: usize) {
        let incarnation = self.workers[worker].incarnation;
        match self.lead.state.workers().get(&incarnation).map(|known| known.number) {
            Some(number) => {
                let (answer, effects) = self.lead.state.operate(Operation::Drain(number));
                if answer.is_ok() {
                    self.coverage.pass(Transition::Drained);
                }
                self.carry_out(effects, true);
            }
            None => self.crash(worker), // it is no member just now
        }
    }

    fn rest(&mut self, lasts_us: u64) {
        let (answer, effects) = self.lead.state.operate(Operation::Pause);
        if answer.is_ok() {
            self.coverage.pass(Transition::Rested);
        }
        self.carry_out(effects, false);
        self.queue.push(self.now + lasts_us, Event::Resume);
    }

    pub(crate) fn resume(&mut self) {
        let (_, effects) = self.lead.state.operate(Operation::Resume);
        self.promises.note_disturbance(self.now);
        self.carry_out(effects, false);
    }

    /// The operator ends the job before its time.
    pub(crate) fn end_early(&mut self) {
        if !self.lead.is_leading || self.lead.state.ends_early() {
            return; // with no lead, or asked already
        }
        let (_, effects) = self.lead.state.operate(Operation::Stop);
        self.ledger(|ledger| {
            ledger.end();
            Ok(())
        });
        self.coverage.pass(Transition::EndedEarly);
        self.carry_out(effects, false);
    }

    /// The process is gone. Mostly its machine says so; when that is gone, too, only silence does.
    pub(crate) fn crash(&mut self, worker: usize) {
        let is_silent = self.random.once_in(4);
        for connection in self.network.between(worker, None) {
            let known = self.network.get_mut(connection);
            if known.is_open[End::Worker as usize] {
                known.is_open[End::Worker as usize] = false;
                self.network.lose(connection, &mut self.random);
                let notice_us = if is_silent { KEEPALIVE_US } else { self.random.below(300_000) };
                self.queue.push(self.now + notice_us, Event::Ended { connection, end: End::Peer });
            }
        }
        let process = &mut self.workers[worker];
        process.life += 1;
        process.state = State::Down;
        process.is_paused = false;
        process.deferred.clear();
        let at_us = self.now + self.random.between(20_000, 2_500_000);
        self.queue.push(at_us, Event::Start(worker));
    }

    /// A worker that stood still goes on where it was.
    pub(crate) fn continue_paused(&mut self, worker: usize) {
        if !std::mem::replace(&mut self.workers[worker].is_paused, false) {
            return;
        }
        self.coverage.pass(Transition::Continued);
        for event in std::mem::take(&mut self.workers[worker].deferred) {
            self.queue.push(self.now, event);
        }
        for connection in self.network.between(worker, None) {
            self.pump_up(connection);
        }
    }

    fn cut(&mut self, worker: usize, peer: usize, within_us: u64, after_us: u64) {
        for connection in self.network.between(worker, Some(peer)) {
            self.break_connection(connection, within_us, after_us);
        }
    }

    fn break_connection(&mut self, connection: ConnectionId, within_us: u64, after_us: u64) {
        self.network.lose(connection, &mut self.random);
        for end in [End::Worker, End::Peer] {
            let at_us = self.now + after_us + self.random.below(within_us);
            self.queue.push(at_us, Event::Ended { connection, end });
        }
    }

    /// A link carries nothing for a while; connections over it are given up when that takes too long.
    fn silence(&mut self, worker: usize, peer: usize, ways: &[Way], lasts_us: u64) {
        for way in ways {
            let lane = &mut self.network.link_mut(worker, peer).lanes[*way as usize];
            lane.held_until = lane.held_until.max(self.now + lasts_us);
        }
        if lasts_us > KEEPALIVE_US {
            for connection in self.network.between(worker, Some(peer)) {
                self.break_connection(connection, 500_000, KEEPALIVE_US);
            }
        }
    }

    fn slow_down(&mut self, worker: usize, peer: usize, lasts_us: u64) {
        let factor = self.random.between(3, 20);
        for lane in &mut self.network.link_mut(worker, peer).lanes {
            lane.slow_factor = factor;
            lane.slow_until = self.now + lasts_us;
        }
    }

    /// A server's process is gone, and the lead notices.
    fn lose_server(&mut self, server: usize) {
        self.servers[server].is_lost = true;
        self.coverage.pass(Transition::ServerLost);
        for worker in 0..self.workers.len() {
            self.cut(worker, server, 300_000, 0);
        }
        let effects = self.lead.state.server_lost(halflife_proto::ids::ServerIndex(server as u32));
        self.carry_out(effects, false);
    }
}
