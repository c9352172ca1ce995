//! A server's part in one generation of its job, and what outlives it.
//!
//! A generation ends when a server or the lead is lost; the next begins with a lead that has claimed it
//! (`recovery.rs`) and servers that register anew. Does not: decide that it ends (the lead's state does, or the end of a link).

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halflife_checkpoint::Checkpoints;
use halflife_discovery::Candidacy;
use halflife_proto::PROTOCOL_VERSION;
use halflife_proto::hello::{Fingerprint, Hello};
use halflife_proto::ids::{Generation, Incarnation, ServerIndex, Step};
use halflife_proto::membership::{Order, Report};
use halflife_proto::placement::ServerAddress;
use halflife_proto::refusal::{Refusal, RefusalCause};
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use super::elected::Seat;
use super::{Part, ServerError};
use crate::config::{CheckpointSection, JobSpec};
use crate::follower::{self, Application, FollowError};
use crate::lead::control_service::LeadPlace;
use crate::lead::{InitialWeights, Lead};
use crate::node::{CHANNEL_CAPACITY, Node, NodeEnd};
use crate::recovery::{self, BeginError, Beginning};
use crate::shard::{Identity, ShardCompute, ShardPlace};

/// What outlives the generations that a server takes part in.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) part: Part,
    pub(super) own: ServerAddress,
    pub(super) bound: SocketAddr,
    pub(super) memory_max: Option<NonZeroU64>,
    pub(super) patience: Duration,
    pub(super) compute: Arc<ShardCompute>,
    pub(super) place: Arc<ShardPlace>,
    pub(super) leading: Arc<LeadPlace>,
    /// Where leads are elected.
    pub(super) candidacy: Option<Candidacy>,
}

/// How a lead begins.
pub(super) struct Leading {
    pub(super) latest_valid: bool,
    pub(super) before: Option<(Generation, Option<Step>)>,
    pub(super) elected: bool,
}

/// A server's part in one generation of its job. Its tasks end with it.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) node: JoinHandle<NodeEnd>,
    pub(super) lead: Option<Arc<Lead>>,
    pub(super) generation: Generation,
    pub(super) steps: Step,
    /// With it, the job goes on after this generation.
    pub(super) checkpoint: Option<CheckpointSection>,
    /// Why the server has this part.
    pub(super) seat: Seat,
    pub(super) tasks: JoinSet<()>,
}

/// How a life ends by itself.
pub(super) enum LifeEnd {
    Node(NodeEnd),
    /// The lead has found that the job has to go back.
    GoesBack,
}

impl Ground {
    /// Takes part in the job's next generation. `before`: the one that is over, and the step that was complete at its end.
    pub(super) async fn live(&self, before: Option<(Generation, Option<Step>)>) -> Result<Life, ServerError> {
        match &self.part {
            Part::Lead { spec, latest_valid } => {
                self.lead(spec, Leading { latest_valid: *latest_valid, before, elected: false }).await
            }
            Part::Follower { lead, expected } => self.follow(lead, expected.as_deref(), false).await,
            Part::Elected { spec, latest_valid, .. } => {
                let candidacy = self.candidacy.as_ref().expect("who is to be elected stands for election");
                self.live_as_elected(candidacy, (spec, *latest_valid), before).await
            }
        }
    }

