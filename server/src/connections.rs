//! Accepts connections and speaks HTTP/2 on them.
//!
//! Served through hyper rather than tonic's transport, which hides how much a connection may hold
//! ready to send: with hyper's default of 400 KiB, a block of 1 MiB waits for the socket twice.
//! Generic over what a connection is: TCP and Unix sockets today.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use halflife_proto::{
    HTTP2_FRAME_BYTES, HTTP2_SEND_BYTES, HTTP2_WINDOW_BYTES, KEEPALIVE_INTERVAL_S, KEEPALIVE_TIMEOUT_S,
};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower_service::Service as _;
use tracing::{debug, warn};

use crate::telemetry::Meter;

/// Pause after the system refuses to accept, so that a full file table does not turn into a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
#[derive(Debug)]
pub struct Listeners {
    /// From anywhere.
    pub tcp: TcpListener,
    /// From this host.
    pub unix: Option<UnixSocket>,
}

/// A Unix socket that listens; its file goes with it.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at `path`. The file of a server that is gone is replaced; one that answers is not.
    ///
    /// # Errors
    /// The system's, `AddrInUse` when another process listens there.
    pub fn bind(path: &Path) -> io::Result<UnixSocket> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let is_stale = std::fs::symlink_metadata(path)
            .is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()));
        if is_stale {
            std::fs::remove_file(path)?;
        }
        Ok(UnixSocket { listener: UnixListener::bind(path)?, path: path.to_owned() })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Gone already, or not ours to judge: either way there is nothing left to do.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves `routes` on every connection until `stopping` turns true, then lets open calls end. Refusals are counted in
/// `meter`.
pub async fn serve(listeners: Listeners, routes: Routes, meter: Arc<Meter>, stopping: watch::Receiver<bool>) {
    let Listeners { tcp, unix } = listeners;
    let mut stopped = stopping.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = turned_true(&mut stopped) => break,
            accepted = tcp.accept() => match accepted {
                Ok((stream, peer)) => {
                    prepare(&stream);
                    let from = TcpConnectInfo { local_addr: None, remote_addr: Some(peer) };
                    let routes = (routes.clone(), meter.clone());
                    connections.spawn(serve_connection(stream, Some(from), routes, stopping.clone()));
                }
                Err(error) => refused(&error).await,
            },
            accepted = accept_unix(unix.as_ref()) => match accepted {
                Ok(stream) => {
                    let routes = (routes.clone(), meter.clone());
                    connections.spawn(serve_connection(stream, None, routes, stopping.clone()));
                }
                Err(error) => refused(&error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop((tcp, unix));
    while connections.join_next().await.is_some() {}
}

/// Resolves when the flag turns true, or whoever could turn it is gone.
async fn turned_true(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}

async fn accept_unix(socket: Option<&UnixSocket>) -> io::Result<tokio::net::UnixStream> {
    match socket {
        Some(socket) => socket.listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

fn prepare(stream: &TcpStream) {
    // Without it a small message waits for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "no TCP_NODELAY");
    }
}

async fn refused(error: &io::Error) {
    warn!(%error, "a connection was not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn serve_connection<I>(
    io: I,
    from: Option<TcpConnectInfo>,
    (routes, meter): (Routes, Arc<Meter>),
    mut stopping: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (mut routes, meter) = (routes.clone(), meter.clone());
        let mut request = request.map(Body::new);
        if let Some(from) = &from {
            request.extensions_mut().insert(from.clone());
        }
        async move {
            let response = routes.call(request).await.unwrap_or_else(|never| match never {});
            meter.answered(response.headers());
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_send_buf_size(HTTP2_SEND_BYTES)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .keep_alive_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S))
        .keep_alive_timeout(Duration::from_secs(KEEPALIVE_TIMEOUT_S))
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = turned_true(&mut stopping) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection broke");
    }
}
