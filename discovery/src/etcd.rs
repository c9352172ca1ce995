//! etcd, as far as a job needs it: a lease, a key created by one only, a key read.
//!
//! A thin client over generated code: the published one compiles the whole contract with a system protoc. Every call makes
//! one attempt at one endpoint and takes at most [`EtcdPlace::timeout`]; after a failure the next call goes to the next endpoint,
//! over a new connection (one to a stalled peer is never tried again). Watches are not used: a beat every quarter of a lease
//! reads the key anyway, and cannot go silent unnoticed.

use std::time::Duration;

use halflife_proto::causes;
use thiserror::Error;
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use wire::compare::{CompareTarget, TargetUnion};
use wire::kv_client::KvClient;
use wire::lease_client::LeaseClient;
use wire::request_op::Request;
use wire::response_op::Response;

#[allow(missing_docs, clippy::all, reason = "generated")]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

/// Where etcd is.
#[derive(Clone, Debug)]
pub struct EtcdPlace {
    urls: Vec<String>,
    endpoints: Vec<Endpoint>,
    /// Longest that one call may take.
    pub timeout: Duration,
}

/// Why etcd cannot be asked.
#[derive(Debug, Error)]
pub enum EtcdError {
    /// Not a URL.
    #[error("--etcd {url:?}: expected http://HOST:PORT, {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer.
    #[error("etcd at {url}: {reason}")]
    Failed {
        /// The endpoint asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// An answer that cannot be.
    #[error("etcd at {url}: expected {expected}, found {found}")]
    Malformed {
        /// The endpoint asked.
        url: String,
        /// What would be right.
        expected: &'static str,
        /// What came.
        found: String,
    },
}

impl EtcdPlace {
    /// Reads `http://HOST:PORT`, or several with commas between.
    ///
    /// # Errors
    /// [`EtcdError::BadUrl`].
    pub fn parse(text: &str, timeout: Duration) -> Result<EtcdPlace, EtcdError> {
        let urls: Vec<String> = text.split(',').map(|url| url.trim().to_owned()).collect();
        let endpoint = |url: &String| {
            let bad = |reason: String| EtcdError::BadUrl { url: url.clone(), reason };
            if !url.starts_with("http://") {
                return Err(bad("found no http://".to_owned()));
            }
            let endpoint = Endpoint::from_shared(url.clone()).map_err(|error| bad(format!("found an {error}")))?;
            match endpoint.uri().host() {
                Some(host) if !host.is_empty() => Ok(endpoint.connect_timeout(timeout).tcp_nodelay(true)),
                _ => Err(bad("found no host".to_owned())),
            }
        };
        let endpoints = urls.iter().map(endpoint).collect::<Result<_, _>>()?;
        Ok(EtcdPlace { urls, endpoints, timeout })
    }
}

/// A lease in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// A key as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value.
    pub value: Vec<u8>,
    /// When it came into being: whoever creates it later gets a larger one.
    pub create_revision: i64,
    /// The lease that it lives by.
    pub lease: LeaseId,
}

/// A client of etcd.
#[derive(Debug)]
pub struct Etcd {
    place: EtcdPlace,
    at: usize,
    channel: Option<Channel>,
}

impl Etcd {
    /// Of the etcd at `place`; connects when first asked.
    #[must_use]
    pub fn new(place: EtcdPlace) -> Etcd {
        Etcd { place, at: 0, channel: None }
    }

