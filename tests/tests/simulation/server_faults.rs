//! What goes wrong with servers, the lead and the store of a job that keeps checkpoints, and when it strikes.

use crate::random::Random;
use crate::strike::KEEPALIVE_US;
use crate::world::World;

/// In the last so many steps a store that fills up is full.
const LAST_STEPS: u64 = 10;
/// When such a store takes something again.
pub const FOR_EVER: u64 = u64::MAX;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFault {
    /// The process of the server at hand is gone at once.
    Crash,
    /// That of the lead, which is the first server.
    CrashLead,
    /// The lead stands still, and another takes its place.
    PauseLead,
    /// All servers are gone at once: the power fails.
    PowerCut,
    /// The link between the lead and a server breaks.
    CutLink,
    /// The store takes its time.
    SlowStore,
    /// The store takes nothing for a while.
    FullStore,
}

impl ServerFault {
    /// All of them.
    pub const ALL: [ServerFault; 7] = [
        ServerFault::Crash,
        ServerFault::CrashLead,
        ServerFault::PauseLead,
        ServerFault::PowerCut,
        ServerFault::CutLink,
        ServerFault::SlowStore,
        ServerFault::FullStore,
    ];
}

/// The point at which a fault strikes the server that has just come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerPoint {
    /// Any, and any server.
    Now,
    /// It has set its blocks aside; the lead does not know.
    CutTaken,
    /// Its part is written; the lead does not know.
    PartWritten,
    /// All parts are written, the manifest is under way.
    BeforeManifest,
    /// The manifest is there; nobody knows.
    AfterManifest,
    /// The claim of a generation is under way.
    Claiming,
    /// The generation is claimed; nobody knows.
    Claimed,
    /// It reads its blocks.
    Restoring,
    /// It has read them; the lead does not know.
    Restored,
}

impl ServerPoint {
    /// All but `Now`.
    pub const ALL: [ServerPoint; 8] = [
        ServerPoint::CutTaken,
        ServerPoint::PartWritten,
        ServerPoint::BeforeManifest,
        ServerPoint::AfterManifest,
        ServerPoint::Claiming,
        ServerPoint::Claimed,
        ServerPoint::Restoring,
        ServerPoint::Restored,
    ];

    /// Whether a server comes to it only after another fault.
    fn is_of_recovery(self) -> bool {
        matches!(self, ServerPoint::Claiming | ServerPoint::Claimed | ServerPoint::Restoring | ServerPoint::Restored)
    }
}

/// A fault that will strike.
#[derive(Clone, Debug)]
pub struct PlannedServerFault {
    /// The step whose completion sets it off.
    pub at_step: u64,
    /// So long after that, or the first time a server comes to the point from then on.
    pub after_us: u64,
    pub point: ServerPoint,
    pub fault: ServerFault,
    pub lasts_us: u64,
}

/// Two to five, before step `end`.
pub fn plan_server_faults(end: u64, random: &mut Random) -> Vec<PlannedServerFault> {
    let mut faults = Vec::new();
    for number in 0..random.between(2, 4) {
        let point = match random.below(7) {
            0 | 1 => ServerPoint::Now,
            2 => ServerPoint::BeforeManifest,
            3 => random.pick(&[ServerPoint::BeforeManifest, ServerPoint::Claiming]),
            _ => random.pick(&ServerPoint::ALL),
        };
        let at_step = if number == 0 && random.once_in(2) { 0 } else { random.below(end) };
        let fault = match point {
            ServerPoint::Now => random.pick(&ServerFault::ALL),
            ServerPoint::BeforeManifest if random.once_in(3) => ServerFault::FullStore,
            // A lead that stands still is told meanwhile that all is written.
            ServerPoint::CutTaken | ServerPoint::PartWritten if random.once_in(2) => ServerFault::PauseLead,
            // Or stands still with the claims looked at and the manifest not there.
            ServerPoint::BeforeManifest if random.once_in(3) => ServerFault::PauseLead,
            // Whoever is at the point is who dies.
            _ => random.pick(&[ServerFault::Crash, ServerFault::Crash, ServerFault::CrashLead, ServerFault::PowerCut]),
        };
        let planned = |point, fault, random: &mut Random| PlannedServerFault {
            at_step,
            after_us: random.below(40_000),
            point,
            fault,
            lasts_us: random.between(50_000, 2_500_000),
        };
        faults.push(planned(point, fault, random));
        if point.is_of_recovery() {
            let first = random.pick(&[ServerFault::Crash, ServerFault::CrashLead, ServerFault::CutLink]);
            faults.push(planned(ServerPoint::Now, first, random));
        }
    }
    faults.sort_by_key(|planned| planned.at_step);
    faults
}

