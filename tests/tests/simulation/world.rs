//! A whole job in virtual time: the events in turn, each handed to the side it happens on.
//!
//! One thread, one clock, one source of chance: the same scenario gives the same run. After every event the promises
//! are checked (`promises.rs`).

use std::sync::Arc;

use halflife_proto::ids::Step;
use halflife_server::shard::ShardCompute;

use crate::coverage::Coverage;
use crate::event::{Down, Event, Queue, Up};
use crate::lead::LeadSide;
use crate::network::{ConnectionId, End, Network, Way};
use crate::promises::{History, Promises};
use crate::random::Random;
use crate::scenario::{Ending, Scenario};
use crate::server::ServerSide;
use crate::standing_by::FormerLead;
use crate::store::Store;
use crate::trace::Trace;
use crate::worker::Worker;

/// No run takes longer, in virtual time.
const LONGEST_US: u64 = 600_000_000;
/// A run with fewer faults would prove little.
const FAULTS_MIN: u64 = 5;
/// How often nonsense is sent.
const PROBE_EVERY_US: u64 = 70_000;

/// A job under way.
pub struct World<'a> {
    pub scenario: &'a Scenario,
    pub now: u64,
    pub queue: Queue,
    pub random: Random,
    pub network: Network,
    pub lead: LeadSide,
    pub servers: Vec<ServerSide>,
    pub workers: Vec<Worker>,
    pub coverage: Coverage,
    pub trace: Trace,
    pub promises: Promises<'a>,
    pub compute: Arc<ShardCompute>,
    /// Faults that wait for a worker to come to their point.
    pub armed: Vec<usize>,
    pub next_fault: usize,
    /// The same of servers.
    pub armed_servers: Vec<usize>,
    pub next_server_fault: usize,
    pub store: Store,
    pub former_lead: Option<FormerLead>,
    /// Links between leads and servers so far.
    pub links: u64,
}

/// How a run ended.
pub struct Outcome {
    /// What was promised and not kept.
    pub violation: Option<String>,
    pub trace: Trace,
    pub coverage: Coverage,
    /// Every version of every block.
    pub history: History,
    pub virtual_us: u64,
    pub longest_stall_us: u64,
}

