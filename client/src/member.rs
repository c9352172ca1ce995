//! A worker that has joined: asks for work, sends gradients, receives weights.

mod opening;
mod pushing;

use std::sync::Arc;
use std::time::Duration;

use halflife_discovery::Places;
use halflife_proto::hello::Hello;
use halflife_proto::ids::Step;
use halflife_proto::job::JobDescription;
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::round;
use halflife_proto::v1;
use halflife_proto::v1::control_client::ControlClient;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::block_plan::BlockPlan;
use crate::buffer_pool::BufferPool;
use crate::connection::call;
use crate::error::{ClientError, Weight};
use crate::gradient::NodeGradient;
use crate::layout::Layout;
use crate::node_sum::is_nonfinite;
use crate::observer::{Observer, SessionSpan};
use crate::pull::Puller;
use crate::session::{Session, SessionHandle};
use crate::shipment::Shipment;
use crate::weights::WeightsVersion;
use crate::work::{Decision, WorkState, takes_single_slots};
use pushing::Pushing;

/// How long a broken stream waits for a notice that explains it.
const EXPLANATION_WAIT: Duration = Duration::from_millis(500);
/// How long a skipped version may still be overtaken by a complete one, before it is pulled.
const TORN_PATIENCE: Duration = Duration::from_millis(250);
/// How long a worker that leaves waits until its newest push has been read everywhere.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);
/// How long leaving may take: a worker told to end does so at once.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a worker does next.
#[derive(Clone, Debug)]
pub enum Work {
    /// Make the initial weights and give them to [`Member::initialize`].
    Initialize,
    /// Compute these nodes of `step` and give each to [`Member::contribute`].
    Compute {
        /// The step they make up; in the asynchronous modes the ticket, whose only node is all slots.
        step: Step,
        /// Nodes of the slot tree, not empty; single slots where gradients travel in a lossy dtype or the
        /// job has a quorum.
        nodes: Vec<SlotRange>,
        /// The weights of step `step - 1`, rounded to what the wire carries; in the asynchronous modes the
        /// newest of every block.
        weights: Arc<WeightsVersion>,
    },
    /// The job is done.
    Finished {
        /// Its result: f32 whatever the wire.
        weights: Arc<WeightsVersion>,
    },
    /// The operator asks this worker to [leave](Member::leave); its slots are others' already.
    Drained,
}

/// Membership in a job, until dropped. Its tasks end with it.
#[derive(Debug)]
pub struct Member {
    /// Where the job's servers are: where the lead was looked for, and those that it named.
    places: Places,
    lead_url: String,
    control: ControlClient<Channel>,
    hello: Hello,
    job: JobDescription,
    number: u32,
    layout: Arc<Layout>,
    plan: Arc<BlockPlan>,
    buffers: BufferPool,
    urls: Arc<[String]>,
    session: SessionHandle,
    tasks: JoinSet<()>,
    /// The final masters, once pulled: streams may carry rounded weights.
    result: Option<Arc<WeightsVersion>>,
    /// Where this worker is with its tickets.
    pushing: Pushing,
    give_up_after: Duration,
    observer: Observer,
    /// Recorded when it is dropped.
    _span: SessionSpan,
}

/// What the member sees at one look at the session.
enum Sight {
    Work(Work),
    Failure,
    /// Work would be there, had a version not been skipped.
    Torn(Step),
    Nothing,
}

impl Member {
    /// Where each tensor lies in weights and gradients.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Where to look for the lead of the job's next generation.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// What the job is.
    #[must_use]
    pub fn job(&self) -> &JobDescription {
        &self.job
    }

    /// This worker's number in the job, for people.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Arenas for gradients: those of sent gradients come back here.
    #[must_use]
    pub fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    /// The step of the newest push that the lead has not acknowledged by another ticket.
    #[must_use]
    pub fn unacknowledged(&self) -> Option<Step> {
        self.pushing.unacknowledged()
    }

    /// Waits for something to do. Nodes are handed out until they are contributed or their step is
    /// over; a worker without slots waits until it gets some or the job is done.
    ///
    /// # Errors
    /// When this worker was fenced, the job went back to a checkpoint or stopped, or a server or the lead could not be reached for the
    /// time that the options say; the same again at every later call. Shorter interruptions are mended
    /// unseen. After the job is done nothing is lost.
    pub async fn next_work(&mut self) -> Result<Work, ClientError> {
        if self.has_tickets() {
            return self.next_push().await;
        }
        let mut changes = self.session.subscribe();
        loop {
            let sight = see(&changes.borrow_and_update());
            match sight {
                Sight::Work(Work::Finished { weights }) => {
                    return Ok(Work::Finished { weights: self.masters_of(weights).await? });
                }
                Sight::Work(work) => return Ok(work),
                Sight::Failure => {
                    if let Some(failure) = self.explain_failure().await {
                        return Err(failure);
                    }
                }
                Sight::Torn(step) => {
                    if tokio::time::timeout(TORN_PATIENCE, changes.changed()).await.is_err() {
                        self.pull_skipped(step).await;
                    }
                }
                // The sender lives as long as `self`.
                Sight::Nothing => drop(changes.changed().await),
            }
        }
    }

