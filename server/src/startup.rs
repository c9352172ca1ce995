//! How a server finds its part in the job: the command line's words for it.
//!
//! One command line can serve all servers of a job: with `--servers` the place in the list says who leads, with `--etcd` an
//! election does. Without either, the server with `--config` alone leads and the others name it with `--lead`.

use std::time::Duration;

use halflife_discovery::server_list::host_name;
use halflife_discovery::{Campaign, EtcdError, EtcdPlace, JobKeys, ServerList, ServerListError};
use thiserror::Error;

use crate::config::JobSpec;
use crate::server::Part;
use crate::whole_number;

/// Who leads, as the command line says.
#[derive(Debug, Default, clap::Args)]
pub struct StartupArguments {
    /// Follow the lead at this URL instead of leading.
    #[arg(long, value_name = "URL", env = "HALFLIFE_LEAD")]
    pub lead: Option<String>,
    /// All servers of the job, the same list for each: URL,URL,... or dns:DOMAIN:PORT for hosts NAME-0.DOMAIN, NAME-1.DOMAIN, ...
    /// The first leads, and comes back by restart.
    #[arg(long, value_name = "LIST", env = "HALFLIFE_SERVERS", requires = "config", conflicts_with = "lead")]
    pub servers: Option<String>,
    /// This server's place in --servers, from 0. Without it, the number at the end of the host's name, as in server-2.
    #[arg(long, value_name = "N", env = "HALFLIFE_SERVER_INDEX", requires = "servers")]
    pub server_index: Option<usize>,
    /// The etcd in which the servers of the job elect their lead; when it dies another takes over. Several URLs with commas
    /// between. Needs a checkpoint section in the job file.
    #[arg(long, value_name = "URL", env = "HALFLIFE_ETCD", requires = "config", conflicts_with_all = ["lead", "servers"])]
    pub etcd: Option<String>,
    /// Silence of the lead towards etcd, in seconds, after which another server takes over.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = whole_number::within::<u64>(2..=3600),
        env = "HALFLIFE_ETCD_LEASE"
    )]
    pub etcd_lease: u64,
}

/// Why a server has no part.
#[derive(Debug, Error)]
pub enum StartupError {
    /// Neither leads nor follows.
    #[error("expected --config FILE to lead, or --lead URL to follow")]
    NoPart,
    /// `--servers`.
    #[error(transparent)]
    Servers(#[from] ServerListError),
    /// `--etcd`.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

impl StartupArguments {
    /// The server's part, and where others reach it, if the arguments say so.
    ///
    /// # Errors
    /// [`StartupError`].
    pub fn part(&self, spec: Option<Box<JobSpec>>, latest_valid: bool) -> Result<(Part, Option<String>), StartupError> {
        match (&self.lead, spec) {
            (Some(lead), expected) => Ok((Part::Follower { lead: lead.clone(), expected }, None)),
            (None, None) => Err(StartupError::NoPart),
            (None, Some(spec)) => self.part_in(spec, latest_valid, &host_name()),
        }
    }

    fn part_in(
        &self,
        spec: Box<JobSpec>,
        latest_valid: bool,
        host: &str,
    ) -> Result<(Part, Option<String>), StartupError> {
        if let Some(etcd) = &self.etcd {
            let lease = Duration::from_secs(self.etcd_lease);
            // A call that takes longer has cost a beat: the next should find another endpoint in time.
            let etcd = EtcdPlace::parse(etcd, (lease / 4).min(Duration::from_secs(1)))?;
            let campaign = Campaign { etcd, keys: JobKeys::of(&spec.job.name), lease };
            return Ok((Part::Elected { spec, latest_valid, campaign }, None));
        }
        let Some(servers) = &self.servers else { return Ok((Part::Lead { spec, latest_valid }, None)) };
        let place = ServerList::parse(servers)?.place(self.server_index, host)?;
        let part = match place.index {
            0 => Part::Lead { spec, latest_valid },
            _ => Part::Follower { lead: place.lead, expected: Some(spec) },
        };
        Ok((part, Some(place.own)))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[arg(long)]
        config: Option<String>,
        #[command(flatten)]
        startup: StartupArguments,
    }

    fn part(line: &str, host: &str) -> Result<(Part, Option<String>), String> {
        let line = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace()));
        let Line { config, startup } = line.map_err(|error| error.to_string())?;
        let spec = JobSpec::parse("a job", "[job]\nname = \"j\"\nsteps = 9\n[optimizer]\nlr = 0.1\n", &[]).unwrap();
        match config {
            Some(_) if startup.lead.is_none() => startup.part_in(Box::new(spec), false, host),
            config => startup.part(config.map(|_| Box::new(spec)), false),
        }
        .map_err(|error| error.to_string())
    }

    #[test]
    fn one_command_line_serves_every_server_of_a_list() {
        let line = "--config f --servers dns:servers:7070";
        let (lead, own) = part(line, "halflife-0").unwrap();
        assert!(matches!(lead, Part::Lead { .. }), "{lead:?}");
        assert_eq!(own.as_deref(), Some("http://halflife-0.servers:7070"));
        let (follower, own) = part(line, "halflife-2").unwrap();
        assert!(
            matches!(&follower, Part::Follower { lead, expected: Some(_) } if lead == "http://halflife-0.servers:7070"),
            "{follower:?}"
        );
        assert_eq!(own.as_deref(), Some("http://halflife-2.servers:7070"));
        let (follower, own) = part("--config f --servers http://a:1,http://b:1 --server-index 1", "laptop").unwrap();
        assert!(matches!(&follower, Part::Follower { lead, .. } if lead == "http://a:1"), "{follower:?}");
        assert_eq!(own.as_deref(), Some("http://b:1"));
    }

    #[test]
    fn without_a_list_the_job_file_or_the_lead_says_the_part() {
        assert!(matches!(part("--config f", "x").unwrap(), (Part::Lead { .. }, None)));
        assert!(matches!(part("--lead http://a:1", "x").unwrap(), (Part::Follower { expected: None, .. }, None)));
        let (elected, _) = part("--config f --etcd http://e:2379,http://f:2379 --etcd-lease 3", "x").unwrap();
        let Part::Elected { campaign, .. } = elected else { panic!("{elected:?}") };
        assert_eq!((campaign.lease, campaign.keys.lead()), (Duration::from_secs(3), "/halflife/j/lead".to_owned()));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (line, why) in [
            ("", "expected --config FILE"),
            ("--servers http://a:1", "--config"),
            ("--config f --servers http://a:1 --lead http://a:1", "cannot be used with"),
            ("--config f --etcd http://a:1 --servers http://a:1", "cannot be used with"),
            ("--config f --server-index 1", "--servers"),
            ("--config f --etcd http://a:1 --etcd-lease 1", "expected 2 to 3600, found 1"),
            ("--config f --etcd a:1", "expected http://"),
            ("--config f --servers http://a:1 --server-index 1", "expected 0 to 0"),
            ("--config f --servers http://a:1,http://b:1", "expected --server-index N"),
        ] {
            let refused = part(line, "laptop").unwrap_err();
            assert!(refused.contains(why), "{line}: {refused}");
        }
    }
}
