//! The bound of shares so small that handing them to a second thread takes longer than sending them: one
//! task per connection on the process's runtime, as the servers and workers proper are.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

use super::share::Share;

/// A server's share and the ways to its workers.
struct Inline {
    share: Share,
    /// By worker.
    out: Vec<Mutex<OwnedWriteHalf>>,
}

/// A connection as the runtime reads it. To be called on the runtime.
///
/// # Errors
/// The system's.
pub(super) fn on_runtime(stream: StdTcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// Serves a share of one chunk on the workers' connections, by worker, until they end.
///
/// # Errors
/// The system's.
pub(super) fn serve(share: Share, streams: Vec<StdTcpStream>) -> io::Result<()> {
    let (mut readers, mut out) = (Vec::new(), Vec::new());
    for stream in streams {
        let (reader, writer) = on_runtime(stream)?.into_split();
        readers.push(reader);
        out.push(Mutex::new(writer));
    }
    let inline = Arc::new(Inline { share, out });
    for (worker, reader) in readers.into_iter().enumerate() {
        let inline = inline.clone();
        // Connections that fail end the measurement on the workers' side, where it is told.
        tokio::spawn(async move { inline.read(worker, reader).await });
    }
    Ok(())
}

impl Inline {
    async fn read(&self, worker: usize, mut stream: OwnedReadHalf) -> io::Result<()> {
        let elements = self.share.chunks.first().map_or(0, |chunk| chunk.elements);
        let (mut free, mut weights) = (vec![vec![0.0; elements]], vec![0.0; elements]);
        for step in 1.. {
            let mut gradient: Vec<f32> = free.pop().unwrap_or_else(|| vec![0.0; elements]);
            stream.read_exact(bytemuck::cast_slice_mut(&mut gradient)).await?;
            let Some(gradients) = self.share.contribute(0, step, worker, gradient) else { continue };
            free = gradients;
            weights.copy_from_slice(&self.share.weights(0, step));
            for out in &self.out {
                out.lock().await.write_all(bytemuck::cast_slice(&weights)).await?;
            }
        }
        Ok(())
    }
}
