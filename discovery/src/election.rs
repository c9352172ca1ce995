//! Who leads, by a key in etcd that one server creates and keeps alive by a lease. A plain state machine: time comes in as an
//! argument (this process's monotonic clock), what to ask etcd goes out as an [`Action`], answers come in.
//!
//! Promises that no two servers believe at the same time that they [hold](Election::holds_until) the lease, provided that while one
//! lease lasts no server's clock runs slower than etcd's by more than a tenth, and that nobody deletes the key by hand. A belief counts
//! from when a renewal was *asked* for and ends a tenth of the lease early.
//!
//! Does not promise that the holder is the only one that acts: what a server began while it held the lease may still be under way
//! when it no longer does. That is what generations are for; here is only decided who may begin one.

use std::time::Duration;

use crate::etcd::LeaseId;
use crate::record::LeadRecord;

/// Of a lease, the part by which a belief ends early.
const DRIFT_PART: u32 = 10;
/// Beats in a lease.
const BEATS: u32 = 4;
/// Of a lease, the part for which a server whose lead lives leaves a vacant key to that lead. A lead whose key was lost with etcd's
/// data creates it again within a beat of finding out.
const COURTESY_PART: u32 = 2;
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How a server stands in the election, as it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known yet.
    Unknown,
    /// Nobody leads.
    Vacant,
    /// This server does.
    Leading {
        /// Rises from one lead to the next: etcd's revision at which the key was created.
        term: i64,
    },
    /// Another does.
    Following(LeadRecord),
}

/// What to ask etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// For a lease.
    Grant,
    /// That the lease lasts on.
    Renew(LeaseId),
    /// Who leads; if `campaign`, to be it if nobody does.
    Look {
        /// The lease that the key would live by.
        lease: LeaseId,
        /// Whether to create the key if it is not there.
        campaign: bool,
    },
}

/// The key as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its value.
    pub record: LeadRecord,
    /// What it lives by.
    pub lease: LeaseId,
    /// When it was created.
    pub term: i64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: LeaseId,
    good_until: Duration,
}

/// One server's part in the election.
#[derive(Debug)]
pub struct Election {
    own: LeadRecord,
    /// How long a lease is to last.
    lasts: Duration,
    lease: Option<Lease>,
    standing: Standing,
    /// What the key lived by when it was last found to be this server's. A later lease says nothing of the key.
    held_by: Option<LeaseId>,
    vacant_since: Option<Duration>,
    /// This server takes part in a generation that another leads, and its link to that one stands.
    linked: bool,
    /// The lease was renewed and the key not looked at since.
    to_look: bool,
    failed: bool,
}

impl Election {
    /// Nothing is known and nothing asked.
    #[must_use]
    pub fn new(own: LeadRecord, lasts: Duration) -> Election {
        Election {
            own,
            lasts,
            lease: None,
            standing: Standing::Unknown,
            held_by: None,
            vacant_since: None,
            linked: false,
            to_look: false,
            failed: false,
        }
    }

    /// What to ask next.
    #[must_use]
    pub fn next(&self, now: Duration) -> Action {
        match &self.lease {
            None => Action::Grant,
            Some(lease) if self.to_look => Action::Look { lease: lease.id, campaign: self.may_campaign(now) },
            Some(lease) => Action::Renew(lease.id),
        }
    }

    /// How long to wait before that.
    #[must_use]
    pub fn pause(&self, now: Duration) -> Duration {
        let beat = self.lasts / BEATS;
        match &self.standing {
            _ if self.failed => beat.min(RETRY_MAX),
            _ if self.lease.is_none() || self.to_look => Duration::ZERO,
            // It was only looked at; now it may be taken.
            Standing::Vacant if self.may_campaign(now) => beat.min(RETRY_MAX) / 10,
            _ => beat,
        }
    }

    /// At first there is no lead to be courteous to.
    fn may_campaign(&self, now: Duration) -> bool {
        let courtesy = self.lasts / COURTESY_PART;
        !self.linked || self.vacant_since.is_some_and(|since| now.saturating_sub(since) >= courtesy)
    }

    /// A lease was asked for at `asked_at` and given for so long.
    pub fn granted(&mut self, asked_at: Duration, id: LeaseId, lasts: Duration) {
        self.lease = Some(Lease { id, good_until: good_until(asked_at, lasts) });
        (self.to_look, self.failed) = (true, false);
    }

    /// The lease lasts for so long from then; `ZERO`: there is none any more.
    pub fn renewed(&mut self, asked_at: Duration, lasts: Duration) {
        self.failed = false;
        match &mut self.lease {
            Some(lease) if !lasts.is_zero() => {
                lease.good_until = good_until(asked_at, lasts);
                self.to_look = true;
            }
            _ => self.lease = None,
        }
    }

    /// The key was looked at.
    pub fn seen(&mut self, now: Duration, holder: Option<Holder>) {
        (self.to_look, self.failed) = (false, false);
        let lease = self.lease.map(|lease| lease.id);
        self.standing = match holder {
            None => Standing::Vacant,
            Some(holder) if holder.record.candidate != self.own.candidate => Standing::Following(holder.record),
            Some(holder) if Some(holder.lease) == lease => Standing::Leading { term: holder.term },
            // By a lease of ours that is over: it goes any moment.
            Some(_) => Standing::Vacant,
        };
        self.held_by = lease.filter(|_| matches!(self.standing, Standing::Leading { .. }));
        self.vacant_since = match self.standing {
            Standing::Vacant => self.vacant_since.or(Some(now)),
            _ => None,
        };
    }

    /// etcd did not answer. What was asked may have happened.
    pub fn failed(&mut self) {
        (self.failed, self.to_look) = (true, false);
    }

    /// Whether this server's link to the lead that it follows stands.
    pub fn link(&mut self, linked: bool) {
        self.linked = linked;
    }

    /// How this server stands.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Until when nobody else can have been elected, if this server was; it may be over already.
    #[must_use]
    pub fn holds_until(&self) -> Option<Duration> {
        let lease = self.lease.filter(|lease| self.held_by == Some(lease.id))?;
        Some(lease.good_until)
    }

    /// The lease that it has, if any.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseId> {
        self.lease.map(|lease| lease.id)
    }
}

fn good_until(asked_at: Duration, lasts: Duration) -> Duration {
    asked_at + lasts - lasts / DRIFT_PART
}

#[cfg(test)]
mod tests;
