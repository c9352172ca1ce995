//! A server whose part in each generation an election decides.
//!
//! The rule: **holding the lease entitles to begin a generation, not to go on with one.** A lead that etcd does not answer trains on,
//! since nothing that it writes can come after a successor's claim (the store refuses it), nor reach a server of a later generation
//! (each refuses it). It ends when it hears that another was elected, or finds the store claimed by a later generation, and can
//! begin no other before it is elected anew. So etcd's absence costs nothing, and its loss only takeovers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halflife_checkpoint::{Checkpoints, ClaimError};
use halflife_discovery::{Candidacy, Etcd, LeadRecord, PlacementRecord, ServerRecord, Standing};
use halflife_proto::ids::{Generation, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::ServerError;
use super::life::{Ground, Leading, Life};
use crate::config::JobSpec;
use crate::lead::control_service::leads_elsewhere;
use crate::lead::{Lead, Server};
use crate::recovery::BeginError;

/// How often what no channel tells is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between attempts to ask the store, or etcd, once more.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What made a server take the part that it has.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seat {
    /// The command line.
    Given,
    /// It was elected.
    Elected,
    /// Another was.
    Under(LeadRecord),
}

impl Seat {
    /// Whether the part is over, as the election now stands. A key that nobody holds ends nothing: the lead may be about
    /// to create it again.
    fn is_lost(&self, standing: &Standing) -> bool {
        match (self, standing) {
            (Seat::Elected, Standing::Following(_)) | (Seat::Under(_), Standing::Leading { .. }) => true,
            (Seat::Under(lead), Standing::Following(other)) => lead.candidate != other.candidate,
            _ => false,
        }
    }
}

impl Ground {
    /// Resolves when the election has given the server another part than this.
    pub(super) async fn unseated(&self, seat: &Seat) {
        match &self.candidacy {
            // Its sender lives as long as the candidacy.
            Some(candidacy) => drop(candidacy.standing().wait_for(|standing| seat.is_lost(standing)).await),
            None => std::future::pending().await,
        }
    }

    /// Takes the part that the election gives it, as soon as it gives one.
    pub(super) async fn live_as_elected(
        &self,
        candidacy: &Candidacy,
        (spec, latest_valid): (&JobSpec, bool),
        before: Option<(Generation, Option<Step>)>,
    ) -> Result<Life, ServerError> {
        candidacy.link(false);
        let mut standing = candidacy.standing();
        let begun = Instant::now();
        loop {
            let now = standing.borrow_and_update().clone();
            match now {
                Standing::Leading { term } if candidacy.holds_lease() => {
                    match self.lead(spec, Leading { latest_valid, before, elected: true }).await {
                        Ok(mut life) => {
                            life.seat = Seat::Elected;
                            self.keep_books(&mut life, candidacy, term);
                            return Ok(life);
                        }
                        Err(ServerError::Begin(error)) if is_passing(&error) && begun.elapsed() < self.patience => {
                            warn!(%error, "trying to begin a later generation");
                        }
                        Err(error) => return Err(error),
                    }
                }
                Standing::Following(lead) => {
                    self.leading.set(Err(leads_elsewhere(&lead.url)));
                    let url = lead.url.clone();
                    let seat = Seat::Under(lead);
                    tokio::select! {
                        followed = self.follow(&url, Some(spec), true) => {
                            let life = followed?;
                            candidacy.link(true);
                            return Ok(Life { seat, ..life });
                        }
                        () = self.unseated(&seat) => {}
                    }
                }
                Standing::Unknown | Standing::Vacant | Standing::Leading { .. } => {
                    self.leading.set(Err(Refusal::new(RefusalCause::NotReady, "no server leads yet")));
                    if begun.elapsed() > self.patience {
                        let reason = candidacy.trouble().unwrap_or_else(|| "no server is elected".to_owned());
                        return Err(ServerError::NobodyElected { waited: self.patience, reason });
                    }
                    // It also matters that time passes.
                    let _ = tokio::time::timeout(LOOK_INTERVAL, standing.changed()).await;
                }
            }
        }
    }

