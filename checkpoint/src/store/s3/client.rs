//! The HTTP client of the S3 store.
//!
//! Built here so that its TLS provider is chosen here: a default of the process would be a global that
//! some other part of it might set differently.

use std::sync::Arc;
use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

/// A connection is made within this, or tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A request and its answer end within this: a part of 8 MiB at 70 kB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// An answer never pauses longer than this.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections are closed before the usual load balancer closes them under a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the client.
#[derive(Clone, Copy, Debug)]
pub struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls().map_err(|error| failed(Box::new(error)))?)
            .http1_only() // The parts of an upload want connections of their own, not a share of one.
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|error| failed(Box::new(error)))?;
        Ok(HttpClient::new(client))
    }
}

/// TLS by ring, trusting what the system trusts.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let system = rustls_native_certs::load_native_certs();
    let causes: Vec<String> = system.errors.iter().map(ToString::to_string).collect();
    let roots = roots(system.certs, &causes)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// What a system without any certificate trusts, as an image from scratch is, is what Mozilla trusts. One whose
/// certificates cannot be read is told so: trusting others in their place is not for us to decide.
fn roots(system: Vec<CertificateDer<'static>>, unreadable: &[String]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system);
    if !roots.is_empty() {
        return Ok(roots);
    }
    if !unreadable.is_empty() {
        let causes = unreadable.join("; ");
        return Err(rustls::Error::General(format!(
            "expected certificates of this system to trust, found none: {causes}"
        )));
    }
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(roots)
}

fn failed(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_certificates_trusts_what_mozilla_does_and_one_whose_are_unreadable_nobody() {
        assert!(roots(Vec::new(), &[]).unwrap().len() > 100);
        let error = roots(Vec::new(), &["/none: not found".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("/none: not found"), "{error}");
        let unparsable = roots(vec![CertificateDer::from(vec![1, 2, 3])], &["bad".to_owned()]);
        assert!(unparsable.is_err());
    }
}
