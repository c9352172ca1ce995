//! The control connection to the lead: what the job is, how it stands, joining it.

use std::sync::Arc;
use std::time::Duration;

use halflife_discovery::Places;
use halflife_proto::hello::Hello;
use halflife_proto::ids::{Incarnation, Step};
use halflife_proto::job::JobDescription;
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::Assignment;
use halflife_proto::placement::{Placement, ServerAddress};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::slots::SlotTree;
use halflife_proto::trace::TRACEPARENT;
use halflife_proto::v1::control_client::ControlClient;
use halflife_proto::wire::{read_assignment, read_job, read_placement};
use halflife_proto::{PROTOCOL_VERSION, v1};
use tonic::Request;
use tonic::transport::Channel;

use crate::block_plan::BlockPlan;
use crate::connection::call;
use crate::error::ClientError;
use crate::layout::Layout;
use crate::member::Member;
use crate::options::ClientOptions;
use crate::pull::{Puller, is_other_step_worth_asking};
use crate::retry::Backoff;
use crate::search::{Found, search};

/// A connection to the lead of a job. Clones share it.
#[derive(Clone, Debug)]
pub struct Lead {
    /// Where it was looked for: there another will be, once this one leads no more.
    pub(crate) places: Places,
    pub(crate) url: String,
    pub(crate) options: ClientOptions,
    pub(crate) control: ControlClient<Channel>,
    job: JobDescription,
}

/// What the lead answers to one who joins.
pub(crate) struct Admission {
    pub(crate) hello: Hello,
    pub(crate) job: JobDescription,
    pub(crate) tree: SlotTree,
    pub(crate) placement: Placement,
    /// One per server.
    pub(crate) urls: Arc<[String]>,
    /// One per server, empty without one.
    pub(crate) unix_sockets: Vec<String>,
    /// Newest step complete on every server.
    pub(crate) step: Option<Step>,
    pub(crate) number: u32,
    /// `None` for a client.
    pub(crate) assignment: Option<Assignment>,
    pub(crate) heartbeat_every: Duration,
}

impl Lead {
    /// As [`Lead::find`], at one URL: the lead's, or that of any other server of the job.
    ///
    /// # Errors
    /// As [`Lead::find`].
    pub async fn connect(url: &str, options: ClientOptions) -> Result<Lead, ClientError> {
        Lead::find(&Places::at(url), options).await
    }

    /// Looks for the lead and asks what the job is; tries again until it answers. Servers that do not lead name the one
    /// that does.
    ///
    /// # Errors
    /// [`ClientError::GaveUp`] when it does not within `options.give_up_after`; a refusal or a bad URL
    /// at once.
    pub async fn find(places: &Places, options: ClientOptions) -> Result<Lead, ClientError> {
        let mut backoff = Backoff::new(options.give_up_after);
        let mut has_told = false;
        loop {
            let failure = match search(places).await {
                Ok(Found { url, control, job }) => {
                    return Ok(Lead { places: places.clone(), url, options, control, job });
                }
                Err(failure) => failure,
            };
            // Who starts workers before servers should see that they wait, and for what.
            if failure.retry_verdict().0 && !std::mem::replace(&mut has_told, true) {
                let seconds = options.give_up_after.as_secs();
                tracing::info!(cause = %failure, "no lead answers yet; trying for {seconds} s");
            }
            backoff.pause(&places.describe(), failure).await?;
        }
    }

    /// Where the lead was found.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the job is.
    #[must_use]
    pub fn job(&self) -> &JobDescription {
        &self.job
    }

    /// Where the job stands.
    ///
    /// # Errors
    /// When the lead does not answer this one call.
    pub async fn status(&mut self) -> Result<v1::JobStatus, ClientError> {
        call(&self.url, self.control.status(v1::StatusRequest {})).await
    }

    /// Joins as a worker with this model, and opens the streams to the lead and to every server. One that is
    /// taken for dead before they are open joins again.
    ///
    /// # Errors
    /// A refusal (another model, a stopped job) at once; [`ClientError::GaveUp`] when the job is not
    /// ready or a server cannot be reached within `give_up_after`.
    pub async fn join(mut self, manifest: Manifest) -> Result<Member, ClientError> {
        let mut backoff = Backoff::new(self.options.give_up_after);
        loop {
            let admission = self.ask_to_join(&manifest, v1::JoinAs::Worker).await?;
            match Member::open(self.clone(), &manifest, admission).await {
                Err(failure @ ClientError::Fenced(_)) => backoff.wait(&self.url, failure).await?,
                opened => return opened,
            }
        }
    }

