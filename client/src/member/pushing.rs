//! The asynchronous modes: a ticket, the newest weights, and the push computed at them.
//!
//! After a grant the worker sends a mark to every server and waits until all are back: then it has
//! received whatever was applied before the grant, as the bound on staleness needs. A ticket is asked for
//! again until it is answered, a mark sent again until it is back: neither is worse for being repeated.

use std::time::Duration;

use halflife_proto::contribution::Push;
use halflife_proto::ids::{Step, Ticket};
use halflife_proto::membership::TicketAnswer;
use halflife_proto::v1;
use halflife_proto::wire::read_ticket_answer;

use super::{Member, Sight, Work, see};
use crate::assembly::Snapshot;
use crate::connection::call;
use crate::error::ClientError;
use crate::retry::Backoff;
use crate::session::Session;
use crate::shipment::Shipment;
use crate::weights::WeightsVersion;

/// A mark that is not back after so long is followed by another: its stream may have been opened again.
const MARK_PATIENCE: Duration = Duration::from_secs(5);

/// Where a worker is with its tickets.
#[derive(Debug, Default)]
pub(super) struct Pushing {
    /// Of the newest ticket; 0 before the first.
    sequence: u64,
    /// The ticket that is not pushed yet, with what it is computed at.
    held: Option<(Ticket, Snapshot)>,
    /// The push that the lead has not acknowledged by another ticket, and how many streams were open before
    /// it was sent: one that was opened later has not got it.
    pushed: Option<(u64, Shipment)>,
    /// Marks sent.
    marks: u64,
}

impl Pushing {
    pub(super) fn unacknowledged(&self) -> Option<Step> {
        self.pushed.as_ref().map(|(_, shipment)| shipment.step())
    }
}

impl Member {
    /// As [`Member::next_work`]: the ticket that is held, or the next.
    pub(super) async fn next_push(&mut self) -> Result<Work, ClientError> {
        loop {
            let sight = see(&self.session.look());
            match sight {
                // What is held is computed first: a ticket that is handed back is lost to the job.
                Sight::Work(Work::Drained) if self.pushing.held.is_some() => {}
                Sight::Work(Work::Finished { weights }) => {
                    return Ok(Work::Finished { weights: self.masters_of(weights).await? });
                }
                Sight::Work(work) => return Ok(work),
                Sight::Failure => self.fail().await?,
                Sight::Torn(_) | Sight::Nothing => {}
            }
            if let Some((ticket, snapshot)) = &self.pushing.held {
                let nodes = vec![self.session.look().work.tree().root()];
                return Ok(Work::Compute { step: ticket.step(), nodes, weights: snapshot.weights.clone() });
            }
            match self.ask_for_ticket().await? {
                TicketAnswer::Wait => self.push_again().await?,
                TicketAnswer::Granted(ticket) => {
                    self.pushing.pushed = None;
                    self.session.change(|session| session.work.note_ticket(ticket.step()));
                    let snapshot = self.read_newest().await?;
                    self.pushing.sequence += 1;
                    self.pushing.held = Some((ticket, snapshot));
                }
                TicketAnswer::Finished(step) => {
                    // Nothing changes any more, so the newest weights are those of the last step.
                    let weights = self.read_newest().await?.weights;
                    self.session.change(|session| session.work.finish(step));
                    self.session.publish(WeightsVersion { step, ..(*weights).clone() }.into());
                }
            }
        }
    }

    /// Sends the gradient of the ticket that is held.
    pub(super) async fn push(&mut self, step: Step, shipment: Shipment) -> Result<(), ClientError> {
        let Some((ticket, snapshot)) = self.pushing.held.as_ref().filter(|(ticket, _)| ticket.step() == step) else {
            let expected = match &self.pushing.held {
                Some((ticket, _)) => ticket.to_string(),
                None => "no push: no ticket is held".to_owned(),
            };
            return Err(ClientError::BadContribution { what: "ticket of a push", expected, found: step.to_string() });
        };
        let push = Push { ticket: *ticket, sequence: self.pushing.sequence };
        let shipment = shipment.into_push(push, snapshot.versions.clone());
        let opened = self.send(shipment.clone()).await?;
        self.pushing.held = None;
        self.pushing.pushed = Some((opened, shipment));
        Ok(())
    }

