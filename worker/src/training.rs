//! One worker's part in a job, from the lead's address to the final scores.
//!
//! Promises: async threads never compute; a stop leaves the job at once, so that others take the
//! slots over; a worker that was taken for dead joins again and goes on; the same weights whoever
//! computed what. Does not: decide what to compute (the lead and
//! the client do), print, or write files.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halflife_client::{ClientError, ClientOptions, Lead, Member, Places, WeightsVersion, Work};
use halflife_proto::ids::{Generation, JobId, Step};
use halflife_proto::job::JobDescription;
use halflife_proto::manifest::Manifest;
use halflife_proto::slots::SlotRange;
use halflife_proto::workload::{Workload, WorkloadError};
use thiserror::Error;

use crate::computation::{Computation, ComputationError};
use crate::digest::weights_digest;
use crate::meter::Meter;
use crate::progress::{Progress, StepSeen};
use crate::report::{Report, Rollback, Scores, TicketReport};
use crate::step_spans::StepSpans;

/// Number of the worker that joined first: it shows evaluations where none is asked for a report.
const FIRST_WORKER: u32 = 0;

/// Contributions that are remembered, to count those that a restore undoes.
const CONTRIBUTED_MAX: usize = 1 << 16;

/// Why a worker ended without finishing.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The job cannot be reached, joined or gone on with.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The job says nothing to the built-in worker.
    #[error("{0}: expected [model], [data] and [training] in the job file, found none")]
    NoWorkload(JobId),
    /// The job's tables are not those of this build.
    #[error("the job's [model], [data] and [training]: {0}")]
    Workload(#[from] WorkloadError),
    /// Data, model or gradients.
    #[error(transparent)]
    Computation(#[from] ComputationError),
}

/// When scores are computed besides at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evaluate {
    /// Every `eval_every` steps.
    Always,
    /// Every `eval_every` steps, but only in the worker that joined first.
    IfFirst,
    /// Never.
    Never,
}

/// How a worker takes part.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Of the connection.
    pub client: ClientOptions,
    /// When scores are computed.
    pub evaluate: Evaluate,
    /// Waits so long after each gradient: a slow worker, to see what that does to a mode.
    pub delay: Duration,
    /// Where it counts what it does.
    pub meter: Arc<Meter>,
}

/// How a worker's part ended in good order.
#[derive(Debug)]
pub enum End {
    /// The job is done.
    Finished(Box<Finished>),
    /// It was asked to stop, and has left the job.
    Stopped {
        /// Newest step it saw complete; `None` before it joined.
        step: Option<Step>,
        /// The job's last step, if it got to know it.
        steps: Option<Step>,
    },
    /// The operator asked it to leave, and it has.
    Drained {
        /// Newest step it saw complete.
        step: Option<Step>,
        /// The job's last step.
        steps: Step,
    },
}

/// How the work ended.
enum Outcome {
    Done(Arc<WeightsVersion>),
    Drained,
}

/// A finished job, as one worker saw it.
#[derive(Debug)]
pub struct Finished {
    /// Scores, times, digest.
    pub report: Report,
    /// The model's tensors.
    pub manifest: Manifest,
    /// The final weights.
    pub weights: Arc<WeightsVersion>,
}

/// Takes part in the job whose servers are at `places` until it is done or `stop` resolves.
///
/// # Errors
/// [`TrainError`]; the job itself may go on with other workers.
pub async fn train(
    places: &Places,
    options: TrainOptions,
    progress: &mut Progress,
    stop: impl Future<Output = ()>,
) -> Result<End, TrainError> {
    let mut stop = pin!(stop);
    let joined = tokio::select! {
        joined = Trainer::join(places, options) => joined?,
        () = &mut stop => return Ok(End::Stopped { step: None, steps: None }),
    };
    joined.run(progress, stop).await
}

/// A worker that has joined. It has slots from now on, so it must [`Trainer::run`] soon.
pub struct Trainer {
    client: ClientOptions,
    member: Member,
    job: JobDescription,
    workload: Workload,
    manifest: Manifest,
    fingerprint: String,
    evaluates: bool,
    delay: Duration,
    meter: Arc<Meter>,
    spans: StepSpans,
    /// Away while a blocking thread computes with it.
    computation: Option<Computation>,
    seen: Seen,
    rollbacks: Vec<Rollback>,
}

