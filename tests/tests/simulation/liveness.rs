//! That nobody is held up longer than is promised (P5), and that everything goes on once the faults have healed.

use halflife_proto::ids::Step;
use halflife_server::lead::Phase;

use crate::promises::Promises;
use crate::scenario::{LEASE_US, Mode, Severity};
use crate::worker::State;
use crate::world::World;

/// With everything healed, a step takes no longer: fencing, coming back after the longest pause, recomputing.
const STALL_MAX_US: u64 = 8_000_000;
/// P5: a death delays the others by a lease, or by three steps where those take longer (by clocks that differ), and
/// by this: the recomputation of what moved: at most 11
/// slots on the slowest worker, and their messages over the slowest link. So does a worker that lives, but holds the
/// step up.
const RECOVERY_MAX_US: u64 = 1_200_000;
/// Step times that patience is made of, as in `lead/state/watch.rs`.
const TIMES_KEPT: usize = 15;
/// Where connections only break, nothing waits for a lease.
const RECONNECTION_MAX_US: u64 = 900_000;

impl World<'_> {
    /// No stall is longer than what is promised.
    pub(crate) fn check_liveness(&mut self) {
        self.note_health();
        if self.lead.is_stopped() {
            return;
        }
        if self.scenario.job.checkpoints.is_some() && self.is_held_up_by_servers() {
            self.promises.note_disturbance(self.now);
        }
        let Promises { last_progress, last_fault, healed_at, complete, .. } = self.promises;
        let stalled_us = self.now.saturating_sub(last_progress.max(healed_at));
        if stalled_us > STALL_MAX_US {
            let (phase, standing) = (self.lead.state.phase(), self.standing());
            self.promises.fail(format!(
                "nothing was done for {stalled_us} us although all is well, after {complete:?}, {phase:?}: {standing}"
            ));
        }
        let is_training =
            self.lead.state.phase() == Phase::Training && !self.lead.state.ends_early() && self.is_held_up_by_nobody();
        let quiet_since = last_progress.max(last_fault);
        let patience_us = self.patience_us();
        let recovery_max_us = match self.scenario.severity {
            Severity::Light => RECONNECTION_MAX_US,
            Severity::Open | Severity::Hidden => RECOVERY_MAX_US + patience_us * 11 / 10,
        };
        let healthy = self.workers.iter().filter_map(|worker| worker.healthy_since);
        let stalled_us = healthy.map(|since| self.now.saturating_sub(since.max(quiet_since))).max().unwrap_or(0);
        if is_training {
            self.promises.longest_stall_us = self.promises.longest_stall_us.max(stalled_us);
        }
        if is_training && stalled_us > recovery_max_us {
            let standing = self.standing();
            self.promises
                .fail(format!("P5: a fault held up the others for {stalled_us} us, after {complete:?}: {standing}"));
        }
    }

    /// A worker with a ticket that lives and does nothing is waited for: at the end by all, and before that by those
    /// that a bound, or a checkpoint to come, holds back. In sync mode its slots are others', too.
    fn is_held_up_by_nobody(&self) -> bool {
        let Some(tickets) = self.lead.state.tickets() else { return true };
        let is_at_end = tickets.granted() == self.scenario.job.spec.job.steps;
        let may_hide = self.scenario.severity == Severity::Hidden;
        let waits = matches!(self.scenario.job.mode, Mode::Bounded(_)) || self.scenario.job.checkpoints.is_some();
        !(may_hide && (is_at_end || waits))
    }

    /// A server, the lead or a link between them is gone, which their other ends may not know yet; or the first, or
    /// the last, checkpoint is waited for.
    fn is_held_up_by_servers(&self) -> bool {
        let is_whole = |server: usize| {
            let link = self.servers[server].link;
            link.is_some() && self.lead.links[server] == link && self.is_current(server)
        };
        let is_done = self.lead.state.complete_step() >= Some(Step(self.scenario.job.spec.job.steps));
        !(0..self.servers.len()).all(is_whole) || self.lead.state.awaits_first_checkpoint() || is_done
    }

    /// How the workers stand, for whoever reads of a broken promise.
    fn standing(&self) -> String {
        let worker = |(number, worker): (usize, &crate::worker::Worker)| {
            let well = if worker.healthy_since.is_some() { "well" } else { "unwell" };
            let known = self.lead.state.workers().get(&worker.incarnation);
            let known = known.map(|known| {
                let nodes: Vec<String> = known.assignment().nodes.iter().map(ToString::to_string).collect();
                let (behind, unreachable) = (known.behind.is_some(), &known.unreachable);
                format!("{}, behind: {behind}, unreachable: {unreachable:?}, {}", nodes.join(" "), known.step)
            });
            let does = match &worker.state {
                State::Member(member) => {
                    let open: Vec<bool> = member.streams.iter().map(|stream| stream.is_open).collect();
                    format!("{}, leaving: {}, streams open: {open:?}", member.activity.name(), member.is_leaving)
                }
                State::Joining { .. } => "joining".to_owned(),
                State::Down => "down".to_owned(),
                State::Gone => "gone".to_owned(),
            };
            format!("worker {number} is {well} ({}; {does})", known.unwrap_or("no member".to_owned()))
        };
        self.workers.iter().enumerate().map(worker).collect::<Vec<_>>().join("; ")
    }

    /// What the watch over progress waits for: a lease, or three times the median of the last steps' times.
    fn patience_us(&mut self) -> u64 {
        let Promises { last_look, times_us, complete, .. } = &mut self.promises;
        let (known, since) = *last_look;
        if let (Some(step), true) = (*complete, *complete > known) {
            let steps = step.0 - known.map_or(0, |known| known.0);
            times_us.extend((self.now - since).checked_div(steps));
            times_us.drain(..times_us.len().saturating_sub(TIMES_KEPT));
            *last_look = (*complete, self.now);
        }
        let mut sorted = times_us.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map_or(LEASE_US, |median| LEASE_US.max(3 * median))
    }

    fn note_health(&mut self) {
        for worker in 0..self.workers.len() {
            let peers = self.servers.len() + 1;
            let links_are_well = (0..peers).all(|peer| {
                let lanes = self.network.link_mut(worker, peer).lanes;
                lanes.iter().all(|lane| lane.held_until <= self.now && lane.slow_until <= self.now)
            });
            let process = &mut self.workers[worker];
            let is_member = match &process.state {
                State::Member(member) => {
                    let is_whole = |connection| self.network.is_whole(connection);
                    !member.is_leaving
                        && member.streams.iter().all(|stream| stream.is_open && stream.connection.is_some_and(is_whole))
                }
                _ => false,
            };
            match is_member && links_are_well && !process.is_paused {
                true => process.healthy_since = process.healthy_since.or(Some(self.now)),
                false => process.healthy_since = None,
            }
        }
    }
}