    /// Sends the initial weights, of every tensor (also frozen ones and buffers).
    ///
    /// # Errors
    /// [`ClientError::BadContribution`] for weights of another size or with NaN or infinity; as
    /// [`Member::next_work`].
    pub async fn initialize(&mut self, weights: Vec<f32>) -> Result<(), ClientError> {
        self.check_arena("initial weights", &weights)?;
        if is_nonfinite(&weights) {
            let (expected, found) = ("finite values".to_owned(), "NaN or infinity".to_owned());
            return Err(ClientError::BadContribution { what: "initial weights", expected, found });
        }
        let opened = self.send(Shipment::initial(weights, &self.buffers)).await?;
        self.note_sent(opened, |work| work.note_initialized());
        Ok(())
    }

    /// Sends the gradient of one node of `step`, which is a single slot where gradients travel in a lossy
    /// dtype or the job has a quorum, and all slots in the asynchronous modes. Returns when it is queued for every server.
    ///
    /// # Errors
    /// [`ClientError::BadContribution`] for a gradient that does not fit the job; as
    /// [`Member::next_work`].
    pub async fn contribute(&mut self, step: Step, node: SlotRange, sum: NodeGradient) -> Result<(), ClientError> {
        self.check_gradient(step, node, &sum)?;
        let shipment = Shipment::gradient(step, node, sum, &self.buffers);
        if self.has_tickets() {
            return self.push(step, shipment).await;
        }
        let opened = self.send(shipment).await?;
        self.note_sent(opened, |work| work.note_sent(step, node));
        Ok(())
    }

    /// Notes that something was sent, unless a stream was opened meanwhile: that one has not got it.
    fn note_sent(&self, opened: u64, note: impl FnOnce(&mut WorkState)) {
        self.session.change(|session| {
            if session.opened == opened {
                note(&mut session.work);
            }
        });
    }

    /// Whether a step needs nothing more: its weights are here. A slot of it that is still being computed
    /// would come too late.
    #[must_use]
    pub fn is_over(&self, step: Step) -> bool {
        self.session.look().weights.as_ref().is_some_and(|newest| newest.step >= step)
    }

    /// Where the job stands.
    ///
    /// # Errors
    /// When the lead does not answer this one call.
    pub async fn status(&mut self) -> Result<v1::JobStatus, ClientError> {
        call(&self.lead_url, self.control.status(v1::StatusRequest {})).await
    }

    fn has_tickets(&self) -> bool {
        self.job.consistency.mode.has_tickets()
    }

    /// Leaves the job: the lead gives this worker's slots to others at once. What is queued and not
    /// yet sent is dropped; others compute it.
    ///
    /// # Errors
    /// When the lead does not answer, unless the job is done.
    pub async fn leave(mut self) -> Result<(), ClientError> {
        if self.has_tickets() {
            self.flush(FLUSH_PATIENCE).await;
        }
        let request = v1::LeaveRequest { hello: Some((&self.hello).into()) };
        let answer = call(&self.lead_url, self.control.leave(request));
        let left = match tokio::time::timeout(LEAVE_TIMEOUT, answer).await {
            Ok(left) => left.map(drop),
            Err(_) => {
                let cause = format!("no answer within {} s", LEAVE_TIMEOUT.as_secs());
                Err(ClientError::LeadLost { url: self.lead_url.clone(), cause })
            }
        };
        let done = self.session.look().work.decide() == Decision::Finished;
        if done { Ok(()) } else { left }
    }

    /// Queues a shipment for every server: first where there is room, then where it must wait. A broken
    /// stream is passed over: once it is open again, everything is sent anew. Gives the number of streams
    /// opened before.
    async fn send(&self, shipment: Shipment) -> Result<u64, ClientError> {
        let (opened, streams) = {
            let session = self.session.look();
            (session.opened, session.streams.values().cloned().collect::<Vec<_>>())
        };
        let mut full = Vec::new();
        for stream in &streams {
            if let Err(TrySendError::Full(_)) = stream.try_send(shipment.clone()) {
                full.push(stream);
            }
        }
        let mut failed = !self.session.look().failures.is_empty();
        for stream in full {
            failed = failed
                || tokio::select! {
                    _ = stream.send(shipment.clone()) => false,
                    () = self.some_failure() => true,
                };
        }
        match failed {
            true => self.explain_failure().await.map_or(Ok(opened), Err),
            false => Ok(opened),
        }
    }

