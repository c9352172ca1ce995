//! Where a worker looks for the lead.
//!
//! Any server of the job will do, since one that does not lead names the one that does. Names are looked up anew each time:
//! where servers are containers, their addresses change while the job goes on.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use halflife_proto::check_scheme;
use thiserror::Error;
use tracing::debug;

use crate::etcd::{Etcd, EtcdError, EtcdPlace};
use crate::record::{JobKeys, LeadRecord};
use crate::server_list::host_and_port;

/// Longest that a name may take to be looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// The scheme whose names are looked up here.
const HTTP: &str = "http://";

/// Why a place cannot be looked at.
#[derive(Debug, Error)]
pub enum PlacesError {
    /// The text is no place.
    #[error("--server {given:?}: expected http://HOST:PORT, unix:///PATH or dns:HOST:PORT")]
    Malformed {
        /// What was given.
        given: String,
    },
    /// No place at all.
    #[error("expected --server URL, or --etcd URL with --job NAME, found neither")]
    Nowhere,
    /// The etcd's URL.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// Why there is nowhere to ask just now.
#[derive(Debug, Error)]
pub enum NobodyKnown {
    /// None has been elected.
    #[error("no server leads now")]
    NotElected,
    /// The etcd does not tell.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// What it tells is of no use.
    #[error("expected a lead's record, found {0}")]
    Malformed(serde_json::Error),
}

/// Where the servers of a job may be.
#[derive(Clone, Debug)]
pub struct Places {
    urls: Vec<String>,
    /// Servers of the generation that is under way, or was last.
    learnt: Vec<String>,
    etcd: Option<(EtcdPlace, JobKeys)>,
}

impl Places {
    /// One URL.
    #[must_use]
    pub fn at(url: &str) -> Places {
        Places { urls: vec![url.to_owned()], learnt: Vec::new(), etcd: None }
    }

    /// URLs, `dns:HOST:PORT`, and perhaps an etcd that knows the lead of a job.
    ///
    /// # Errors
    /// [`PlacesError`].
    pub fn new(servers: &[String], etcd: Option<(EtcdPlace, JobKeys)>) -> Result<Places, PlacesError> {
        let url = |given: &String| match given.trim().strip_prefix("dns:") {
            Some(name) if host_and_port(name).is_some() => Ok(format!("{HTTP}{name}")),
            None if check_scheme(given.trim()).is_ok() => Ok(given.trim().to_owned()),
            _ => Err(PlacesError::Malformed { given: given.clone() }),
        };
        let urls = servers.iter().map(url).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() && etcd.is_none() {
            return Err(PlacesError::Nowhere);
        }
        Ok(Places { urls, learnt: Vec::new(), etcd })
    }

    /// What was given, and these servers that the lead named, in the place of those named before.
    #[must_use]
    pub fn and(&self, learnt: &[String]) -> Places {
        Places { learnt: learnt.to_vec(), ..self.clone() }
    }

    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        let etcd = self.etcd.as_ref().map(|(_, keys)| format!("{} in etcd", keys.lead()));
        self.urls.iter().cloned().chain(etcd).collect::<Vec<_>>().join(", ")
    }

