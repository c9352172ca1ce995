//! The task that owns the assembly: reads the streams of all servers in turn, publishes versions, and
//! opens streams again that break.
//!
//! It never waits for the member. What comes is copied right where it is read: handing it to another
//! task would cost small models more than the copy, and one task at a time can own the arena. The
//! connections themselves are read by tasks of their own, so servers do not wait for each other's copies
//! before a window is full.

use std::future::poll_fn;
use std::task::{Context, Poll};

use halflife_proto::ids::ServerIndex;

use crate::assembly::Assembly;
use crate::error::ClientError;
use crate::reopening::{Reopener, Reopening};
use crate::server_stream::{Content, Opened, ServerReader};
use crate::session::SessionHandle;

/// Other tasks of the thread get their turn after so many bytes: about 60 us.
const BYTES_AT_A_TIME: usize = 1 << 20;

/// A server as the assembler sees it.
enum Link {
    Open(ServerReader),
    Broken(ServerIndex, Reopening),
}

/// What a link brings.
enum Event {
    Content(Content),
    Reopened(Result<Opened, ClientError>),
}

/// Assembles until every server has sent all it had to or something does not fit.
pub(crate) async fn assemble(mut assembly: Assembly, readers: Vec<ServerReader>, reopener: Reopener) {
    let session = reopener.session.clone();
    let mut links: Vec<Link> = readers.into_iter().map(Link::Open).collect();
    let (mut turn, mut copied) = (0, 0);
    while !links.is_empty() {
        let (index, event) = poll_fn(|context| next(&mut links, turn, &session, context)).await;
        turn = index + 1;
        match (event, &links[index]) {
            (Event::Content(Content::Weights(weights)), Link::Open(reader)) => {
                copied += weights.data.len();
                reopener.observer.weights_came(weights.step);
                match assembly.receive(reader.server(), &weights) {
                    Ok(Some(version)) => {
                        reopener.observer.weights_whole(version.step);
                        session.publish(version);
                    }
                    Ok(None) => {}
                    Err(violation) => return session.fail(ClientError::bad_weights(reader.url(), violation)),
                }
            }
            (Event::Content(Content::Mark(number)), Link::Open(reader)) => {
                if let Some(snapshot) = assembly.mark(reader.server(), number) {
                    reopener.observer.weights_whole(snapshot.weights.step);
                    session.change(|session| session.snapshot = Some(snapshot));
                }
            }
            (Event::Content(Content::End { cause }), Link::Open(reader)) => {
                match reopen(&assembly, reader, &cause, &reopener) {
                    Some(link) => links[index] = link,
                    None => drop(links.remove(index)),
                }
            }
            (Event::Content(Content::Malformed(refusal)), Link::Open(reader)) => {
                return session.fail(ClientError::bad_message(reader.url(), refusal));
            }
            (Event::Reopened(Ok((shipments, reader, step))), Link::Broken(server, _)) => {
                tracing::info!(%server, url = reader.url(), "the server is reached again");
                session.note_opened(*server, shipments, step);
                links[index] = Link::Open(reader);
            }
            (Event::Reopened(Err(failure)), _) => return session.fail(failure),
            // Only an open link brings content, only a broken one is opened again.
            (Event::Content(_), Link::Broken(..)) | (Event::Reopened(_), Link::Open(_)) => {}
        }
        note_torn(&assembly, &session);
        if copied >= BYTES_AT_A_TIME {
            copied = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// What the next link that has something brings, from number `turn` on, so that none is passed over.
fn next(links: &mut [Link], turn: usize, session: &SessionHandle, context: &mut Context<'_>) -> Poll<(usize, Event)> {
    let count = links.len();
    for index in (turn..turn + count).map(|turn| turn % count) {
        let event = match &mut links[index] {
            Link::Open(reader) => reader.poll_content(session, context).map(Event::Content),
            Link::Broken(_, opening) => opening.as_mut().poll(context).map(Event::Reopened),
        };
        if let Poll::Ready(event) = event {
            return Poll::Ready((index, event));
        }
    }
    Poll::Pending
}

/// A stream that ends is opened again, unless the server has sent all it had to.
fn reopen(assembly: &Assembly, reader: &ServerReader, cause: &str, reopener: &Reopener) -> Option<Link> {
    let (server, session) = (reader.server(), &reopener.session);
    if assembly.has_all_of(server, session.look().work.last_step()) {
        return None;
    }
    session.note_unreachable(server);
    let seconds = reopener.give_up_after.as_secs();
    tracing::warn!(%server, url = reader.url(), cause, "lost a server; trying to reach it again for {seconds} s");
    Some(Link::Broken(server, reopener.reopen(server, reader.url())))
}

fn note_torn(assembly: &Assembly, session: &SessionHandle) {
    let torn_at = assembly.torn_at();
    let known = session.look().torn_at;
    if known != torn_at {
        session.change(|session| session.torn_at = torn_at);
    }
}