impl<'a> World<'a> {
    /// A job that nobody has come to yet. Without a `reference` its history becomes one.
    pub fn new(
        scenario: &'a Scenario,
        reference: Option<&'a History>,
        compute: Arc<ShardCompute>,
        is_read: bool,
    ) -> World<'a> {
        let mut random = Random::new(scenario.seed ^ 0x5eed);
        let servers = scenario.job.spec.job.servers as usize;
        let last_step = Step(scenario.job.spec.job.steps);
        let network = Network::new(scenario.workers, servers + 1, &mut random);
        let workers = (0..scenario.workers).map(|_| Worker::new(&mut random)).collect();
        let mut world = World {
            scenario,
            now: 0,
            queue: Queue::default(),
            network,
            lead: LeadSide::new(&scenario.job, &mut random),
            servers: (0..servers).map(|_| ServerSide::new(last_step, &mut random)).collect(),
            workers,
            coverage: Coverage::default(),
            trace: Trace::new(is_read),
            promises: Promises::new(scenario, reference),
            compute,
            armed: Vec::new(),
            next_fault: 0,
            armed_servers: Vec::new(),
            next_server_fault: 0,
            store: Store::default(),
            former_lead: None,
            links: 0,
            random,
        };
        world.foresee_the_beginning();
        world
    }

    fn foresee_the_beginning(&mut self) {
        self.queue.push(0, Event::LeadTick);
        for server in 0..self.servers.len() {
            let at_us = self.random.below(200_000);
            let begins = match self.scenario.job.checkpoints {
                Some(_) => {
                    self.servers[server].is_up = false;
                    Event::StartServer(server)
                }
                None => Event::Register { server, life: 0 },
            };
            self.queue.push(at_us, begins);
        }
        for worker in 0..self.workers.len() {
            let at_us = self.random.below(400_000);
            self.queue.push(at_us, Event::Start(worker));
        }
        if self.scenario.probes {
            self.queue.push(PROBE_EVERY_US, Event::Probe);
        }
        self.set_off_faults(0);
        self.set_off_server_faults(0);
    }

    /// Runs to the end, or to the first broken promise.
    pub fn run(mut self) -> Outcome {
        while self.promises.violation.is_none() && !self.is_over() {
            match self.queue.pop() {
                Some((at_us, event)) if at_us <= LONGEST_US => {
                    self.now = at_us;
                    self.handle(event);
                }
                _ => self.promises.fail("the run does not end".to_owned()),
            }
        }
        if self.promises.violation.is_none() && matches!(self.scenario.ending, Ending::Finished | Ending::Early { .. })
        {
            self.check_end_of_tickets();
            self.check_end_of_checkpoints();
        }
        let virtual_us = self.now;
        if !self.scenario.faults.is_empty() && self.promises.faults < FAULTS_MIN {
            self.promises.fail(format!("only {} faults struck", self.promises.faults));
        }
        if self.promises.violation.is_none() {
            let name = format!("{:?}", self.scenario.ending);
            self.coverage.count("ending", name.split([' ', '(']).next().unwrap_or_default().to_owned());
        }
        let Promises { violation, history, longest_stall_us, .. } = self.promises;
        Outcome { violation, longest_stall_us, trace: self.trace, coverage: self.coverage, history, virtual_us }
    }

    /// Finished: every server was told to go. Stopped: every server and every worker knows.
    fn is_over(&self) -> bool {
        match self.scenario.ending {
            // A server that comes back when the others were told to go finds nobody to tell it so.
            Ending::Finished | Ending::Early { .. } => {
                let any = self.servers.iter().any(|server| server.has_finished);
                self.servers.iter().all(|server| server.has_finished || (any && server.link.is_none()))
            }
            Ending::ServerLost(_) | Ending::Nonfinite => {
                let live = |server: &&ServerSide| !server.is_lost;
                self.lead.is_stopped()
                    && self.servers.iter().filter(live).all(ServerSide::is_halted)
                    && self.workers.iter().all(Worker::is_gone)
            }
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(worker) = self.paused_receiver(&event) {
            return self.workers[worker].deferred.push(event);
        }
        match event {
            Event::LeadTick => self.lead_tick(),
            Event::DeskLooks(connection) => self.desk_looks(connection),
            Event::Register { server, life } => self.register(server, life),
            Event::Order { server, link, order } => self.take_order(server, link, order),
            Event::Report { server, link, report } => self.take_report(server, link, report),
            Event::NodeLooks { server, life } => self.node_looks(server, life),
            Event::LinkEnded { server, link, at_lead } => self.link_ended(server, link, at_lead),
            Event::StartServer(server) => self.start_server(server),
            Event::FormerLeadGoesOn(life) => self.former_lead_goes_on(life),
            Event::ServerFault(planned) => self.strike_some_server(planned),
            Event::Store(deed) => self.store_does(*deed),
            Event::Late(server) => self.late_contribution(server),
            Event::Up { connection, number, is_copy, message } => {
                if self.network.receive(connection, Way::Up, number, is_copy) {
                    self.take_up(connection, message);
                }
                if self.network.get(connection).is_open[End::Worker as usize] {
                    self.pump_up(connection);
                }
            }
            Event::Down { connection, number, is_copy, message } => {
                if self.network.receive(connection, Way::Down, number, is_copy) {
                    self.network.get_mut(connection).is_answered = true;
                    self.take_down(connection, message);
                }
                self.pump_down(connection);
            }
            Event::Ended { connection, end: End::Worker } => self.worker_end_notices(connection),
            Event::Ended { connection, end: End::Peer } => self.peer_end_notices(connection),
            Event::Timer { worker, life, timer } => {
                if self.workers[worker].life == life {
                    self.take_timer(worker, timer);
                }
            }
            Event::Start(worker) => self.start(worker),
            Event::Continue(worker) => self.continue_paused(worker),
            Event::Resume => self.resume(),
            Event::EndEarly => self.end_early(),
            Event::Fault(planned) => self.strike_planned(planned),
            Event::Probe => {
                self.probe();
                self.queue.push(self.now + PROBE_EVERY_US, Event::Probe);
            }
        }
    }

    /// The worker that does not see this event yet, because it stands still.
    fn paused_receiver(&self, event: &Event) -> Option<usize> {
        let worker = match event {
            Event::Down { connection, .. } | Event::Ended { connection, end: End::Worker } => {
                self.network.get(*connection).worker
            }
            Event::Timer { worker, .. } => *worker,
            _ => return None,
        };
        self.workers[worker].is_paused.then_some(worker)
    }

    fn take_up(&mut self, connection: ConnectionId, message: Up) {
        let (peer, lead) = (self.network.get(connection).peer, self.servers.len());
        // The lead is the first server's process.
        if !self.servers[if peer == lead { 0 } else { peer }].is_up {
            return self.refuse_connection(connection);
        }
        if peer == lead {
            self.lead_hears(connection, message);
        } else {
            self.server_hears(connection, message);
        }
    }

    fn peer_end_notices(&mut self, connection: ConnectionId) {
        self.network.forget_peer_end(connection);
        if self.network.get(connection).peer == self.servers.len() {
            self.lead.forget(connection);
        } else {
            self.close_session(connection);
        }
    }

    fn pump_down(&mut self, connection: ConnectionId) {
        if !self.network.get(connection).is_open[End::Peer as usize] {
            return;
        }
        if self.network.get(connection).peer == self.servers.len() {
            self.pump_notices_of(connection);
        } else {
            self.pump_session(connection);
        }
    }

    /// Opens a connection: its first message goes with it.
    pub fn push_up(&mut self, connection: ConnectionId, message: Up) {
        let block = match &message {
            Up::Contribution(contribution) => Some(contribution.block),
            _ => None,
        };
        let passage = self.network.send(connection, Way::Up, block, self.now, &mut self.random);
        if let Some(passage) = passage {
            let number = passage.number;
            if let Some(at_us) = passage.copy_at_us {
                let message = message.clone();
                self.coverage.count("network", "copy");
                self.queue.push(at_us, Event::Up { connection, number, is_copy: true, message });
            }
            self.queue.push(passage.at_us, Event::Up { connection, number, is_copy: false, message });
        }
    }

    /// Sends something down a connection.
    pub fn push_down(&mut self, connection: ConnectionId, message: Down) {
        let block = match &message {
            Down::Weights(weights) => Some(weights.block),
            _ => None,
        };
        if let Some(passage) = self.network.send(connection, Way::Down, block, self.now, &mut self.random) {
            let number = passage.number;
            self.queue.push(passage.at_us, Event::Down { connection, number, is_copy: false, message });
        }
    }
}
