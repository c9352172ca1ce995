//! How a worker goes: fenced, drained, told to end, or because the job is over; and whether it comes back.

use halflife_client::simulation::Sight;

use crate::coverage::Transition;
use crate::event::{Event, Up};
use crate::network::{End, Kind};
use crate::worker::State;
use crate::working::Activity;
use crate::world::World;

impl World<'_> {
    /// A fenced worker joins again as another incarnation, and goes on.
    pub(crate) fn rejoin(&mut self, worker: usize) {
        self.coverage.pass(Transition::Rejoined);
        self.trace.note(self.now, &[2, worker as u64], || format!("worker {worker} was fenced and joins again"));
        self.close_all(worker);
        self.start(worker);
    }

    /// The worker leaves: it is drained, or the job is finished.
    pub(crate) fn leave(&mut self, worker: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        member.is_leaving = true;
        if !self.flush(worker) {
            self.say_goodbye(worker);
        }
    }

    pub(crate) fn say_goodbye(&mut self, worker: usize) {
        let Some(member) = self.workers[worker].member() else { return };
        member.activity = Activity::Leaving;
        self.open(worker, self.servers.len(), Kind::Call, Up::Leave);
    }

    /// The process ends: for good when the job is over, otherwise another one starts in its place later.
    pub(crate) fn is_gone_for_good(&mut self, worker: usize) {
        self.close_all(worker);
        let is_over = match &mut self.workers[worker].state {
            State::Member(member) => !member.is_leaving || matches!(member.decisions.look(), Sight::Finished),
            _ => true,
        };
        self.workers[worker].life += 1;
        if is_over {
            self.workers[worker].state = State::Gone;
            self.trace.note(self.now, &[3, worker as u64], || format!("worker {worker} is gone"));
        } else {
            self.workers[worker].state = State::Down;
            let at_us = self.now + self.random.between(200_000, 1_500_000);
            self.queue.push(at_us, Event::Start(worker));
        }
    }

    fn close_all(&mut self, worker: usize) {
        for connection in self.network.between(worker, None) {
            if self.network.get(connection).is_open[End::Worker as usize] {
                self.close(connection);
            }
        }
    }
}
