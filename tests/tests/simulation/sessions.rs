//! A server's end of the step streams in virtual time: what `data_service.rs` does with them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use halflife_proto::contribution::{BlockWeights, Contribution, Outcome};
use halflife_proto::framing::{Framed, MessageReader};
use halflife_proto::ids::{ServerIndex, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::v1::{self, step_response::Message};
use halflife_proto::wire;
use halflife_server::SessionId;
use halflife_server::outbox::{Outbox, Outgoing};
use halflife_server::shard::Shard;
use tokio_stream::Stream;

use crate::coverage::Transition;
use crate::event::{Down, Event, Up};
use crate::faults::Point;
use crate::lead::hello;
use crate::ledger::Answered;
use crate::network::{ConnectionId, End, Way};
use crate::promises::Expected;
use crate::world::World;

/// Contributions that are delivered late.
const LATE_MAX: usize = 3;

/// A stream that is open.
pub struct Session {
    pub connection: ConnectionId,
    id: SessionId,
    outbox: Arc<Outbox>,
    outgoing: Outgoing,
}

impl World<'_> {
    pub(crate) fn server_hears(&mut self, connection: ConnectionId, message: Up) {
        let server = self.network.get(connection).peer;
        if self.servers[server].is_lost {
            return;
        }
        match message {
            Up::Open { from_step } => self.open_session(server, connection, from_step),
            Up::Contribution(contribution) => self.take_contribution(server, connection, contribution),
            Up::Pull(step) => {
                let pulled = self.pull(server, connection, step);
                if let Err(refusal) = &pulled {
                    self.coverage.count("refusal", refusal.cause);
                }
                self.push_down(connection, Down::Pulled(pulled));
            }
            Up::Mark(number) => self.take_mark(server, connection, number),
            Up::Join | Up::Leave | Up::Beat { .. } | Up::Ticket(_) => {}
        }
    }

    fn open_session(&mut self, server: usize, connection: ConnectionId, from_step: Option<Step>) {
        let known = self.network.get(connection);
        let peer = self.workers[known.worker].incarnation_of(known.life);
        let opened = match self.shard_for(server, connection) {
            Err(refusal) => Err(refusal),
            Ok(shard) => {
                let outbox = Arc::new(Outbox::default());
                outbox.reply(Message::Welcome(v1::Welcome {
                    server: Some((&shard.identity().hello()).into()),
                    server_index: shard.identity().index.0,
                    step: shard.complete().map(|step| step.0),
                }));
                let generation = shard.identity().generation;
                shard.open_session(peer, from_step, &outbox).map(|id| (id, outbox, generation))
            }
        };
        match opened {
            Ok((id, outbox, generation)) => {
                let outgoing = Outgoing::new(outbox.clone(), generation, ());
                let at_a_step = from_step.is_some();
                self.coverage.pass(if at_a_step { Transition::StreamAtStep } else { Transition::StreamAtNewest });
                self.servers[server].sessions.push(Session { connection, id, outbox, outgoing });
                self.end_replaced(server);
                self.pump_session(connection);
            }
            Err(refusal) => {
                self.coverage.count("refusal", refusal.cause);
                self.push_down(connection, Down::Ended(refusal));
            }
        }
    }

    /// Streams end whose worker has opened another.
    fn end_replaced(&mut self, server: usize) {
        let replaced: Vec<_> =
            self.servers[server].sessions.extract_if(.., |session| session.outbox.is_closed()).collect();
        for session in replaced {
            let at_us = self.now + self.random.below(100_000);
            self.network.forget_peer_end(session.connection);
            self.queue.push(at_us, Event::Ended { connection: session.connection, end: End::Worker });
        }
    }

    /// The shard, for a worker that has introduced itself properly.
    fn shard_for(&self, server: usize, connection: ConnectionId) -> Result<Arc<Shard>, Refusal> {
        let known = self.network.get(connection);
        let not_ready = || Refusal::new(RefusalCause::NotReady, "this server has no blocks yet");
        let shard = self.servers[server].shard.clone().ok_or_else(not_ready)?;
        let generation = self.workers[known.worker].generation_of(known.life).unwrap_or(shard.identity().generation);
        shard.identity().hello().check(&hello(generation))?;
        Ok(shard)
    }

    fn take_contribution(&mut self, server: usize, connection: ConnectionId, contribution: Contribution) {
        let (Some(shard), Some(session)) = (
            self.servers[server].shard.clone(),
            self.servers[server].sessions.iter().find(|session| session.connection == connection),
        ) else {
            return;
        };
        let outbox = session.outbox.clone();
        let (block, worker) = (contribution.block, self.network.get(connection).worker);
        let numbers = [server as u64, worker as u64, contribution.step.0, u64::from(contribution.slots.begin)];
        let (step, slots) = (contribution.step, contribution.slots);
        let (push, weight) = (contribution.push, contribution.weight);
        let payload = push.is_some().then(|| contribution.payload.clone());
        let before = shard.inspect(block).and_then(|seen| seen.step);
        let is_current = self.is_current(server);
        self.keep_for_later(server, &contribution);
        match shard.contribute(contribution) {
            Ok(acknowledgement) => {
                let outcome = acknowledgement.outcome;
                self.trace.note(self.now, &numbers, || {
                    format!("server {server}: {step} {slots} of {block} from worker {worker}: {outcome:?}")
                });
                self.coverage.count("outcome", outcome);
                if let (Outcome::Added, Expected::Quorum(closings)) = (outcome, &mut self.promises.expected)
                    && is_current
                {
                    closings.note_added(block, step, slots.begin);
                }
                if let (Some(push), Some(payload)) = (push, &payload)
                    && is_current
                {
                    let answered = Answered { server, block, push, read: step, weight, payload, outcome };
                    self.ledger(|ledger| ledger.take(&answered));
                }
                if outcome != Outcome::Added {
                    outbox.reply(Message::Acknowledgement(acknowledgement.into()));
                }
            }
            Err(refusal) => {
                self.coverage.count("refusal", refusal.cause);
                outbox.reply(Message::Refusal(refusal.into()));
                self.wake_node(server);
            }
        }
        if shard.inspect(block).and_then(|seen| seen.step) != before {
            self.reached(Point::AppliedNotSent, worker);
        }
        self.block_may_have_changed(server, block);
        self.pump_session(connection);
    }

    /// Some of what a server is sent is sent again to its next generation.
    fn keep_for_later(&mut self, server: usize, contribution: &Contribution) {
        if self.scenario.job.checkpoints.is_some() && contribution.step > Step::ZERO {
            let late = &mut self.servers[server].late;
            late.truncate(LATE_MAX - 1);
            late.insert(0, contribution.clone());
        }
    }

    fn take_mark(&mut self, server: usize, connection: ConnectionId, number: u64) {
        let sessions = &self.servers[server].sessions;
        if let Some(session) = sessions.iter().find(|session| session.connection == connection) {
            session.outbox.mark(number);
            self.pump_session(connection);
        }
    }

    fn pull(&self, server: usize, connection: ConnectionId, step: Step) -> Result<Vec<BlockWeights>, Refusal> {
        let shard = self.shard_for(server, connection)?;
        let ids = self.workers[self.network.get(connection).worker].blocks_of(ServerIndex(server as u32));
        shard.pull(&ids, None, Some(step)).map(|(_, blocks)| blocks)
    }

    /// Sends what waits in an outbox, as far as the connection takes it.
    pub(crate) fn pump_session(&mut self, connection: ConnectionId) {
        let server = self.network.get(connection).peer;
        while self.network.has_room(connection, Way::Down) {
            let sessions = &mut self.servers[server].sessions;
            let Some(session) = sessions.iter_mut().find(|session| session.connection == connection) else { return };
            let mut context = Context::from_waker(Waker::noop());
            let message = match Pin::new(&mut session.outgoing).poll_next(&mut context) {
                Poll::Ready(Some(Ok(framed))) => read(framed),
                Poll::Ready(Some(Err(status))) => {
                    let unexplained = Refusal::new(RefusalCause::Malformed, status.message().to_owned());
                    Down::Ended(Refusal::from_status(&status).unwrap_or(unexplained))
                }
                Poll::Ready(None) | Poll::Pending => return,
            };
            self.push_down(connection, message);
        }
    }

    pub(crate) fn close_session(&mut self, connection: ConnectionId) {
        let server = self.network.get(connection).peer;
        let sessions = &mut self.servers[server].sessions;
        let Some(place) = sessions.iter().position(|session| session.connection == connection) else { return };
        let session = sessions.remove(place);
        session.outbox.close(None);
        if let Some(shard) = &self.servers[server].shard {
            shard.close_session(session.id);
        }
    }
}

/// Reads a message of a step stream, as a client does.
fn read(framed: Framed) -> Down {
    let mut reader = MessageReader::default();
    reader.push(framed.head);
    reader.push(framed.data);
    let (response, data) = reader
        .next_message::<v1::StepResponse>()
        .expect("a server's messages are well formed")
        .expect("a framed message is whole");
    match response.message.expect("a server's message says something") {
        Message::Welcome(welcome) => Down::Welcome(welcome.step.map(Step)),
        Message::Weights(weights) => {
            let weights = wire::read_weights(weights).expect("a server's weights are well formed");
            Down::Weights(BlockWeights { data, ..weights })
        }
        Message::Acknowledgement(acknowledgement) => {
            wire::read_acknowledgement(acknowledgement).expect("a server's acknowledgement is well formed");
            Down::Acknowledged
        }
        Message::Refusal(refusal) => Down::Refusal(refusal.into()),
        Message::Mark(mark) => Down::Mark(mark.number),
    }
}
