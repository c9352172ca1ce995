//! A server's share of the bound's weights, in chunks.
//!
//! Owners: a chunk's gathering and state belong to whoever holds its lock, which nobody ever waits for
//! while it is computed with: a worker sends a chunk's next gradient only after it has all weights of this
//! step. Two versions of the weights suffice for the same reason, as in the server proper.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use halflife_proto::job::Combine;
use halflife_server::optim::{Optimizer, Plane, PlaneMut, TensorRule};

use super::sum::{self, Register, TILE_ELEMENTS};
use super::{BoundError, BoundPlan};
use crate::bench::prediction::Course;
use crate::bench::samples::initial_weight;

/// One server's share.
pub(super) struct Share {
    optimizer: Optimizer,
    rule: TensorRule,
    course: Course,
    pub(super) chunks: Vec<Chunk>,
    /// Guards nothing: what waiters for `Chunk::applied` sleep under.
    waiting: Mutex<()>,
    progress: Condvar,
}

/// A run of the share.
pub(super) struct Chunk {
    pub(super) elements: usize,
    gathering: Mutex<Gathering>,
    /// Of even and of odd steps.
    weights: [RwLock<Vec<f32>>; 2],
    /// Newest step applied.
    applied: AtomicU64,
}

struct Gathering {
    /// By worker.
    gradients: Vec<Option<Vec<f32>>>,
    planes: Vec<Plane>,
    registers: Vec<Register>,
}

impl Share {
    pub(super) fn new(plan: &BoundPlan, server: usize) -> Result<Share, BoundError> {
        let optimizer = Optimizer::new(&plan.optimizer()?, plan.steps)?;
        if optimizer.needs_whole_tensors() || !optimizer.reductions().is_empty() {
            return Err(BoundError::Norms);
        }
        let share = plan.share(server);
        let chunks = share.clone().step_by(plan.chunk_elements);
        let chunk =
            |begin: usize| Chunk::new(&optimizer, plan.workers, begin..(begin + plan.chunk_elements).min(share.end));
        Ok(Share {
            chunks: chunks.map(chunk).collect(),
            rule: optimizer.tensor("run", &[plan.elements]),
            optimizer,
            course: plan.course(),
            waiting: Mutex::new(()),
            progress: Condvar::new(),
        })
    }

    /// Takes in a worker's gradient of a chunk. The last one applies the step; then all gradients come
    /// back, by worker.
    pub(super) fn contribute(
        &self,
        chunk: usize,
        step: u64,
        worker: usize,
        gradient: Vec<f32>,
    ) -> Option<Vec<Vec<f32>>> {
        let chunk = &self.chunks[chunk];
        let mut gathering = lock(&chunk.gathering);
        gathering.gradients[worker] = Some(gradient);
        if gathering.gradients.iter().any(Option::is_none) {
            return None;
        }
        let gradients: Vec<Vec<f32>> = gathering.gradients.iter_mut().filter_map(Option::take).collect();
        self.apply(chunk, step, &gradients, &mut gathering);
        drop(gathering);
        chunk.applied.store(step, Ordering::Release);
        // Taken and released, so that nobody looks before the store and sleeps after the wake.
        drop(lock(&self.waiting));
        self.progress.notify_all();
        Some(gradients)
    }

    /// The weights of a chunk after `step`; waits for them.
    pub(super) fn weights(&self, chunk: usize, step: u64) -> RwLockReadGuard<'_, Vec<f32>> {
        let chunk = &self.chunks[chunk];
        if chunk.applied.load(Ordering::Acquire) < step {
            let mut waiting = lock(&self.waiting);
            while chunk.applied.load(Ordering::Acquire) < step {
                waiting = self.progress.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
        }
        chunk.weights[(step % 2) as usize].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, chunk: &Chunk, step: u64, gradients: &[Vec<f32>], gathering: &mut Gathering) {
        let [even, odd] = &chunk.weights;
        let (before, after) = if step % 2 == 1 { (even, odd) } else { (odd, even) };
        let before = before.read().unwrap_or_else(PoisonError::into_inner);
        let mut after = after.write().unwrap_or_else(PoisonError::into_inner);
        let factors = self.optimizer.factors(&self.rule, step, step);
        let Gathering { planes, registers, .. } = gathering;
        if let [gradient] = gradients {
            let mut planes: Vec<PlaneMut<'_>> = planes.iter_mut().map(Plane::view_mut).collect();
            let gradient = &gradient[..chunk.elements];
            return self.optimizer.update(&factors, &before, &mut after, &mut planes, gradient);
        }
        let gradients: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
        for begin in (0..chunk.elements).step_by(TILE_ELEMENTS) {
            let length = TILE_ELEMENTS.min(chunk.elements - begin);
            let tile = begin..begin + length;
            sum::sum(self.course.slots.root(), &gradients, begin, length, registers);
            let mean = &mut registers[0][..length];
            if self.course.combine != Combine::Sum {
                let scale = (1.0 / gradients.len() as f64) as f32;
                mean.iter_mut().for_each(|value| *value *= scale);
            }
            let mut planes: Vec<PlaneMut<'_>> = planes.iter_mut().map(|plane| plane.slice_mut(tile.clone())).collect();
            self.optimizer.update(&factors, &before[tile.clone()], &mut after[tile], &mut planes, mean);
        }
    }
}

impl Chunk {
    fn new(optimizer: &Optimizer, workers: u32, range: Range<usize>) -> Chunk {
        let elements = range.len();
        let initial: Vec<f32> = range.map(initial_weight).collect();
        let gathering = Gathering {
            gradients: vec![None; workers as usize],
            planes: optimizer.planes().iter().map(|spec| Plane::new(spec, elements)).collect(),
            registers: sum::registers(workers),
        };
        // Copied, so that no step has to wait for fresh memory.
        let weights = [RwLock::new(initial.clone()), RwLock::new(initial)];
        Chunk { elements, gathering: Mutex::new(gathering), weights, applied: AtomicU64::new(0) }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has ended the process' part in the measurement anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
