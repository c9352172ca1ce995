//! Looking for the lead of a job: any of its servers will do, since one that does not lead names the one that does.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use halflife_discovery::Places;
use halflife_proto::job::JobDescription;
use halflife_proto::v1;
use halflife_proto::v1::control_client::ControlClient;
use halflife_proto::wire::read_job;
use tonic::Code;
use tonic::transport::Channel;

use crate::connection::{call, connect, control_client};
use crate::error::ClientError;

/// Longest that one place among several may take: the others should have their turn.
const TURN: Duration = Duration::from_secs(2);
/// Most servers asked in one search; each may name another.
const ASKED_MAX: usize = 256;

/// A lead that answers.
pub(crate) struct Found {
    pub(crate) url: String,
    pub(crate) control: ControlClient<Channel>,
    pub(crate) job: JobDescription,
}

/// Asks once at every place, and wherever those point to.
///
/// # Errors
/// Of what went wrong at the places, that which trying again may mend, if any.
pub(crate) async fn search(places: &Places) -> Result<Found, ClientError> {
    let candidates = places.candidates().await;
    let mut to_ask: VecDeque<String> = candidates
        .map_err(|nobody| ClientError::Unreachable { url: places.describe(), cause: nobody.to_string() })?
        .into();
    let is_only_one = to_ask.len() == 1;
    let mut asked = BTreeSet::new();
    let mut worst: Option<ClientError> = None;
    while let Some(url) = to_ask.pop_front() {
        if asked.len() >= ASKED_MAX || !asked.insert(url.clone()) {
            continue;
        }
        let described = match is_only_one && to_ask.is_empty() {
            true => describe(&url).await,
            false => in_turn(&url).await,
        };
        let failure = match described {
            Ok((control, job)) => return Ok(Found { url, control, job }),
            Err(failure @ ClientError::BadUrl { .. }) => return Err(failure),
            Err(failure) => failure,
        };
        if let Some(lead) = failure.leads_at() {
            to_ask.push_front(lead.to_owned());
        }
        if worst.as_ref().is_none_or(|worst| !worst.retry_verdict().0 || failure.retry_verdict().0) {
            worst = Some(failure);
        }
    }
    Err(worst.expect("there is at least one candidate, and the first is always asked"))
}

async fn in_turn(url: &str) -> Result<(ControlClient<Channel>, JobDescription), ClientError> {
    match tokio::time::timeout(TURN, describe(url)).await {
        Ok(described) => described,
        Err(_) => {
            let cause = format!("no answer within {} s", TURN.as_secs());
            Err(ClientError::CallFailed { url: url.to_owned(), code: Code::DeadlineExceeded, cause })
        }
    }
}

async fn describe(url: &str) -> Result<(ControlClient<Channel>, JobDescription), ClientError> {
    let mut control = control_client(connect(url).await?);
    let job = call(url, control.describe(v1::DescribeRequest {})).await?;
    let job = read_job(Some(job)).map_err(|refusal| ClientError::bad_message(url, refusal))?;
    Ok((control, job))
}
