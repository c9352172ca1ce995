//! A block of the asynchronous modes, computed beside the run: the pushes that it took, in the order in which it took
//! them, applied by the optimizers themselves and none of the server's code.

use halflife_optim::{Optimizer, Plane, PlaneMut, TensorRule};
use halflife_proto::blocks::{BlockId, block_range};
use halflife_proto::contribution::Payload;
use halflife_proto::ids::{Step, Ticket};
use halflife_proto::job::Combine;
use halflife_proto::tensor_codec::round;

use crate::gradient::initial_weights;
use crate::scenario::{BLOCK_ELEMENTS, Job};

/// A block and all its versions.
pub struct Replay {
    /// `None` for the buffer, which is the newest push's mean.
    rule: Option<TensorRule>,
    planes: Vec<Plane>,
    updates: u64,
    /// In full, from the initial weights on.
    versions: Vec<Vec<f32>>,
    /// By version from 1 on: the push that made it.
    pushes: Vec<Ticket>,
    /// What each of them brought.
    log: Vec<(f64, Payload)>,
    /// A restore gives a version another number: this one to the version after so many pushes, and so on from there.
    base: (Step, usize),
}

impl Replay {
    /// At its initial weights.
    pub fn new(job: &Job, optimizer: &Optimizer, block: BlockId) -> Replay {
        let tensor = job.manifest.get(block.tensor).expect("a block is of some tensor");
        let range = block_range(tensor, block.index, BLOCK_ELEMENTS as u64).expect("a block is in its tensor");
        let begin = job.layout.range(block.tensor).start;
        let weights = initial_weights(job.seed, job.layout.elements());
        let weights = weights[begin + range.start as usize..begin + range.end as usize].to_vec();
        let shape: Vec<usize> = tensor.shape.iter().map(|dim| *dim as usize).collect();
        let rule = (block.tensor.0 != job.buffer()).then(|| optimizer.tensor(&tensor.name, &shape));
        let specs = if rule.is_some() { optimizer.planes() } else { &[] };
        let planes = specs.iter().map(|spec| Plane::new(spec, weights.len())).collect();
        let (versions, pushes, log) = (vec![weights], Vec::new(), Vec::new());
        Replay { rule, planes, updates: 0, versions, pushes, log, base: (Step::ZERO, 0) }
    }

    /// The next push that the block took.
    pub fn apply(&mut self, job: &Job, optimizer: &Optimizer, ticket: Ticket, weight: f64, payload: &Payload) {
        let before = self.versions.last().expect("a block has its initial weights");
        let mut after = before.clone();
        if let Payload::Dense(data) = payload {
            let mut gradient = vec![0.0; before.len()];
            data.load(0, &mut gradient);
            let is_sum = job.spec.job.combine == Combine::Sum && self.rule.is_some();
            let scale = if is_sum { 1.0 } else { (1.0 / weight) as f32 };
            gradient.iter_mut().for_each(|value| *value *= scale);
            match &self.rule {
                Some(rule) => {
                    self.updates += 1;
                    let factors = optimizer.factors(rule, ticket.0, self.updates);
                    let mut planes: Vec<PlaneMut<'_>> = self.planes.iter_mut().map(Plane::view_mut).collect();
                    optimizer.update(&factors, before, &mut after, &mut planes, &gradient);
                }
                None => after = gradient,
            }
        }
        self.versions.push(after);
        self.pushes.push(ticket);
        self.log.push((weight, payload.clone()));
    }

    /// The same after its first so many pushes, whose version is now called `step`.
    pub fn rolled_back(&self, job: &Job, optimizer: &Optimizer, block: BlockId, pushes: usize, step: Step) -> Replay {
        let mut replay = Replay::new(job, optimizer, block);
        for (ticket, (weight, payload)) in self.pushes.iter().zip(&self.log).take(pushes) {
            replay.apply(job, optimizer, *ticket, *weight, payload);
        }
        replay.base = (step, pushes);
        replay
    }

    /// How many pushes make up a version.
    pub fn pushes_of(&self, version: Step) -> Option<usize> {
        let (step, pushes) = self.base;
        let later = version.0.checked_sub(step.0)? as usize;
        Some(pushes + later).filter(|pushes| *pushes <= self.pushes.len())
    }

    /// The version that the push in this place made.
    pub fn version_of(&self, place: usize) -> Step {
        let (step, pushes) = self.base;
        Step((step.0 + place as u64 + 1).saturating_sub(pushes as u64).max(step.0))
    }

    /// Its newest version.
    pub fn newest(&self) -> Step {
        let (step, pushes) = self.base;
        Step(step.0 + (self.pushes.len() - pushes) as u64)
    }

    /// The pushes it has taken, in order.
    pub fn pushes(&self) -> &[Ticket] {
        &self.pushes
    }

    /// Whether these are the bits of its newest version.
    pub fn is_newest(&self, bytes: &[u8]) -> bool {
        let newest = self.versions.last().expect("a block has its initial weights");
        newest.iter().flat_map(|value| value.to_le_bytes()).eq(bytes.iter().copied())
    }

    /// Whether a worker that names this version must see these values.
    pub fn is_seen_as(&self, job: &Job, version: Step, seen: &[f32]) -> bool {
        let Some(values) = self.pushes_of(version).and_then(|pushes| self.versions.get(pushes)) else { return false };
        let mut values = values.clone();
        round(job.spec.wire.weights, &mut values);
        values.iter().map(|value| value.to_bits()).eq(seen.iter().map(|value| value.to_bits()))
    }
}