    /// Reads the weights of one step, the newest that every server has; never torn. In the asynchronous
    /// modes, which have no steps, the newest of each block, and the newest of their versions. The values lie
    /// as [`Layout::new`] of `manifest` says.
    ///
    /// # Errors
    /// As [`Lead::join`]; `NOT_INITIALIZED` before there are weights.
    pub async fn read_weights(&mut self, manifest: &Manifest) -> Result<(Step, Vec<f32>), ClientError> {
        let Admission { hello, job, placement, urls, .. } = self.ask_to_join(manifest, v1::JoinAs::Client).await?;
        let layout = Layout::new(manifest);
        let plan = Arc::new(BlockPlan::new(manifest, &layout, &placement, job.wire));
        let mut backoff = Backoff::new(self.options.give_up_after);
        loop {
            let pulled = async {
                let (hello, plan) = (hello.clone(), Arc::clone(&plan));
                let mut puller = Puller::connect(hello, plan, layout.elements(), &urls).await?;
                if job.consistency.mode.has_tickets() {
                    return puller.pull_newest().await;
                }
                let step = puller.newest_common_step().await?;
                puller.pull(step).await
            };
            match pulled.await {
                Ok(version) => return Ok((version.step, version.values)),
                Err(failure) if is_other_step_worth_asking(&failure) => backoff.wait(&self.url, failure).await?,
                Err(failure) => backoff.pause(&self.url, failure).await?,
            }
        }
    }

    /// Joins, trying again while the job is not ready. Each call is an incarnation of its own.
    async fn ask_to_join(&mut self, manifest: &Manifest, join_as: v1::JoinAs) -> Result<Admission, ClientError> {
        let mut hello = self.hello();
        let mut request =
            v1::JoinRequest { hello: Some((&hello).into()), manifest: Some(manifest.into()), join_as: join_as.into() };
        let mut backoff = Backoff::new(self.options.give_up_after);
        loop {
            let mut asking = Request::new(request.clone());
            if let Some(parent) = self.options.observer.traceparent(&hello) {
                asking.metadata_mut().insert(TRACEPARENT, parent);
            }
            let failure = match call(&self.url, self.control.join(asking)).await {
                Ok(response) => {
                    let admission = Admission::read(response, hello, manifest, join_as, &self.url);
                    return admission.map_err(|refusal| ClientError::bad_message(&self.url, refusal));
                }
                Err(failure) => failure,
            };
            let may_lead_elsewhere = failure.may_lead_elsewhere();
            backoff.pause(&self.url, failure).await?;
            if may_lead_elsewhere && self.follow_the_lead().await {
                hello = self.hello();
                request.hello = Some((&hello).into());
            }
        }
    }

    /// Goes to whoever leads the job now. Gives whether that is another lead, or another generation.
    async fn follow_the_lead(&mut self) -> bool {
        let Ok(Found { url, control, job }) = search(&self.places).await else { return false };
        let is_other = url != self.url || job.generation != self.job.generation;
        if !is_other || job.id != self.job.id {
            return false;
        }
        (self.url, self.control, self.job) = (url, control, job);
        true
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            job: Some(self.job.id.clone()),
            generation: self.job.generation,
            incarnation: Incarnation(rand::random()),
            fingerprint: self.options.fingerprint.clone(),
        }
    }
}

impl Admission {
    fn read(
        wire: v1::JoinResponse,
        hello: Hello,
        manifest: &Manifest,
        join_as: v1::JoinAs,
        lead_url: &str,
    ) -> Result<Admission, Refusal> {
        let malformed =
            |what: &str, expected: &str, found: u64| Refusal::mismatch(RefusalCause::Malformed, what, expected, found);
        let job = read_job(wire.job)?;
        let placement = read_placement(wire.placement, manifest)?;
        if placement.block_elements() != job.block_elements {
            let expected = job.block_elements.to_string();
            return Err(malformed("block_elements of the placement", &expected, placement.block_elements()));
        }
        let tree = SlotTree::new(job.slots).ok_or_else(|| malformed("slots", "at least 1", 0))?;
        let is_worker = join_as == v1::JoinAs::Worker;
        if is_worker && wire.heartbeat_ms == 0 {
            return Err(malformed("heartbeat_ms", "at least 1", 0));
        }
        let assignment = match is_worker {
            true => Some(read_assignment(wire.assignment)?),
            false => None,
        };
        // A server that does not know its own URL is the lead, whom we have just reached.
        let url = |server: &ServerAddress| match server.url.as_str() {
            "" => lead_url.to_owned(),
            url => url.to_owned(),
        };
        Ok(Admission {
            urls: placement.servers().iter().map(url).collect(),
            unix_sockets: placement.servers().iter().map(|server| server.unix_socket.clone()).collect(),
            step: wire.step.map(Step),
            hello: Hello { generation: job.generation, ..hello },
            job,
            tree,
            placement,
            number: wire.worker_number,
            assignment,
            heartbeat_every: Duration::from_millis(wire.heartbeat_ms),
        })
    }
}
