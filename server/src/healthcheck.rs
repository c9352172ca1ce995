//! `halflife-server healthcheck`: whether a server answers, as an exit code, for supervisors that can only run a program
//! (a container without a shell has no other to run).
//!
//! Asks the standard gRPC health service. A server serves once it has taken its part in the job: one that still looks for
//! its lead says that it does not, and is not healthy. Says nothing about the job: `status` does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use halflife_proto::causes;
use thiserror::Error;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::operator::endpoint;
use crate::{socket_address, whole_number};

/// What is asked about: the service that workers need of every server.
const SERVICE: &str = "halflife.v1.Data";

/// Ask a server whether it serves: exit code 0 if it does, 1 if not.
#[derive(Clone, Debug, Args)]
pub struct HealthcheckArguments {
    /// The server's URL, http://HOST:PORT or unix:///PATH; without it the one that listens at --listen.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Where the server on this host listens, as it was told.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070", value_parser = socket_address::parse, env = "HALFLIFE_LISTEN")]
    listen: SocketAddr,
    /// How long the answer may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = whole_number::within::<u64>(1..=3600))]
    timeout: u64,
}

/// Why a server is not healthy.
#[derive(Debug, Error)]
pub enum HealthcheckError {
    /// Not a URL.
    #[error("--server {url}: expected a URL such as http://10.0.0.1:7070: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// The parser's reason.
        reason: String,
    },
    /// Nobody answers.
    #[error("no server answers at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// Somebody listens, but says nothing.
    #[error("expected an answer from {url} within {timeout_s} s, got none")]
    NoAnswer {
        /// Where.
        url: String,
        /// How long was waited.
        timeout_s: u64,
    },
    /// It answers that it does not serve.
    #[error("the server at {url} answers, but does not serve: expected SERVING, found {found}")]
    NotServing {
        /// Where.
        url: String,
        /// Its answer.
        found: &'static str,
    },
    /// What answers is no server of halflife.
    #[error("{url} answers, but is no halflife server: {reason}")]
    NoServer {
        /// Where.
        url: String,
        /// Its answer.
        reason: String,
    },
}

/// Asks. Gives one line for a person.
///
/// # Errors
/// [`HealthcheckError`]: the server is not healthy.
pub async fn run(arguments: HealthcheckArguments) -> Result<String, HealthcheckError> {
    let HealthcheckArguments { server, listen, timeout } = arguments;
    let url = server.unwrap_or_else(|| format!("http://{}", reachable(listen)));
    match tokio::time::timeout(Duration::from_secs(timeout), ask(&url)).await {
        Ok(answer) => answer.map(|()| format!("{url} serves")),
        Err(_) => Err(HealthcheckError::NoAnswer { url, timeout_s: timeout }),
    }
}

/// Who listens on every address is reached on loopback's.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn ask(url: &str) -> Result<(), HealthcheckError> {
    let url = || url.to_owned();
    let endpoint = endpoint(&url()).map_err(|reason| HealthcheckError::BadUrl { url: url(), reason })?;
    let unreachable = |reason| HealthcheckError::Unreachable { url: url(), reason };
    let channel = endpoint.connect().await.map_err(|error| unreachable(causes(&error)))?;
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|status| match status.code() {
        Code::NotFound | Code::Unimplemented => {
            HealthcheckError::NoServer { url: url(), reason: format!("it has no service {SERVICE} to tell of") }
        }
        code => unreachable(format!("{code:?}: {}", status.message())),
    })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(HealthcheckError::NotServing { url: url(), found: other.as_str_name() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:7070", "127.0.0.1:7070"),
            ("[::]:7071", "[::1]:7071"),
            ("10.0.0.3:80", "10.0.0.3:80"),
            ("127.0.0.1:7070", "127.0.0.1:7070"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