    /// Returns once a task has failed.
    async fn some_failure(&self) {
        let mut changes = self.session.subscribe();
        while self.session.look().failures.is_empty() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Why things broke off, `None` when the job is done. Gives a notice time to arrive that
    /// explains a broken stream.
    async fn explain_failure(&self) -> Option<ClientError> {
        let mut changes = self.session.subscribe();
        let deadline = Instant::now() + EXPLANATION_WAIT;
        loop {
            {
                let session = changes.borrow_and_update();
                if session.work.decide() == Decision::Finished {
                    return None;
                }
                if let Some(failure) = session.failure().filter(|failure| failure.weight() == Weight::Reason) {
                    return Some(failure.clone());
                }
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                break;
            }
        }
        self.session.look().failure().cloned()
    }

    /// The result in full: what came over a lossy wire is only what workers compute at.
    async fn masters_of(&mut self, weights: Arc<WeightsVersion>) -> Result<Arc<WeightsVersion>, ClientError> {
        if !self.job.wire.weights.is_lossy() {
            return Ok(weights);
        }
        match &self.result {
            Some(masters) => Ok(Arc::clone(masters)),
            None => Ok(Arc::clone(self.result.insert(Arc::new(self.pull_result(weights.step).await?)))),
        }
    }

    async fn pull_result(&self, step: Step) -> Result<WeightsVersion, ClientError> {
        if !self.has_tickets() {
            return self.pull(step).await;
        }
        let (hello, plan) = (self.hello.clone(), Arc::clone(&self.plan));
        let newest = Puller::connect(hello, plan, self.layout.elements(), &self.urls).await?.pull_newest().await?;
        Ok(WeightsVersion { step, ..newest })
    }

    async fn pull(&self, step: Step) -> Result<WeightsVersion, ClientError> {
        let (hello, plan) = (self.hello.clone(), Arc::clone(&self.plan));
        Puller::connect(hello, plan, self.layout.elements(), &self.urls).await?.pull(step).await
    }

    /// Pulls a version whose blocks never were together here: some servers were a step ahead when
    /// this worker came, and wait for a step that can only be computed from it.
    async fn pull_skipped(&self, step: Step) {
        match self.pull(step).await {
            Ok(mut version) => {
                // The others compute at what the wire carried; so must this worker.
                round(self.job.wire.weights, &mut version.values);
                self.observer.weights_whole(version.step);
                self.session.publish(Arc::new(version));
            }
            // The servers have moved on, or a stream tells soon what is wrong.
            Err(failure) => tracing::debug!(%failure, %step, "a skipped version was not pulled"),
        }
    }

    fn check_gradient(&self, step: Step, node: SlotRange, sum: &NodeGradient) -> Result<(), ClientError> {
        let bad = |what, expected, found| Err(ClientError::BadContribution { what, expected, found });
        if step == Step::ZERO || step > Step(self.job.steps) {
            return bad("step of a gradient", format!("1 to {}", self.job.steps), step.0.to_string());
        }
        let tree = self.session.look().work.tree();
        if node.begin >= node.end || !tree.is_node(node) {
            return bad("slots of a gradient", format!("a node of {}", tree.root()), node.to_string());
        }
        if takes_single_slots(self.job.consistency, self.job.slots, self.job.wire) && node.count() > 1 {
            let gradients = self.job.wire.gradients;
            let expected = match gradients.is_lossy() {
                true => format!("a single slot, since gradients travel as {gradients}"),
                false => "a single slot, since a quorum chooses among slots".to_owned(),
            };
            return bad("slots of a gradient", expected, node.to_string());
        }
        if !(sum.weight.is_finite() && sum.weight > 0.0) {
            let expected = "a positive finite number".to_owned();
            return bad("weight of a gradient", expected, sum.weight.to_string());
        }
        if sum.nonfinite { Ok(()) } else { self.check_arena("gradient", &sum.values) }
    }

    fn check_arena(&self, what: &'static str, values: &[f32]) -> Result<(), ClientError> {
        let expected = self.layout.elements();
        if values.len() == expected {
            return Ok(());
        }
        let (expected, found) = (format!("{expected} elements"), format!("{} elements", values.len()));
        Err(ClientError::BadContribution { what, expected, found })
    }
}

/// What there is to do, by the session.
fn see(session: &Session) -> Sight {
    let decision = session.work.decide();
    match (decision, &session.weights) {
        (Decision::Finished, Some(weights)) => Sight::Work(Work::Finished { weights: Arc::clone(weights) }),
        _ if !session.failures.is_empty() => Sight::Failure,
        _ if session.drained => Sight::Work(Work::Drained),
        (Decision::Initialize, _) => Sight::Work(Work::Initialize),
        (Decision::Compute { step, nodes }, Some(weights)) => {
            Sight::Work(Work::Compute { step, nodes, weights: Arc::clone(weights) })
        }
        _ => match session.torn_at {
            Some(step) if session.work.needs_weights(step) => Sight::Torn(step),
            _ => Sight::Nothing,
        },
    }
}