    pub(super) async fn lead(&self, spec: &JobSpec, leading: Leading) -> Result<Life, ServerError> {
        let Leading { latest_valid, before, elected } = leading;
        let incarnation = Incarnation(rand::rng().random());
        // Told once: what is damaged later is another matter.
        let latest_valid = latest_valid && before.is_none();
        let begin = recovery::Begin { incarnation, latest_valid, before, elected };
        let entitled = || !elected || self.candidacy.as_ref().is_none_or(Candidacy::holds_lease);
        let Beginning { job, generation, keeper } = recovery::begin(spec, begin, entitled).await.map_err(Box::new)?;
        let is_new = keeper.as_ref().is_none_or(|keeper| keeper.restored().is_none());
        let initial_weights = spec.job.init_from.as_deref().filter(|_| is_new);
        let initial_weights = initial_weights.map(InitialWeights::load).transpose()?;
        let identity = Identity {
            job,
            generation,
            incarnation,
            fingerprint: Fingerprint::of_this_process(0, "cpu"),
            index: ServerIndex(0),
        };
        let spans = self.place.meter().spans().clone();
        let lead = Lead::new(identity.clone(), spec.clone(), initial_weights, keeper, spans);
        let mut own = self.own.clone();
        // Listening on every address, the lead does not know which one it is reached by; workers do.
        if self.bound.ip().is_unspecified() && own.url == format!("http://{}", self.bound) {
            own.url.clear();
        }
        let (_, orders) =
            lead.admit_server(incarnation, own, self.memory_max).expect("a new job takes its first server");
        let (reports, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let mut tasks = JoinSet::new();
        tasks.spawn(lead.clone().follow_server(ServerIndex(0), receiver));
        tasks.spawn(lead.clone().watch_leases());
        self.leading.set(Ok(lead.clone()));
        self.take_part(identity, spec.clone(), Some(lead), tasks, (orders, reports))
    }

    pub(super) async fn follow(
        &self,
        lead_url: &str,
        expected: Option<&JobSpec>,
        elected: bool,
    ) -> Result<Life, ServerError> {
        let incarnation = Incarnation(rand::rng().random());
        let fingerprint = Fingerprint::of_this_process(0, "cpu");
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            job: None,
            generation: Generation(0),
            incarnation,
            fingerprint: fingerprint.clone(),
        };
        let (own, memory_max, patience) = (self.own.clone(), self.memory_max, self.patience);
        let admitted = follower::follow(lead_url, &Application { hello, own, memory_max, patience, elected }).await?;
        let spec = JobSpec::parse("the lead's job", &admitted.job_toml, &[]).map_err(ServerError::LeadsJob)?;
        if let Some(expected) = expected {
            check_same_job(lead_url, &expected.for_followers(), &spec)?;
        }
        let malformed = || {
            let refusal = Refusal::mismatch(RefusalCause::Malformed, "admission", "a job id", "none");
            FollowError::Refused { url: lead_url.to_owned(), refusal }
        };
        let identity = Identity {
            job: admitted.lead.job.ok_or_else(malformed)?,
            generation: admitted.lead.generation,
            incarnation,
            fingerprint,
            index: admitted.index,
        };
        self.take_part(identity, spec, None, JoinSet::new(), (admitted.orders, admitted.reports))
    }

    fn take_part(
        &self,
        identity: Identity,
        spec: JobSpec,
        lead: Option<Arc<Lead>>,
        tasks: JoinSet<()>,
        (orders, reports): Links,
    ) -> Result<Life, ServerError> {
        let checkpoint = spec.checkpoint.clone();
        let location = checkpoint.as_ref().map(|section| section.location.as_str());
        let checkpoints = location.map(|location| Checkpoints::open(location, Path::new("."))).transpose();
        let checkpoints = checkpoints.map_err(|error| Box::new(BeginError::from(error)))?;
        let (steps, seat) = (Step(spec.job.steps), Seat::Given);
        let (place, compute) = (self.place.clone(), self.compute.clone());
        let generation = identity.generation;
        place.meter().took_part(identity.index);
        let node = Node { identity, spec, place, compute, checkpoints };
        let node = tokio::spawn(node.run(orders, reports));
        Ok(Life { node, lead, generation, steps, checkpoint, seat, tasks })
    }
}

type Links = (mpsc::Receiver<Order>, mpsc::Sender<Report>);

fn check_same_job(url: &str, expected: &JobSpec, found: &JobSpec) -> Result<(), ServerError> {
    if expected == found {
        return Ok(());
    }
    Err(ServerError::OtherJob { url: url.to_owned(), differences: expected.differences(found) })
}

impl Life {
    pub(super) async fn end(&mut self) -> LifeEnd {
        let over = async {
            match &self.lead {
                Some(lead) => lead.is_over().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = &mut self.node => LifeEnd::Node(NodeEnd::of(end)),
            panic = panicked(&mut self.tasks) => LifeEnd::Node(NodeEnd::Panicked(panic.to_string())),
            () = over => LifeEnd::GoesBack,
        }
    }
}

/// Resolves when one of the tasks panics: a lead without them would look as if it led.
async fn panicked(tasks: &mut JoinSet<()>) -> JoinError {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            return error;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_leads_tasks_only_a_panic_ends_its_life() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        tasks.spawn(std::future::pending()).abort();
        let patience = Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, panicked(&mut tasks)).await.is_err());
        tasks.spawn(async { panic!("broken") });
        assert!(panicked(&mut tasks).await.to_string().contains("broken"));
    }
}