    /// Sends the newest push once more if a stream was opened since: what did arrive counts once.
    async fn push_again(&mut self) -> Result<(), ClientError> {
        let now = self.session.look().opened;
        if let Some((_, shipment)) = self.pushing.pushed.take_if(|(opened, _)| *opened < now) {
            let opened = self.send(shipment.clone()).await?;
            self.pushing.pushed = Some((opened, shipment));
        }
        Ok(())
    }

    /// Waits until every server has read the newest push, so that leaving does not tear it; not for long.
    pub(super) async fn flush(&mut self, patience: Duration) {
        if self.pushing.pushed.is_some() {
            // Whoever leaves leaves, whether a server answers or not.
            let _ = tokio::time::timeout(patience, self.read_newest()).await;
        }
    }

    async fn ask_for_ticket(&self) -> Result<TicketAnswer, ClientError> {
        let request = v1::TicketRequest { hello: Some((&self.hello).into()), sequence: self.pushing.sequence + 1 };
        let (mut control, mut backoff) = (self.control.clone(), Backoff::new(self.give_up_after));
        loop {
            let answer = tokio::select! {
                answer = call(&self.lead_url, control.ticket(request.clone())) => answer,
                () = self.some_failure() => {
                    self.fail().await?;
                    return Ok(TicketAnswer::Wait);
                }
                // Nobody else has the push, and the lead may wait for it before it grants anything.
                () = self.some_stream_lacks_the_push() => return Ok(TicketAnswer::Wait),
            };
            match answer {
                Ok(answer) => {
                    return read_ticket_answer(answer)
                        .map_err(|refusal| ClientError::bad_message(&self.lead_url, refusal));
                }
                Err(failure) => backoff.pause(&self.lead_url, failure).await?,
            }
        }
    }

    /// Returns once a stream is open that was opened after the newest push was sent.
    async fn some_stream_lacks_the_push(&self) {
        let Some((before, _)) = &self.pushing.pushed else { return std::future::pending().await };
        let mut changes = self.session.subscribe();
        // The sender lives as long as `self`.
        drop(changes.wait_for(|session| session.opened > *before).await);
    }

    /// The newest weights of every block, none older than what was applied before this call.
    async fn read_newest(&mut self) -> Result<Snapshot, ClientError> {
        let wanted = self.pushing.marks + 1;
        let mut changes = self.session.subscribe();
        loop {
            self.pushing.marks += 1;
            let opened = self.send(Shipment::mark(self.pushing.marks)).await?;
            let is_back = |session: &Session| session.snapshot.as_ref().is_some_and(|snapshot| snapshot.mark >= wanted);
            let is_lost = |session: &Session| !session.failures.is_empty() || session.opened > opened;
            let waiting = changes.wait_for(|session| is_back(session) || is_lost(session));
            // The sender lives as long as `self`.
            let _ = tokio::time::timeout(MARK_PATIENCE, async { drop(waiting.await) }).await;
            let snapshot = Some(self.session.look())
                .filter(|session| is_back(session))
                .and_then(|session| session.snapshot.clone());
            match snapshot {
                Some(snapshot) => return Ok(snapshot),
                None if !self.session.look().failures.is_empty() => self.fail().await?,
                None => tracing::debug!("a mark is not back yet; sending another"),
            }
        }
    }

    /// The failure that ended a task; none after the job is done.
    async fn fail(&self) -> Result<(), ClientError> {
        self.explain_failure().await.map_or(Ok(()), Err)
    }
}