    /// What an elected lead does besides leading.
    fn keep_books(&self, life: &mut Life, candidacy: &Candidacy, term: i64) {
        let (Some(lead), Some(section)) = (life.lead.clone(), life.checkpoint.clone()) else { return };
        let campaign = candidacy.campaign();
        let mut etcd = Etcd::new(campaign.etcd.clone());
        let (held, key) = (campaign.keys.lead(), campaign.keys.placement());
        let standing = candidacy.standing();
        life.tasks.spawn(watch_claims(lead.clone(), section.location, standing.clone(), term));
        let url = self.own.url.clone();
        life.tasks.spawn(async move {
            let mut changes = lead.changes();
            let mut written = None;
            loop {
                changes.mark_unchanged();
                let now = placement(&lead, &url);
                let term = match *standing.borrow() {
                    Standing::Leading { term } => term,
                    _ => term,
                };
                if now.is_some() && now != written {
                    let value = serde_json::to_vec(&now).expect("a record becomes JSON");
                    match etcd.put_while(&held, term, &key, value).await {
                        // Who does not lead any more writes nothing, and hears of it in time.
                        Ok(_) => written = now,
                        Err(error) => {
                            debug!(%error, "the placement is not on record yet");
                            tokio::time::sleep(RETRY_INTERVAL).await;
                            continue;
                        }
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}

/// One that was elected before claimed in its last moment, and knows no better yet; or this one's lease is over, and another
/// may be elected.
fn is_passing(error: &BeginError) -> bool {
    matches!(error, BeginError::Claim(ClaimError::Taken { .. }) | BeginError::NotEntitled)
}

/// Who holds the blocks, once that is decided.
fn placement(lead: &Lead, url: &str) -> Option<PlacementRecord> {
    lead.read(|state| {
        let holdings = state.holdings();
        let record = |(index, server): (usize, &Option<Server>)| {
            let address = &server.as_ref()?.address;
            let blocks = holdings.get(index).map_or(0, |holding| holding.blocks);
            Some(ServerRecord { url: address.url.clone(), blocks })
        };
        let servers = state.servers().iter().enumerate().map(record).collect::<Option<Vec<_>>>()?;
        let identity = lead.identity();
        Some(PlacementRecord {
            job: identity.job.0.clone(),
            generation: identity.generation.0,
            lead: url.to_owned(),
            servers,
        })
    })
}

/// Elected a second time, in the same life, the lead may have had a successor in between that is gone again: then the store
/// holds its claim, and this generation is over. (Any commit would find out as well.)
async fn watch_claims(lead: Arc<Lead>, location: String, mut standing: watch::Receiver<Standing>, mut term: i64) {
    let own = lead.identity().generation;
    let Ok(checkpoints) = Checkpoints::open(&location, Path::new(".")) else { return };
    loop {
        let other = standing.wait_for(|standing| matches!(standing, Standing::Leading { term: now } if *now != term));
        match other.await.as_deref() {
            Ok(Standing::Leading { term: now }) => term = *now,
            _ => return,
        }
        loop {
            match checkpoints.claims().await {
                Ok(claims) => {
                    if let Some(newest) = claims.last().map(|claim| claim.generation).filter(|newest| *newest > own) {
                        lead.superseded(newest);
                    }
                    break;
                }
                Err(error) => {
                    warn!(%error, "cannot see whether another server has led meanwhile; trying again");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use halflife_discovery::CandidateId;

    use super::*;

    fn led_by(number: u64) -> LeadRecord {
        LeadRecord { url: "http://a:1".to_owned(), candidate: CandidateId(number) }
    }

    #[test]
    fn a_part_ends_when_another_is_elected_and_not_when_nobody_is() {
        let leading = Standing::Leading { term: 1 };
        let cases = [
            (Seat::Elected, leading.clone(), false),
            (Seat::Elected, Standing::Leading { term: 2 }, false),
            (Seat::Elected, Standing::Vacant, false),
            (Seat::Elected, Standing::Unknown, false),
            (Seat::Elected, Standing::Following(led_by(2)), true),
            (Seat::Under(led_by(1)), Standing::Following(led_by(1)), false),
            (Seat::Under(led_by(1)), Standing::Following(led_by(2)), true),
            (Seat::Under(led_by(1)), Standing::Vacant, false),
            (Seat::Under(led_by(1)), leading.clone(), true),
            (Seat::Given, leading, false),
            (Seat::Given, Standing::Following(led_by(1)), false),
        ];
        for (seat, standing, is_lost) in cases {
            assert_eq!(seat.is_lost(&standing), is_lost, "{seat:?} {standing:?}");
        }
    }
}