    /// URLs at which to ask, the likeliest first; at least one.
    ///
    /// # Errors
    /// [`NobodyKnown`] when there is none just now.
    pub async fn candidates(&self) -> Result<Vec<String>, NobodyKnown> {
        let looked_up = async |host: String, port: u16| {
            let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port))).await;
            Ok::<_, io::Error>(found.map_err(|_| io::ErrorKind::TimedOut)??.collect::<Vec<SocketAddr>>())
        };
        self.candidates_by(looked_up, rand::random::<u32>() as usize).await
    }

    /// As [`Places::candidates`], by another way of looking names up. `turn`: with which address of a name to begin, so that
    /// many workers do not all begin with the same.
    ///
    /// # Errors
    /// The same.
    pub async fn candidates_by(
        &self,
        look_up: impl AsyncFn(String, u16) -> io::Result<Vec<SocketAddr>>,
        turn: usize,
    ) -> Result<Vec<String>, NobodyKnown> {
        let mut candidates = Vec::new();
        match self.elected().await {
            Ok(elected) => candidates.extend(elected),
            Err(nobody) if self.urls.is_empty() && self.learnt.is_empty() => return Err(nobody),
            Err(nobody) => debug!(%nobody, "etcd does not tell who leads"),
        }
        for url in self.urls.iter().chain(&self.learnt) {
            let Some((host, port)) = name_of(url) else {
                candidates.push(url.clone());
                continue;
            };
            let addresses: BTreeSet<SocketAddr> = match look_up(host.clone(), port).await {
                Ok(addresses) => addresses.into_iter().collect(),
                Err(error) => {
                    debug!(host, %error, "a name cannot be looked up");
                    BTreeSet::new()
                }
            };
            // With one address or none there is nothing to choose, and the name tells more.
            if addresses.len() < 2 {
                candidates.push(url.clone());
                continue;
            }
            let mut each: Vec<String> = addresses.iter().map(|address| format!("{HTTP}{address}")).collect();
            let begin = turn % each.len();
            each.rotate_left(begin);
            candidates.extend(each);
        }
        Ok(candidates)
    }

    /// The lead that etcd knows; none where there is no etcd.
    async fn elected(&self) -> Result<Option<String>, NobodyKnown> {
        let Some((place, keys)) = &self.etcd else { return Ok(None) };
        let entry = Etcd::new(place.clone()).get(&keys.lead()).await?.ok_or(NobodyKnown::NotElected)?;
        let record: LeadRecord = serde_json::from_slice(&entry.value).map_err(NobodyKnown::Malformed)?;
        Ok(Some(record.url))
    }
}

/// Host and port of an `http` URL whose host is a name.
fn name_of(url: &str) -> Option<(String, u16)> {
    let (host, port) = host_and_port(url.strip_prefix(HTTP)?.trim_end_matches('/'))?;
    host.parse::<IpAddr>().is_err().then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn candidates(servers: &[&str], known: &[(&str, &[&str])], turn: usize) -> Vec<String> {
        let servers: Vec<String> = servers.iter().map(|text| (*text).to_owned()).collect();
        let look_up = async |host: String, port: u16| {
            let found = known.iter().find(|(name, _)| *name == host);
            let (_, addresses) = found.ok_or(io::ErrorKind::NotFound)?;
            let addresses = addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port));
            Ok::<_, io::Error>(addresses.collect::<Vec<_>>())
        };
        Places::new(&servers, None).unwrap().candidates_by(look_up, turn).await.unwrap()
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried_beginning_with_another_each_time() {
        let known: &[(&str, &[&str])] = &[("servers", &["127.0.0.3", "127.0.0.2", "127.0.0.1"])];
        let all = ["http://127.0.0.1:7", "http://127.0.0.2:7", "http://127.0.0.3:7"];
        for (turn, order) in [(0, [0, 1, 2]), (1, [1, 2, 0]), (5, [2, 0, 1])] {
            assert_eq!(candidates(&["dns:servers:7"], known, turn).await, order.map(|at| all[at]), "{turn}");
            assert_eq!(candidates(&["http://servers:7"], known, turn).await, order.map(|at| all[at]), "{turn}");
        }
    }

    #[tokio::test]
    async fn what_has_nothing_to_choose_stays_as_it_was_given() {
        let known: &[(&str, &[&str])] = &[("one", &["127.0.0.1"])];
        for url in ["http://one:7", "http://unknown:7", "http://10.0.0.1:7", "http://[::1]:7", "unix:///a/b"] {
            assert_eq!(candidates(&[url], known, 3).await, [url]);
        }
        assert_eq!(candidates(&["http://b:1", "http://a:1"], &[], 0).await, ["http://b:1", "http://a:1"]);
    }

    #[tokio::test]
    async fn servers_that_a_lead_named_are_asked_last_and_forgotten_with_its_generation() {
        let given = Places::at("http://10.0.0.1:1");
        let later = given.and(&["http://10.0.0.2:1".to_owned()]).and(&["http://10.0.0.3:1".to_owned()]);
        assert_eq!(later.candidates().await.unwrap(), ["http://10.0.0.1:1", "http://10.0.0.3:1"]);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for bad in ["", "a:1", "https://a:1", "dns:", "dns:a", "dns:a:x"] {
            assert!(Places::new(&[bad.to_owned()], None).is_err(), "{bad}");
        }
        assert!(matches!(Places::new(&[], None), Err(PlacesError::Nowhere)));
    }
}
