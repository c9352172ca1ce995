//! The task that owns the assembly: reads the streams of all servers in turn, publishes versions.
//!
//! It never waits for the member. What comes is copied right where it is read: handing it to another
//! task would cost small models more than the copy, and one task at a time can own the arena. The
//! connections themselves are read by tasks of their own, so servers do not wait for each other's copies
//! before a window is full.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::assembly::Assembly;
use crate::error::ClientError;
use crate::server_stream::{Content, ServerReader};
use crate::session::SessionHandle;

/// Other tasks of the thread get their turn after so many bytes: about 60 us.
const BYTES_AT_A_TIME: usize = 1 << 20;

/// Assembles until the streams are at their end or something does not fit.
pub(crate) async fn assemble(mut assembly: Assembly, mut readers: Vec<ServerReader>, session: SessionHandle) {
    let (mut turn, mut copied) = (0, 0);
    while !readers.is_empty() {
        let (index, content) = poll_fn(|context| next(&mut readers, turn, &session, context)).await;
        turn = index + 1;
        let reader = &readers[index];
        match content {
            Content::Weights(weights) => {
                copied += weights.data.len();
                match assembly.receive(reader.server(), &weights) {
                    Ok(Some(version)) => session.publish(version),
                    Ok(None) => {}
                    Err(violation) => return session.fail(ClientError::bad_weights(reader.url(), violation)),
                }
            }
            Content::Mark(number) => {
                if let Some(snapshot) = assembly.mark(reader.server(), number) {
                    session.change(|session| session.snapshot = Some(snapshot));
                }
            }
            Content::End { cause } => {
                note_end(&assembly, reader, cause, &session);
                readers.remove(index);
            }
            Content::Malformed(refusal) => return session.fail(ClientError::bad_message(reader.url(), refusal)),
        }
        note_torn(&assembly, &session);
        if copied >= BYTES_AT_A_TIME {
            copied = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// What the next reader that has something brings, from number `turn` on, so that none is passed over.
fn next(
    readers: &mut [ServerReader],
    turn: usize,
    session: &SessionHandle,
    context: &mut Context<'_>,
) -> Poll<(usize, Content)> {
    let count = readers.len();
    for index in (turn..turn + count).map(|turn| turn % count) {
        if let Poll::Ready(content) = readers[index].poll_content(session, context) {
            return Poll::Ready((index, content));
        }
    }
    Poll::Pending
}

/// A stream that ends is lost, unless the server has sent all it had to.
fn note_end(assembly: &Assembly, reader: &ServerReader, cause: String, session: &SessionHandle) {
    let (server, last_step) = (reader.server(), session.look().work.last_step());
    if assembly.has_all_of(server, last_step) {
        return;
    }
    session.note_reach(server, false);
    session.fail(ClientError::ServerLost { server, url: reader.url().to_owned(), cause });
}

fn note_torn(assembly: &Assembly, session: &SessionHandle) {
    let torn_at = assembly.torn_at();
    let known = session.look().torn_at;
    if known != torn_at {
        session.change(|session| session.torn_at = torn_at);
    }
}
