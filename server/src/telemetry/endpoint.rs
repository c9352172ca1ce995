//! `/metrics` and `/healthz` over HTTP/1.1: what Prometheus and a container's health check ask.
//!
//! Bounded: so many connections at once, each for so long, and a peer that sends no whole request or does not read its
//! answer in time is cut off. The text is made on a
//! blocking thread, since a large cluster's takes longer than a thread that moves data may be held.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Telemetry;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// How long a peer may take to send a request, and a connection may be idle.
const REQUEST_WITHIN: Duration = Duration::from_secs(15);
/// After this a connection ends with the answer under way; a scraper opens another.
const LIFETIME: Duration = Duration::from_secs(600);
/// How long that answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Pause after the system refuses to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const TEXT: &str = "text/plain; charset=utf-8";

/// Listens at `listen` and answers until the process ends; gives the address, which a port 0 does not tell.
///
/// # Errors
/// When the address cannot be listened on.
pub(super) async fn serve(listen: SocketAddr, telemetry: Telemetry) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let bound = listener.local_addr()?;
    info!(url = format!("http://{bound}/metrics"), "serving metrics");
    tokio::spawn(accept(listener, telemetry));
    Ok(bound)
}

async fn accept(listener: TcpListener, telemetry: Telemetry) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Nobody closes the semaphore.
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let telemetry = telemetry.clone();
                tokio::spawn(async move {
                    serve_connection(stream, telemetry, LIFETIME, ANSWER_WITHIN).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "a connection for metrics was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    telemetry: Telemetry,
    lifetime: Duration,
    answer_within: Duration,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let telemetry = telemetry.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), telemetry).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = match timeout(lifetime, connection.as_mut()).await {
        Ok(ended) => Ok(ended),
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(answer_within, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection for metrics broke"),
        Err(_) => debug!("a peer did not read its metrics"),
    }
}

async fn answer(method: &Method, path: &str, telemetry: Telemetry) -> Response<String> {
    if *method != Method::GET && *method != Method::HEAD {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "expected GET\n".to_owned());
    }
    match path {
        "/metrics" => match tokio::task::spawn_blocking(move || telemetry.text()).await {
            Ok(Ok(text)) => response(StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Ok(Err(error)) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        // That it is answered says that the process and its runtime are alive, whatever the job waits for.
        "/healthz" => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
        _ => response(StatusCode::NOT_FOUND, TEXT, "expected /metrics or /healthz\n".to_owned()),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_answered_and_nothing_else() {
        let address = serve(([127, 0, 0, 1], 0).into(), Telemetry::default()).await.unwrap();
        let metrics = ask(address, "GET /metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.contains("\nprocess_start_time_seconds "), "{metrics}");
        assert!(ask(address, "GET /healthz").await.ends_with("\r\n\r\nok\n"));
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(ask(address, "nonsense").await.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn a_peer_that_never_reads_its_answer_is_cut_off() {
        let (mut peer, stream) = tokio::io::duplex(64);
        peer.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        // Enough for a busy machine to make the text.
        let moment = Duration::from_secs(1);
        serve_connection(stream, Telemetry::default(), moment, moment).await;
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.unwrap();
        assert!((1..=64).contains(&answer.len()), "{answer}");
    }

    #[tokio::test]
    async fn more_peers_than_it_takes_wait_and_are_answered() {
        let address = serve(([127, 0, 0, 1], 0).into(), Telemetry::default()).await.unwrap();
        let asking: Vec<_> = (0..2 * CONNECTIONS_MAX).map(|_| tokio::spawn(ask(address, "GET /healthz"))).collect();
        for asked in asking {
            assert!(asked.await.unwrap().ends_with("ok\n"));
        }
    }
}