impl World<'_> {
    /// A step is complete everywhere: the faults that wait for it begin to count down, or wait for their point.
    pub(crate) fn set_off_server_faults(&mut self, step: u64) {
        let scenario = self.scenario;
        while let Some(planned) = scenario.server_faults.get(self.next_server_fault).filter(|it| it.at_step <= step) {
            match planned.point {
                ServerPoint::Now => {
                    let at_us = self.now + planned.after_us;
                    self.queue.push(at_us, crate::event::Event::ServerFault(self.next_server_fault));
                }
                _ => self.armed_servers.push(self.next_server_fault),
            }
            self.next_server_fault += 1;
        }
        let fills_up = scenario.job.checkpoints.is_some_and(|kept| kept.fills_up);
        if fills_up && step + LAST_STEPS >= scenario.job.spec.job.steps {
            // Whoever is lost from now on might never come back, as is right: nothing else goes wrong.
            self.store.full_until = FOR_EVER;
            self.armed_servers.clear();
        }
    }

    /// A server comes to a point: a fault that waits for it strikes. Whether the server is gone by that.
    pub(crate) fn server_reached(&mut self, point: ServerPoint, server: usize) -> bool {
        let scenario = self.scenario;
        let due = self.armed_servers.iter().position(|planned| scenario.server_faults[*planned].point == point);
        let Some(place) = due else { return false };
        let planned = self.armed_servers.remove(place);
        self.strike_server(planned, point, server);
        !self.servers[server].is_up
    }

    /// A fault that waits for no point.
    pub(crate) fn strike_some_server(&mut self, planned: usize) {
        let server = self.random.between(1, self.servers.len() as u64 - 1) as usize;
        self.strike_server(planned, ServerPoint::Now, server);
    }

    fn strike_server(&mut self, planned: usize, point: ServerPoint, server: usize) {
        // A job whose workers have all left is not worth going back: nobody would come any more.
        if self.lead.is_finished() || self.store.full_until == FOR_EVER {
            return;
        }
        let planned = &self.scenario.server_faults[planned];
        let (fault, lasts_us) = (planned.fault, planned.lasts_us);
        self.coverage.count("server fault", fault);
        self.coverage.count("server point", point);
        self.trace.note(self.now, &[11, server as u64, fault as u64, point as u64], || {
            format!("*** {fault:?} strikes server {server} at {point:?} for {lasts_us} us")
        });
        self.promises.note_fault(self.now, lasts_us.max(KEEPALIVE_US));
        match fault {
            ServerFault::Crash => self.crash_server(server),
            ServerFault::CrashLead => self.crash_server(0),
            ServerFault::PauseLead => self.pause_lead(lasts_us),
            ServerFault::PowerCut => (0..self.servers.len()).for_each(|server| self.crash_server(server)),
            ServerFault::CutLink => self.break_link(server),
            ServerFault::SlowStore => self.store.slow_until = self.now + lasts_us,
            ServerFault::FullStore => self.store.full_until = self.store.full_until.max(self.now + lasts_us),
        }
    }
}