    /// Takes a lease of so many seconds. Gives the seconds that etcd made of it.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn grant(&mut self, seconds: i64) -> Result<(LeaseId, i64), EtcdError> {
        let answer = self.call(async |channel| {
            LeaseClient::new(channel).lease_grant(wire::LeaseGrantRequest { ttl: seconds, id: 0 }).await
        });
        let wire::LeaseGrantResponse { id, ttl } = answer.await?.into_inner();
        Ok((LeaseId(id), ttl))
    }

    /// Makes a lease last for its whole time again. Gives that in seconds; 0 if there is no such lease any more.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn keep_alive(&mut self, lease: LeaseId) -> Result<i64, EtcdError> {
        let answer = self.call(async |channel| {
            let request = tokio_stream::once(wire::LeaseKeepAliveRequest { id: lease.0 });
            let mut answers = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
            answers.next().await.unwrap_or_else(|| Err(Status::unavailable("the stream ended without an answer")))
        });
        Ok(answer.await?.ttl)
    }

    /// Gives a lease up, and with it what lives by it.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn revoke(&mut self, lease: LeaseId) -> Result<(), EtcdError> {
        let answer = self.call(async |channel| {
            LeaseClient::new(channel).lease_revoke(wire::LeaseRevokeRequest { id: lease.0 }).await
        });
        answer.await.map(drop)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn get(&mut self, key: &str) -> Result<Option<Entry>, EtcdError> {
        let answer = self.transact(Vec::new(), vec![read(key)], Vec::new()).await?;
        self.entry(answer)
    }

    /// Creates a key that lives by a lease, unless it is there. Gives what is there then, which this or another has created.
    ///
    /// # Errors
    /// [`EtcdError`]; it may be created all the same.
    pub async fn create(&mut self, key: &str, value: Vec<u8>, lease: LeaseId) -> Result<Option<Entry>, EtcdError> {
        let absent = vec![created_at(key, 0)];
        let answer = self.transact(absent, vec![write(key, value, lease), read(key)], vec![read(key)]).await?;
        self.entry(answer)
    }

    /// Writes `key` if `held` is there and was created at `create_revision`. Gives whether it was.
    ///
    /// # Errors
    /// [`EtcdError`]; it may be written all the same.
    pub async fn put_while(
        &mut self,
        held: &str,
        create_revision: i64,
        key: &str,
        value: Vec<u8>,
    ) -> Result<bool, EtcdError> {
        let holds = vec![created_at(held, create_revision)];
        let answer = self.transact(holds, vec![write(key, value, LeaseId(0))], Vec::new()).await?;
        Ok(answer.succeeded)
    }

    async fn transact(
        &mut self,
        compare: Vec<wire::Compare>,
        success: Vec<wire::RequestOp>,
        failure: Vec<wire::RequestOp>,
    ) -> Result<wire::TxnResponse, EtcdError> {
        let request = wire::TxnRequest { compare, success, failure };
        let answer = self.call(async move |channel| KvClient::new(channel).txn(request).await);
        Ok(answer.await?.into_inner())
    }

    fn entry(&self, answer: wire::TxnResponse) -> Result<Option<Entry>, EtcdError> {
        let found = match answer.responses.into_iter().next_back().and_then(|answer| answer.response) {
            Some(Response::ResponseRange(mut range)) => range.kvs.pop(),
            other => {
                let (url, found) = (self.url().to_owned(), format!("{other:?}"));
                return Err(EtcdError::Malformed { url, expected: "the value of a key", found });
            }
        };
        Ok(found.map(|found| {
            let wire::KeyValue { create_revision, value, lease, .. } = found;
            Entry { value, create_revision, lease: LeaseId(lease) }
        }))
    }

    /// One attempt, at the endpoint that answered last.
    async fn call<T>(&mut self, ask: impl AsyncFnOnce(Channel) -> Result<T, Status>) -> Result<T, EtcdError> {
        let endpoint = &self.place.endpoints[self.at];
        let kept = self.channel.take();
        let asked = async {
            let channel = match kept {
                Some(channel) => channel,
                None => endpoint.connect().await.map_err(|error| Status::unavailable(causes(&error)))?,
            };
            Ok::<_, Status>((ask(channel.clone()).await?, channel))
        };
        let reason = match tokio::time::timeout(self.place.timeout, asked).await {
            Ok(Ok((answer, channel))) => {
                self.channel = Some(channel);
                return Ok(answer);
            }
            Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
            Err(_) => format!("no answer within {} ms", self.place.timeout.as_millis()),
        };
        let url = self.url().to_owned();
        self.at = (self.at + 1) % self.place.endpoints.len();
        Err(EtcdError::Failed { url, reason })
    }

    fn url(&self) -> &str {
        &self.place.urls[self.at]
    }
}

fn created_at(key: &str, create_revision: i64) -> wire::Compare {
    wire::Compare {
        result: wire::compare::CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.as_bytes().to_vec(),
        target_union: Some(TargetUnion::CreateRevision(create_revision)),
    }
}

fn read(key: &str) -> wire::RequestOp {
    wire::RequestOp { request: Some(Request::RequestRange(wire::RangeRequest { key: key.as_bytes().to_vec() })) }
}

fn write(key: &str, value: Vec<u8>, lease: LeaseId) -> wire::RequestOp {
    let put = wire::PutRequest { key: key.as_bytes().to_vec(), value, lease: lease.0 };
    wire::RequestOp { request: Some(Request::RequestPut(put)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_etcd_are_checked_before_anything_is_asked() {
        let parse = |text| EtcdPlace::parse(text, Duration::from_secs(1)).map(|place| place.urls);
        assert_eq!(parse("http://a:1, http://b:2").unwrap(), ["http://a:1", "http://b:2"]);
        for bad in ["", "a:1", "https://a:1", "http://", "http://a:1,"] {
            assert!(parse(bad).is_err_and(|error| error.to_string().contains("expected http://")), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_etcd_that_is_not_there_is_named_and_the_next_one_asked() {
        let place = EtcdPlace::parse("http://127.0.0.1:1,http://127.0.0.1:2", Duration::from_secs(1)).unwrap();
        let mut etcd = Etcd::new(place);
        for port in [1, 2, 1] {
            let error = etcd.get("k").await.unwrap_err().to_string();
            assert!(error.starts_with(&format!("etcd at http://127.0.0.1:{port}: Unavailable")), "{error}");
        }
    }
}
