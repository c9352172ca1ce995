//! How connections are set up and unary calls bounded.

use std::time::Duration;

use halflife_proto::v1::control_client::ControlClient;
use halflife_proto::v1::data_client::DataClient;
use halflife_proto::{
    HTTP2_FRAME_BYTES, HTTP2_WINDOW_BYTES, KEEPALIVE_INTERVAL_S, KEEPALIVE_TIMEOUT_S, MESSAGE_BYTES_MAX, causes,
    check_scheme,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::error::ClientError;

/// One attempt at a TCP connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One attempt at a unary call, and at opening a stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that answers no ping for interval + timeout is lost.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(KEEPALIVE_INTERVAL_S);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(KEEPALIVE_TIMEOUT_S);

/// Connects once. Each call makes a connection of its own.
pub(crate) async fn connect(url: &str) -> Result<Channel, ClientError> {
    let endpoint = endpoint(url)?;
    endpoint.connect().await.map_err(|error| ClientError::Unreachable { url: url.to_owned(), cause: causes(&error) })
}

fn endpoint(url: &str) -> Result<Endpoint, ClientError> {
    let bad = |cause: String| ClientError::BadUrl { url: url.to_owned(), cause };
    check_scheme(url).map_err(|why| bad(why.to_owned()))?;
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(causes(&error)))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE_INTERVAL))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES))
}

/// The control service of the lead.
pub(crate) fn control_client(channel: Channel) -> ControlClient<Channel> {
    ControlClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The data service of a server.
pub(crate) fn data_client(channel: Channel) -> DataClient<Channel> {
    DataClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Waits for an answer from `url`, but not for ever.
pub(crate) async fn call<T>(
    url: &str,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(ClientError::failed(url, &status)),
        Err(_) => Err(ClientError::CallFailed {
            url: url.to_owned(),
            code: Code::DeadlineExceeded,
            cause: format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
        }),
    }
}
