//! Which servers form a generation, when some of those that the job wants do not come.
//!
//! Only before blocks are placed, and only in a job that keeps checkpoints: its state restores on any number of servers, and no
//! bit depends on how many there are. Whoever comes later stands by for a place in the next generation.

use std::time::Duration;

use halflife_proto::ids::ServerIndex;

use super::{Effect, LeadState};

/// Time that a server, once let go, has to come back into a place that the one before left.
const REGROUP: Duration = Duration::from_secs(2);

/// How long all servers are waited for, and how many will do then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forming {
    /// Servers that will do, at least 1.
    pub servers_min: u32,
    /// How long the others are waited for, from the lead's start.
    pub wait: Duration,
}

impl LeadState {
    /// Time has passed: once it is time, the job goes on with the servers that are here. Servers of a placement are numbered
    /// without a gap, so whoever has too high a number is let go first, and comes back into a gap.
    pub(super) fn form_without_missing(&mut self, now: Duration) -> Vec<Effect> {
        let Some(Forming { servers_min, wait }) = self.settings.forming else { return Vec::new() };
        let (present, wanted) = (self.present().count(), self.servers.len());
        let may_form = self.cuts.is_some() && self.model.is_none() && self.stopped.is_none();
        let is_time = now >= self.regrouping_until.unwrap_or(wait);
        if !may_form || !is_time || present == wanted || present < servers_min as usize {
            return Vec::new();
        }
        if let Some(last) = self.servers.iter().rposition(Option::is_some).filter(|last| *last >= present) {
            self.regrouping_until = Some(now + REGROUP);
            return vec![Effect::LetGo(ServerIndex(last as u32))];
        }
        self.servers.truncate(present);
        let waited = now.as_secs_f64();
        let message =
            format!("{present} of {wanted} servers are here after {waited:.1} s; the job goes on without the others");
        let mut effects = vec![Effect::Warn(message)];
        effects.extend(self.restore_once_complete());
        effects
    }
}
