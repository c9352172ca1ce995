//! The task that owns the assembly: takes in what the streams' readers bring, publishes versions.
//!
//! It never waits for the member. Copies run inline: one block is tens of microseconds to copy, a
//! hand-over to another thread would cost small models more than that.

use std::sync::Arc;

use halflife_proto::contribution::BlockWeights;
use halflife_proto::ids::ServerIndex;
use tokio::sync::mpsc;

use crate::assembly::Assembly;
use crate::error::ClientError;
use crate::session::SessionHandle;

/// Tensor data queued between the readers and the assembler at most, in bytes.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// Messages queued at most, however small the blocks.
const QUEUE_MESSAGES_MAX: u64 = 256;

/// What a stream's reader brings.
pub(crate) struct Arrival {
    pub(crate) server: ServerIndex,
    pub(crate) content: Content,
}

/// See [`Arrival`].
pub(crate) enum Content {
    Weights(BlockWeights),
    /// The stream is at its end; nothing more comes from this server.
    End {
        cause: String,
    },
}

/// The queue from the readers to the assembler, for blocks of this size.
pub(crate) fn queue(block_elements: u64) -> (mpsc::Sender<Arrival>, mpsc::Receiver<Arrival>) {
    let block_bytes = block_elements.saturating_mul(size_of::<f32>() as u64).max(1);
    mpsc::channel((QUEUE_BYTES_MAX / block_bytes).clamp(1, QUEUE_MESSAGES_MAX) as usize)
}

/// Assembles until the readers are gone or something does not fit. `urls` by server index.
pub(crate) async fn assemble(
    mut assembly: Assembly,
    urls: Arc<[String]>,
    session: SessionHandle,
    mut arrivals: mpsc::Receiver<Arrival>,
) {
    while let Some(Arrival { server, content }) = arrivals.recv().await {
        let url = urls.get(server.0 as usize).map_or("", String::as_str);
        match content {
            Content::Weights(weights) => match assembly.receive(server, &weights) {
                Ok(Some(version)) => session.publish(version),
                Ok(None) => {}
                Err(violation) => return session.fail(ClientError::bad_weights(url, violation)),
            },
            Content::End { cause } => note_end(&assembly, server, url, cause, &session),
        }
        note_torn(&assembly, &session);
    }
}

/// A stream that ends is lost, unless the server has sent all it had to.
fn note_end(assembly: &Assembly, server: ServerIndex, url: &str, cause: String, session: &SessionHandle) {
    let last_step = session.look().work.last_step();
    if assembly.has_all_of(server, last_step) {
        return;
    }
    session.note_reach(server, false);
    session.fail(ClientError::ServerLost { server, url: url.to_owned(), cause });
}

fn note_torn(assembly: &Assembly, session: &SessionHandle) {
    let torn_at = assembly.torn_at();
    let known = session.look().torn_at;
    if known != torn_at {
        session.change(|session| session.torn_at = torn_at);
    }
}