/// What has been seen of the run so far.
#[derive(Default)]
struct Seen {
    /// The first weights, and when they came.
    first: Option<(Step, Instant)>,
    newest: Option<Step>,
    /// Mean loss of the newest step computed here.
    loss: Option<(Step, f32)>,
    evaluations: Vec<Scores>,
    /// Steps, or tickets, that this worker has sent gradients of, the newest [`CONTRIBUTED_MAX`].
    contributed: VecDeque<Step>,
}

impl Trainer {
    /// Joins the job whose servers are at `places`, with its data read and its model built.
    ///
    /// # Errors
    /// [`TrainError`].
    pub async fn join(places: &Places, options: TrainOptions) -> Result<Trainer, TrainError> {
        let TrainOptions { client, evaluate, delay, meter } = options;
        let fingerprint = client.fingerprint.to_string();
        let mut lead = Lead::find(places, client.clone()).await?;
        let job = lead.job().clone();
        if job.workload_toml.is_empty() {
            return Err(TrainError::NoWorkload(job.id));
        }
        let workload = Workload::from_toml(&job.workload_toml)?;
        let mut computation = blocking({
            let (workload, job) = (workload.clone(), job.clone());
            move || Computation::prepare(&workload, &job)
        })
        .await?;
        let manifest = computation.manifest().clone();
        let deadline = Instant::now() + client.give_up_after;
        let member = loop {
            match lead.join(manifest.clone()).await {
                // While the data was read.
                Err(failure @ ClientError::RolledBack(_)) if Instant::now() < deadline => {
                    lead = Lead::find(places, client.clone()).await?;
                    if lead.job().id != job.id {
                        return Err(failure.into());
                    }
                }
                joined => break joined?,
            }
        };
        let job = member.job().clone();
        meter.joined(member.number(), job.generation);
        computation.use_buffers(member.buffers().clone());
        let evaluates = match evaluate {
            Evaluate::Always => true,
            Evaluate::IfFirst => member.number() == FIRST_WORKER,
            Evaluate::Never => false,
        };
        let computation = Some(computation);
        let spans = StepSpans::new(client.observer.clone());
        Ok(Trainer {
            client,
            member,
            job,
            workload,
            manifest,
            fingerprint,
            evaluates,
            delay,
            meter,
            spans,
            computation,
            seen: Seen::default(),
            rollbacks: Vec::new(),
        })
    }

    /// Computes until the job is done or `stop` resolves.
    ///
    /// # Errors
    /// [`TrainError`].
    pub async fn run(mut self, progress: &mut Progress, stop: impl Future<Output = ()>) -> Result<End, TrainError> {
        let outcome = tokio::select! {
            outcome = self.work_and_rejoin(progress) => outcome?,
            () = stop => {
                let end = End::Stopped { step: self.seen.newest, steps: Some(Step(self.job.steps)) };
                // Whether the lead still answers changes nothing: the lease ends on its own.
                let _ = self.member.leave().await;
                return Ok(end);
            }
        };
        let Outcome::Done(weights) = outcome else {
            let end = End::Drained { step: self.seen.newest, steps: Step(self.job.steps) };
            self.member.leave().await?;
            return Ok(end);
        };
        let finished = self.finish(&weights).await?;
        self.member.leave().await?;
        Ok(End::Finished(Box::new(Finished { report: finished, manifest: self.manifest, weights })))
    }

