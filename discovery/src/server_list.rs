//! The servers of a job in a fixed order: the first leads, and comes back by restart.
//!
//! Every server is given the same list, so one command line, or one pod template, serves them all; what differs is the place
//! in it, which the host's name tells (`NAME-0`, `NAME-1`, ... as a StatefulSet names its pods).

use thiserror::Error;

/// Where the servers of a job are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerList {
    /// Each by its URL.
    Urls(Vec<String>),
    /// Hosts `NAME-0`, `NAME-1`, ... of one domain, all at the same port.
    Domain {
        /// The domain, such as a headless service.
        domain: String,
        /// The port.
        port: u16,
    },
}

/// Why a list of servers cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ServerListError {
    /// The text is no list.
    #[error("--servers {given:?}: expected URLs such as http://a:7070,http://b:7070, or dns:DOMAIN:PORT; {reason}")]
    Malformed {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody knows which of them this is.
    #[error(
        "expected --server-index N, or a host name that ends in -N (such as server-2), to know this server's place in --servers; \
         found the host name {host:?}"
    )]
    NoIndex {
        /// This host's name.
        host: String,
    },
    /// Beyond the end of the list.
    #[error("--server-index: expected 0 to {last}, the places in --servers, found {index}")]
    Beyond {
        /// The last place.
        last: usize,
        /// What was given.
        index: usize,
    },
    /// A pod's URL is made of its name.
    #[error("--servers dns:...: expected a host name that ends in -N (such as server-2), found {host:?}")]
    NoName {
        /// This host's name.
        host: String,
    },
}

/// A server's place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlace {
    /// From 0, which leads.
    pub index: usize,
    /// The lead's URL.
    pub lead: String,
    /// Its own.
    pub own: String,
}

impl ServerList {
    /// Reads `URL,URL,...` or `dns:DOMAIN:PORT`.
    ///
    /// # Errors
    /// [`ServerListError::Malformed`].
    pub fn parse(text: &str) -> Result<ServerList, ServerListError> {
        let malformed = |reason: String| ServerListError::Malformed { given: text.to_owned(), reason };
        if let Some(name) = text.strip_prefix("dns:") {
            let (domain, port) = host_and_port(name).ok_or_else(|| malformed(format!("found dns:{name}")))?;
            return Ok(ServerList::Domain { domain, port });
        }
        let urls: Vec<String> = text.split(',').map(|url| url.trim().to_owned()).collect();
        if let Some(bad) = urls.iter().find(|url| !url.starts_with("http://")) {
            return Err(malformed(format!("found {bad:?}")));
        }
        let again = urls.iter().enumerate().find(|(at, url)| urls[..*at].contains(url));
        match again {
            Some((_, url)) => Err(malformed(format!("found {url} twice"))),
            None => Ok(ServerList::Urls(urls)),
        }
    }

    /// The place of the server with this index, or, without one, with this host name.
    ///
    /// # Errors
    /// [`ServerListError`].
    pub fn place(&self, index: Option<usize>, host: &str) -> Result<ServerPlace, ServerListError> {
        let short = host.split('.').next().unwrap_or_default();
        let named = short.rsplit_once('-').and_then(|(name, number)| Some((name, number.parse::<usize>().ok()?)));
        let host = || host.to_owned();
        // The only one needs no number.
        let only = matches!(self, ServerList::Urls(urls) if urls.len() == 1).then_some(0);
        let numbered = index.or(named.map(|(_, number)| number)).or(only);
        let index = numbered.ok_or_else(|| ServerListError::NoIndex { host: host() })?;
        let at = |index: usize| match self {
            ServerList::Urls(urls) => {
                urls.get(index).cloned().ok_or(ServerListError::Beyond { last: urls.len() - 1, index })
            }
            ServerList::Domain { domain, port } => match named {
                Some((name, _)) => Ok(format!("http://{name}-{index}.{domain}:{port}")),
                None => Err(ServerListError::NoName { host: host() }),
            },
        };
        Ok(ServerPlace { index, lead: at(0)?, own: at(index)? })
    }
}

/// Reads `HOST:PORT`.
pub(crate) fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    (!host.is_empty() && !host.contains(['/', ':'])).then(|| (host.to_owned(), port))
}

/// This host's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_list_leads_and_the_host_name_tells_the_place() {
        let list = ServerList::parse("http://a:1, http://b:2").unwrap();
        for (index, host, own, at) in [
            (None, "server-0", "http://a:1", 0),
            (None, "server-1", "http://b:2", 1),
            (None, "server-1.cluster.local", "http://b:2", 1),
            (Some(1), "anything", "http://b:2", 1),
            (Some(0), "server-1", "http://a:1", 0),
        ] {
            let place = list.place(index, host).unwrap();
            assert_eq!(place, ServerPlace { index: at, lead: "http://a:1".to_owned(), own: own.to_owned() }, "{host}");
        }
        let one = ServerList::parse("http://a:1").unwrap();
        assert_eq!(one.place(None, "laptop").unwrap().index, 0);
        assert_eq!(one.place(None, "server-2"), Err(ServerListError::Beyond { last: 0, index: 2 }));
        assert_eq!(list.place(None, "laptop"), Err(ServerListError::NoIndex { host: "laptop".to_owned() }));
        assert_eq!(list.place(None, "server-2"), Err(ServerListError::Beyond { last: 1, index: 2 }));
    }

    #[test]
    fn servers_of_a_domain_are_called_as_their_hosts_are() {
        let list = ServerList::parse("dns:servers.halflife:7070").unwrap();
        let place = list.place(None, "halflife-server-2").unwrap();
        let (lead, own) =
            ("http://halflife-server-0.servers.halflife:7070", "http://halflife-server-2.servers.halflife:7070");
        assert_eq!(place, ServerPlace { index: 2, lead: lead.to_owned(), own: own.to_owned() });
        assert_eq!(list.place(Some(1), "laptop"), Err(ServerListError::NoName { host: "laptop".to_owned() }));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in [
            "",
            "a:1",
            "http://a:1,b:2",
            "https://a:1",
            "http://a:1, http://a:1",
            "dns:",
            "dns:a",
            "dns:a:b",
            "dns:http://a:1",
            "dns::7070",
        ] {
            let refused = ServerList::parse(bad);
            assert!(matches!(refused, Err(ServerListError::Malformed { .. })), "{bad}: {refused:?}");
        }
    }
}
