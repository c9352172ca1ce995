//! A worker of the benchmark in a process of its own: the real SDK, and the bound beside it.
//!
//! Between orders it contributes nothing, which pauses the job: a step needs all slots.

use std::sync::Arc;
use std::time::Duration;

use halflife_client::{ClientOptions, Lead, Member, NodeGradient, TensorSet, WeightsVersion, Work};
use halflife_proto::ids::Step;
use halflife_proto::manifest::Manifest;
use halflife_proto::slots::{SlotRange, SlotTree};

use super::bound::worker::BoundWorker;
use super::machine::{self, cpu_ns, now_ns};
use super::prediction::{Course, Prediction, Seen};
use super::process::{Answer, JobFacts, Order, Outcome, Ran};
use super::role::{Orders, RoleError, answer};
use super::samples::{Samples, Values, initial_weight};
use super::shape::ModelShape;
use super::verification::{Level, Verification};
use super::wire::{Wire, WireDtype};
use crate::digest::weights_digest;

/// Works until it is told to finish.
///
/// # Errors
/// [`RoleError`].
pub(super) async fn work(
    url: String,
    shape: ModelShape,
    wire: Wire,
    patience_s: u64,
    mut orders: Orders,
) -> Result<(), RoleError> {
    let mut worker = Worker::join(&url, shape, wire, patience_s).await?;
    answer(&Answer::Joined(worker.facts.clone()))?;
    let mut bound: Option<BoundWorker> = None;
    while let Some(order) = orders.recv().await {
        match (order, bound.take()) {
            (Order::Run { steps }, kept) => {
                let ran = worker.run(steps).await?;
                bound = kept;
                answer(&Answer::Ran(ran))?;
            }
            (Order::ConnectBound { plan, addresses, worker }, _) => {
                bound = Some(blocking(move || BoundWorker::connect(plan, &addresses, worker)).await??);
                answer(&Answer::Done)?;
            }
            (Order::RunBound { steps }, Some(kept)) => {
                let (kept, ran) = kept.run(steps).await?;
                bound = Some(kept);
                answer(&Answer::Ran(ran))?;
            }
            (Order::Usage, kept) => {
                bound = kept;
                answer(&Answer::Usage(machine::usage()))?;
            }
            (Order::Finish, kept) => {
                let bound = kept.map(|bound| bound.verify()).transpose()?;
                answer(&Answer::Finished(worker.finish(bound).await?))?;
                // Stays until it is not needed, so that an end is always a failure.
                return match orders.recv().await {
                    Some(other) => Err(RoleError::unexpected("a worker that has left", &other)),
                    None => Ok(()),
                };
            }
            (other, _) => return Err(RoleError::unexpected("a worker", &other)),
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RoleError> {
    tokio::task::spawn_blocking(work).await.map_err(RoleError::Panicked)
}

struct Worker {
    member: Member,
    manifest: Manifest,
    wire: Wire,
    facts: JobFacts,
    samples: Samples,
    /// `None` where values cannot be predicted.
    prediction: Option<Prediction>,
    verification: Verification,
    /// What came back when the last order was done.
    held: Option<Work>,
    /// Newest version that came, and its step.
    newest: Option<Arc<WeightsVersion>>,
    /// Steps whose completion was recorded.
    recorded: u64,
    /// The step up to which orders go.
    ordered: u64,
}

impl Worker {
    async fn join(url: &str, shape: ModelShape, wire: Wire, patience_s: u64) -> Result<Worker, RoleError> {
        let manifest = shape.manifest()?;
        let give_up_after = Duration::from_secs(patience_s);
        let options = ClientOptions { give_up_after, ..ClientOptions::new(crate::fingerprint()) };
        let mut lead = Lead::connect(url, options).await?;
        let (job, done) = (lead.job().clone(), lead.status().await?.step);
        let Wire { gradients, weights } = Wire::of_job(job.wire);
        if wire != (Wire { gradients, weights }) {
            return Err(RoleError::OtherWire { gradients: gradients.name(), weights: weights.name() });
        }
        if let Some(why) = job.consistency.why_not_reproducible(job.slots) {
            return Err(RoleError::OtherMode { why });
        }
        let facts = JobFacts {
            job_id: job.id.0.clone(),
            slots: job.slots,
            steps: job.steps,
            done,
            block_elements: job.block_elements,
            optimizer_toml: job.optimizer_toml.clone(),
        };
        let values = if wire.gradients == WireDtype::I8 { Values::SignOnly } else { Values::Spread };
        let samples = Samples::of_model(&manifest, job.block_elements, values);
        let slots = SlotTree::new(job.slots).expect("a job has slots");
        let course = Course { slots, combine: job.combine, steps: job.steps };
        let (prediction, verification) = expectations(&facts, course, wire, &samples)?;
        let member = lead.join(manifest.clone()).await?;
        let (held, newest) = (None, None);
        let (recorded, ordered) = (done, done);
        Ok(Worker { member, manifest, wire, facts, samples, prediction, verification, held, newest, recorded, ordered })
    }

    async fn run(&mut self, steps: u64) -> Result<Ran, RoleError> {
        self.ordered += steps;
        let mut ran = Ran { begin_ns: now_ns(), complete_ns: Vec::with_capacity(steps as usize), cpu_ns: cpu_ns() };
        loop {
            let work = match self.held.take() {
                Some(work) => work,
                None => self.member.next_work().await?,
            };
            match &work {
                Work::Initialize => {
                    let weights = (0..self.samples.elements()).map(initial_weight).collect();
                    self.member.initialize(weights).await?;
                    continue;
                }
                Work::Compute { weights, .. } | Work::Finished { weights } => self.record(weights.step.0, &mut ran),
                Work::Drained => return Err(RoleError::Drained),
            }
            match work {
                Work::Compute { step, nodes, weights } if weights.step.0 < self.ordered => {
                    self.contribute(step, nodes).await?;
                    // While the servers are busy: first the connection's tasks, which wait for this thread.
                    tokio::task::yield_now().await;
                    self.look_at(&weights);
                }
                Work::Finished { ref weights } if weights.step.0 < self.ordered => {
                    return Err(RoleError::Over { done: weights.step.0, wanted: self.ordered });
                }
                Work::Compute { ref weights, .. } | Work::Finished { ref weights } => {
                    ran.cpu_ns = cpu_ns() - ran.cpu_ns;
                    self.look_at(weights);
                    self.held = Some(work);
                    return Ok(ran);
                }
                Work::Initialize | Work::Drained => {}
            }
        }
    }

    fn record(&mut self, step: u64, ran: &mut Ran) {
        while self.recorded < step {
            ran.complete_ns.push(now_ns());
            self.recorded += 1;
        }
    }

    async fn contribute(&mut self, step: Step, nodes: Vec<SlotRange>) -> Result<(), RoleError> {
        for node in nodes {
            // What is rounded on the way is rounded slot by slot.
            let alone = self.wire.gradients != WireDtype::F32;
            let slots = if alone {
                (node.begin..node.end).map(|begin| SlotRange { begin, end: begin + 1 }).collect()
            } else {
                vec![node]
            };
            for node in slots {
                let mut values = self.member.buffers().take();
                self.samples.write_gradient(&mut values, step.0, node);
                let weight = f64::from(node.count());
                let gradient = NodeGradient { values, absent: TensorSet::new(), nonfinite: false, weight };
                self.member.contribute(step, node, gradient).await?;
            }
        }
        Ok(())
    }

    /// Compares a version that was not looked at yet.
    fn look_at(&mut self, weights: &Arc<WeightsVersion>) {
        let before = self.newest.as_ref().map(|newest| newest.step.0);
        let step = weights.step.0;
        if before.is_some_and(|before| before >= step) {
            return;
        }
        self.verification.arrived(step, before);
        if let Some(prediction) = &mut self.prediction {
            prediction.check(step, &weights.values, &self.samples, &mut self.verification);
        }
        self.newest = Some(Arc::clone(weights));
    }

    async fn finish(self, bound: Option<Verification>) -> Result<Outcome, RoleError> {
        let digest = self.newest.map(|weights| weights_digest(&self.manifest, &weights.values)).unwrap_or_default();
        self.member.leave().await?;
        Ok(Outcome { verification: self.verification, bound, weights_digest: digest })
    }
}

/// What can be predicted, and what is said about it.
fn expectations(
    facts: &JobFacts,
    course: Course,
    wire: Wire,
    samples: &Samples,
) -> Result<(Option<Prediction>, Verification), RoleError> {
    let (level, seen) = match wire.weights {
        WireDtype::F32 => (Level::Bits, Seen::Exact),
        WireDtype::Bf16 => (Level::RoundedToBf16, Seen::Bf16),
        WireDtype::I8 => return Ok(steps_only("weights in i8 are not predicted")),
    };
    if facts.done > 0 {
        return Ok(steps_only(&format!("the job was at step {} already: its state is not known", facts.done)));
    }
    if facts.optimizer_toml.is_empty() {
        return Ok(steps_only("the lead does not say what its optimizer is"));
    }
    let optimizer = halflife_proto::strict_toml::from_str(&facts.optimizer_toml)?;
    Ok(match Prediction::new(&optimizer, course, seen, samples)? {
        Some(prediction) => {
            (Some(prediction), Verification { level, positions: samples.count(), ..Verification::default() })
        }
        None => steps_only("the optimizer needs norms or whole tensors"),
    })
}

fn steps_only(reason: &str) -> (Option<Prediction>, Verification) {
    let reason = Some(reason.to_owned());
    (None, Verification { level: Level::StepsOnly, reason, ..Verification::default() })
}