    /// Works; a worker that was only slow, and so was taken for dead, or whose job has gone back to a checkpoint, joins
    /// again as a new one.
    async fn work_and_rejoin(&mut self, progress: &mut Progress) -> Result<Outcome, TrainError> {
        loop {
            match self.work_until_done(progress).await {
                Err(TrainError::Client(
                    failure @ (ClientError::Fenced(_) | ClientError::RolledBack(_) | ClientError::GaveUp { .. }),
                )) if self.may_rejoin(&failure) => {
                    tracing::warn!(%failure, "joining again");
                    self.rejoin(failure, progress).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// A server that is given up on may come back in a job that keeps checkpoints, and at another address.
    fn may_rejoin(&self, failure: &ClientError) -> bool {
        !matches!(failure, ClientError::GaveUp { .. }) || self.job.keeps_checkpoints
    }

    async fn rejoin(&mut self, mut failure: ClientError, progress: &mut Progress) -> Result<(), TrainError> {
        let deadline = Instant::now() + self.client.give_up_after;
        loop {
            let lead = Lead::find(self.member.places(), self.client.clone()).await?;
            if lead.job().id != self.job.id {
                return Err(failure.into()); // it is another job's lead by now
            }
            match lead.join(self.manifest.clone()).await {
                Ok(member) => {
                    self.spans.end();
                    self.meter.joined(member.number(), member.job().generation);
                    let before = std::mem::replace(&mut self.member, member);
                    break self.note_generation(&before, progress).await;
                }
                // It has gone back between the two questions.
                Err(rolled_back @ ClientError::RolledBack(_)) if Instant::now() < deadline => failure = rolled_back,
                Err(other) => return Err(other.into()),
            }
        }
        if let Some(computation) = &mut self.computation {
            computation.use_buffers(self.member.buffers().clone());
        }
        Ok(())
    }

    /// Forgets what a restore has undone, and counts it.
    async fn note_generation(&mut self, before: &Member, progress: &mut Progress) {
        let earlier = self.job.generation;
        self.job = self.member.job().clone();
        if self.job.generation == earlier {
            return;
        }
        // Without an answer the newest step seen stands, and nothing is counted as undone.
        let status = self.member.status().await.ok().and_then(|status| status.checkpoint);
        let Some(restored) = status.map(|checkpoint| Step(checkpoint.restored.map_or(0, |id| id.step))) else { return };
        let rollback = self.seen.roll_back(restored, self.job.generation, before.unacknowledged());
        tracing::warn!(
            generation = self.job.generation.0,
            from_step = rollback.from_step,
            to_step = rollback.to_step,
            undone = rollback.undone_steps,
            "the job has gone back to a checkpoint"
        );
        self.meter.rolled_back(&rollback);
        progress.rolled_back(&rollback);
        self.rollbacks.push(rollback);
    }

    async fn work_until_done(&mut self, progress: &mut Progress) -> Result<Outcome, TrainError> {
        loop {
            let idle = Instant::now();
            let work = self.member.next_work().await?;
            self.meter.waited(idle);
            match &work {
                Work::Compute { step, .. } => self.spans.begin(&self.job, self.member.number(), *step),
                _ => self.spans.end(),
            }
            match work {
                Work::Initialize => {
                    let seed = self.job.seed;
                    let weights = self.compute(move |computation| computation.initialize(seed)).await;
                    self.member.initialize(weights).await?;
                }
                Work::Compute { step, nodes, weights } => {
                    self.seen.note(&weights, &self.job, &self.meter, progress);
                    self.contribute(step, nodes, &weights).await?;
                    self.evaluate_if_due(&weights, progress).await?;
                }
                Work::Finished { weights } => {
                    self.seen.note(&weights, &self.job, &self.meter, progress);
                    return Ok(Outcome::Done(weights));
                }
                Work::Drained => return Ok(Outcome::Drained),
            }
        }
    }

    /// Each node is on its way while the next is computed.
    async fn contribute(
        &mut self,
        step: Step,
        nodes: Vec<SlotRange>,
        weights: &Arc<WeightsVersion>,
    ) -> Result<(), TrainError> {
        let (mut loss, mut slots) = (0.0, 0);
        for node in nodes {
            // With a quorum, a step may be over before a slow worker has all its slots.
            if slots > 0 && self.member.is_over(step) {
                break;
            }
            let weights = Arc::clone(weights);
            let begun = Instant::now();
            let result = self.compute(move |computation| computation.node(step, node, &weights.values)).await?;
            let computed = begun.elapsed();
            loss += f64::from(result.loss) * f64::from(node.count());
            slots += node.count();
            if !self.delay.is_zero() {
                tokio::time::sleep(self.delay).await;
            }
            let begun = Instant::now();
            self.member.contribute(step, node, result.gradient).await?;
            self.meter.contributed(node.count(), computed, begun.elapsed());
            self.spans.contributed(node, computed, begun.elapsed());
        }
        self.meter.step_contributed();
        self.seen.loss = Some((step, (loss / f64::from(slots)) as f32));
        self.seen.contributed(step);
        Ok(())
    }

    /// After contributing, so that others need not wait for it.
    async fn evaluate_if_due(
        &mut self,
        weights: &Arc<WeightsVersion>,
        progress: &mut Progress,
    ) -> Result<(), TrainError> {
        let every = self.workload.training.eval_every;
        let last = self.seen.evaluations.last().map_or(0, |scores| scores.step);
        let due = match self.job.consistency.mode.has_tickets() {
            // A worker sees the weights of its own tickets only: the first beyond a multiple will do.
            true => every > 0 && weights.step.0 / every > last / every,
            false => every > 0 && weights.step > Step::ZERO && weights.step.0.is_multiple_of(every),
        };
        if self.evaluates && due && last != weights.step.0 {
            let weights = Arc::clone(weights);
            let scores = self.compute(move |computation| computation.scores(&weights.values, weights.step)).await?;
            progress.evaluation(&scores);
            self.seen.evaluations.push(scores);
        }
        Ok(())
    }

    async fn finish(&mut self, weights: &Arc<WeightsVersion>) -> Result<Report, TrainError> {
        let (first, begin) = self.seen.first.unwrap_or((weights.step, Instant::now()));
        let (steps_seen, seconds) = (weights.step.0 - first.0, begin.elapsed().as_secs_f64());
        let manifest = self.manifest.clone();
        let version = Arc::clone(weights);
        let (scores, digest, samples) = self
            .compute(move |computation| {
                let scores = computation.scores(&version.values, version.step)?;
                let parts = computation.parts();
                let holdout = parts.holdout.as_ref().map_or(0, |part| part.samples());
                let samples = [parts.train.samples(), holdout, parts.test.samples()];
                Ok::<_, ComputationError>((scores, weights_digest(&manifest, &version.values), samples))
            })
            .await?;
        let tickets = match self.job.consistency.mode.has_tickets() {
            true => self.member.status().await?.tickets.map(TicketReport::from),
            false => None,
        };
        let mut evaluations = std::mem::take(&mut self.seen.evaluations);
        evaluations.push(scores);
        Ok(Report {
            job_id: self.job.id.0.clone(),
            seed: self.job.seed,
            steps: weights.step.0, // fewer than the job's if its operator ended it
            slots: self.job.slots,
            samples_per_slot: self.workload.training.samples_per_slot,
            parameters: self.manifest.elements(),
            train_samples: samples[0],
            holdout_samples: samples[1],
            test_samples: samples[2],
            evaluations,
            last: scores,
            steps_seen,
            seconds,
            steps_per_second: steps_seen as f64 / seconds,
            weights_digest: digest,
            wire: self.job.wire,
            consistency: self.job.consistency,
            tickets,
            undone_steps: self.rollbacks.iter().map(|rollback| rollback.undone_steps).sum(),
            rollbacks: std::mem::take(&mut self.rollbacks),
            bit_reproducible: self.job.why_not_reproducible().is_none(),
            fingerprint: self.fingerprint.clone(),
        })
    }

    /// Runs `work` on a blocking thread.
    async fn compute<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Computation) -> T + Send + 'static) -> T {
        let mut computation = self.computation.take().expect("one computation at a time");
        let (computation, result) = blocking(move || {
            let result = work(&mut computation);
            (computation, result)
        })
        .await;
        self.computation = Some(computation);
        result
    }
}

impl Seen {
    fn contributed(&mut self, step: Step) {
        if self.contributed.len() == CONTRIBUTED_MAX {
            self.contributed.pop_front();
        }
        self.contributed.push_back(step);
    }

    /// Everything after `restored` has not happened. Of this worker's contributions to it, those count as undone that
    /// had been acknowledged.
    fn roll_back(&mut self, restored: Step, generation: Generation, unacknowledged: Option<Step>) -> Rollback {
        let newest = self.newest.unwrap_or_default();
        let acknowledged = |step: &&Step| **step > restored && Some(**step) != unacknowledged && **step <= newest;
        let undone_steps = self.contributed.iter().filter(acknowledged).count() as u64;
        self.contributed.retain(|step| *step <= restored);
        self.evaluations.retain(|scores| scores.step <= restored.0);
        self.newest = self.newest.map(|newest| newest.min(restored));
        if let Some((first, _)) = &mut self.first {
            *first = (*first).min(restored);
        }
        Rollback { generation: generation.0, from_step: newest.0, to_step: restored.0, undone_steps }
    }

    fn note(&mut self, weights: &WeightsVersion, job: &JobDescription, meter: &Meter, progress: &mut Progress) {
        self.first.get_or_insert((weights.step, Instant::now()));
        if self.newest.is_none_or(|newest| newest < weights.step) {
            self.newest = Some(weights.step);
            // With tickets, a worker's newest loss is of a step that others are beyond.
            let of_this_step = |step| step == weights.step || job.consistency.mode.has_tickets();
            let loss = self.loss.and_then(|(step, loss)| of_this_step(step).then_some(loss));
            let steps = job.steps;
            if weights.step > Step::ZERO {
                let seen = StepSeen { step: weights.step.0, steps, loss, lr: weights.lr, decay: weights.decay };
                meter.saw(&seen);
                progress.step(seen);
            }
        }
    }
}

/// Runs `work` on a blocking thread; a panic in it goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels, and it polls nothing after that.
            Err(_) => std::future::pending().await,
        },
    }
}
