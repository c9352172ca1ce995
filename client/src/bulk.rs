//! The connection that a step stream has to itself: HTTP/2 as the servers speak it.
//!
//! Through hyper rather than tonic's channel, which hides how much may be ready to send
//! (`connections.rs` of the server does the same on its side).

use std::path::Path;
use std::time::Duration;

use halflife_proto::causes;
use halflife_proto::trace::TRACEPARENT;
use halflife_proto::{
    HTTP2_FRAME_BYTES, HTTP2_SEND_BYTES, HTTP2_WINDOW_BYTES, KEEPALIVE_INTERVAL_S, KEEPALIVE_TIMEOUT_S, STEP_PATH,
};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderValue, Uri, header};

use crate::connection::CONNECT_TIMEOUT;
use crate::error::ClientError;

/// A port left out of an `http` URL.
const HTTP_PORT: u16 = 80;

/// An open connection to a server.
pub(crate) struct Bulk {
    requests: SendRequest<Body>,
    /// Of the step stream.
    target: Uri,
}

impl Bulk {
    /// Connects to `http://host:port` or `unix:///path`, once.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`], [`ClientError::Unreachable`].
    pub(crate) async fn connect(url: &str) -> Result<Bulk, ClientError> {
        let connecting = async {
            match url.strip_prefix("unix://") {
                Some(path) => {
                    let stream =
                        UnixStream::connect(Path::new(path)).await.map_err(|error| unreachable(url, &error))?;
                    Bulk::begin(url, stream, "localhost").await
                }
                None => {
                    let (host, port, authority) = address(url)?;
                    let stream =
                        TcpStream::connect((host.as_str(), port)).await.map_err(|error| unreachable(url, &error))?;
                    // Without it a small message waits for the acknowledgement of the one before.
                    stream.set_nodelay(true).map_err(|error| unreachable(url, &error))?;
                    Bulk::begin(url, stream, &authority).await
                }
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                let cause = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
                Err(ClientError::Unreachable { url: url.to_owned(), cause })
            }
        }
    }

    async fn begin<I>(url: &str, stream: I, authority: &str) -> Result<Bulk, ClientError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let bad = |error: http::Error| ClientError::BadUrl { url: url.to_owned(), cause: error.to_string() };
        let target = Uri::builder().scheme("http").authority(authority).path_and_query(STEP_PATH).build();
        let target = target.map_err(bad)?;
        let (requests, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_frame_size(HTTP2_FRAME_BYTES)
            .max_send_buf_size(HTTP2_SEND_BYTES)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .keep_alive_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S))
            .keep_alive_timeout(Duration::from_secs(KEEPALIVE_TIMEOUT_S))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(url, &error))?;
        // Ends by itself: with the last of its streams and senders, or when the peer is lost.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
        Ok(Bulk { requests, target })
    }

    /// Opens a step stream that sends `body`, as part of what `traceparent` says; gives the body of the answer.
    ///
    /// # Errors
    /// The server's status, or that of a broken connection.
    pub(crate) async fn step(mut self, body: Body, traceparent: Option<HeaderValue>) -> Result<Body, Status> {
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.target;
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(value) = traceparent {
            request.headers_mut().insert(TRACEPARENT, value);
        }
        let answer = self.requests.send_request(request).await;
        let (head, body) = answer.map_err(|error| Status::from_error(error.into()))?.into_parts();
        // A refusal before the stream is in the headers.
        if let Some(status) = Status::from_header_map(&head.headers)
            && status.code() != tonic::Code::Ok
        {
            return Err(status);
        }
        if head.status != http::StatusCode::OK {
            return Err(Status::unavailable(format!("expected HTTP status 200, got {}", head.status)));
        }
        Ok(Body::new(body))
    }
}

/// Host, port and authority of an `http` URL.
fn address(url: &str) -> Result<(String, u16, String), ClientError> {
    let bad = |cause: &str| ClientError::BadUrl { url: url.to_owned(), cause: cause.to_owned() };
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad("expected http:// or unix://"));
    }
    let authority = uri.authority().ok_or_else(|| bad("no host"))?;
    // An IPv6 address stands in brackets, which are no part of it.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), authority.port_u16().unwrap_or(HTTP_PORT), authority.to_string()))
}

fn unreachable(url: &str, error: &(dyn std::error::Error + 'static)) -> ClientError {
    ClientError::Unreachable { url: url.to_owned(), cause: causes(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        let of = |url| address(url).map(|(host, port, _)| (host, port)).map_err(|error| error.to_string());
        assert_eq!(of("http://a.example:7070"), Ok(("a.example".to_owned(), 7070)));
        assert_eq!(of("http://[::1]:7070"), Ok(("::1".to_owned(), 7070)));
        assert_eq!(of("http://a"), Ok(("a".to_owned(), 80)));
        assert!(of("https://a").is_err_and(|error| error.contains("expected http://")));
        assert!(of("a:1").is_err());
    }
}
