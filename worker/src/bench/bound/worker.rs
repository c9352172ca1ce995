//! A worker's side of the bound: per server a thread that writes gradients and one that reads weights,
//! or none where shares are so small that the caller's task does both.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use halflife_proto::slots::SlotRange;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::inline::on_runtime;
use super::share::lock;
use super::{BoundError, BoundPlan, WRITE_BYTES, prepare};
use crate::bench::machine::{cpu_ns, now_ns};
use crate::bench::prediction::{Prediction, Seen};
use crate::bench::process::Ran;
use crate::bench::samples::{Samples, Values};
use crate::bench::verification::Verification;

/// A worker's connections.
pub struct BoundWorker {
    plan: BoundPlan,
    links: Vec<Link>,
    /// Tells of each share that is whole.
    arrived: Receiver<()>,
    step: u64,
}

/// To one server.
struct Link {
    share: Range<usize>,
    /// The newest weights; the reader's while a step is under way.
    weights: Arc<Mutex<Vec<f32>>>,
    way: Way,
}

enum Way {
    /// A step for the writing thread; a wish for weights for the reading one.
    Threads {
        write: Sender<u64>,
        read: Sender<()>,
    },
    Inline {
        stream: tokio::net::TcpStream,
        gradient: Gradient,
    },
}

/// A worker's gradient for one server: filled once, then changed where it is looked at.
struct Gradient {
    samples: Samples,
    /// The part of the run that is this share.
    values: Vec<f32>,
    slot: SlotRange,
}

impl BoundWorker {
    /// Connects to every server.
    ///
    /// # Errors
    /// [`BoundError`].
    pub fn connect(plan: BoundPlan, addresses: &[SocketAddr], worker: u32) -> Result<BoundWorker, BoundError> {
        let (done, arrived) = channel();
        let slot = SlotRange { begin: worker, end: worker + 1 };
        let mut links = Vec::new();
        for (server, address) in addresses.iter().enumerate() {
            let mut stream = TcpStream::connect(address)?;
            prepare(&stream)?;
            stream.write_all(&worker.to_le_bytes())?;
            let share = plan.share(server);
            let weights = Arc::new(Mutex::new(vec![0.0; share.len()]));
            let gradient = Gradient::new(&plan, share.clone(), slot);
            let way = match plan.is_inline() {
                true => Way::Inline { stream: on_runtime(stream)?, gradient },
                false => threads(stream, gradient, weights.clone(), done.clone())?,
            };
            links.push(Link { share, weights, way });
        }
        Ok(BoundWorker { plan, links, arrived, step: 0 })
    }

    /// Makes so many steps: in this task where shares are small, on a blocking thread elsewhere. Gives the worker
    /// back.
    ///
    /// # Errors
    /// [`BoundError`] when a connection has ended.
    pub async fn run(mut self, steps: u64) -> Result<(BoundWorker, Ran), BoundError> {
        if !self.plan.is_inline() {
            let run = tokio::task::spawn_blocking(move || {
                let ran = self.run_threads(steps)?;
                Ok((self, ran))
            });
            return run.await.map_err(|_| BoundError::Ended)?;
        }
        let mut watch = Watch::start(steps);
        for _ in 0..steps {
            self.step += 1;
            self.step_inline().await?;
            watch.step();
        }
        Ok((self, watch.stop()))
    }

    fn run_threads(&mut self, steps: u64) -> Result<Ran, BoundError> {
        let mut watch = Watch::start(steps);
        for _ in 0..steps {
            self.step += 1;
            for link in &self.links {
                if let Way::Threads { write, read } = &link.way {
                    let told = read.send(()).is_ok() && write.send(self.step).is_ok();
                    told.then_some(()).ok_or(BoundError::Ended)?;
                }
            }
            for _ in &self.links {
                self.arrived.recv().map_err(|_| BoundError::Ended)?;
            }
            watch.step();
        }
        Ok(watch.stop())
    }

    async fn step_inline(&mut self) -> Result<(), BoundError> {
        for link in &mut self.links {
            if let Way::Inline { stream, gradient } = &mut link.way {
                stream.write_all(gradient.of(self.step)).await?;
            }
        }
        for link in &mut self.links {
            if let Way::Inline { stream, .. } = &mut link.way {
                let mut weights = std::mem::take(&mut *lock(&link.weights));
                stream.read_exact(bytemuck::cast_slice_mut(&mut weights)).await?;
                *lock(&link.weights) = weights;
            }
        }
        Ok(())
    }

    /// Compares the newest weights with what they must be.
    ///
    /// # Errors
    /// [`BoundError`] when the optimizer cannot be read.
    pub fn verify(&self) -> Result<Verification, BoundError> {
        let mut arena = vec![0.0; self.plan.elements];
        for link in &self.links {
            arena[link.share.clone()].copy_from_slice(&lock(&link.weights));
        }
        let samples = self.plan.samples();
        let prediction = Prediction::new(&self.plan.optimizer()?, self.plan.course(), Seen::Exact, &samples)?;
        let mut found = Verification { positions: samples.count(), step: self.step, ..Verification::default() };
        prediction.ok_or(BoundError::Norms)?.check(self.step, &arena, &samples, &mut found);
        Ok(found)
    }
}

/// Takes the times of a phase.
struct Watch(Ran);

impl Watch {
    fn start(steps: u64) -> Watch {
        Watch(Ran { begin_ns: now_ns(), complete_ns: Vec::with_capacity(steps as usize), cpu_ns: cpu_ns() })
    }

    fn step(&mut self) {
        self.0.complete_ns.push(now_ns());
    }

    fn stop(mut self) -> Ran {
        self.0.cpu_ns = cpu_ns() - self.0.cpu_ns;
        self.0
    }
}

impl BoundPlan {
    fn samples(&self) -> Samples {
        Samples::of_run(self.elements, self.chunk_elements, Values::Spread)
    }
}

impl Gradient {
    fn new(plan: &BoundPlan, share: Range<usize>, slot: SlotRange) -> Gradient {
        let samples = plan.samples().part(share);
        let values = vec![0.0; samples.elements()];
        Gradient { samples, values, slot }
    }

    /// Its bytes for a step.
    fn of(&mut self, step: u64) -> &[u8] {
        self.samples.write_gradient(&mut self.values, step, self.slot);
        bytemuck::cast_slice(&self.values)
    }
}

fn threads(
    mut out: TcpStream,
    mut gradient: Gradient,
    weights: Arc<Mutex<Vec<f32>>>,
    done: Sender<()>,
) -> Result<Way, BoundError> {
    let mut stream = out.try_clone()?;
    let (write, to_write) = channel();
    let (read, to_read) = channel();
    thread::Builder::new().name("bound-write".to_owned()).spawn(move || {
        while let Ok(step) = to_write.recv() {
            let written = gradient.of(step).chunks(WRITE_BYTES).try_for_each(|part| out.write_all(part));
            if written.is_err() {
                return; // the reader's end tells
            }
        }
    })?;
    thread::Builder::new().name("bound-read".to_owned()).spawn(move || {
        // Two arenas in turn, as a worker that computes with one while the other fills.
        let mut next = vec![0.0; lock(&weights).len()];
        while to_read.recv().is_ok() {
            if stream.read_exact(bytemuck::cast_slice_mut(&mut next)).is_err() {
                return;
            }
            std::mem::swap(&mut next, &mut lock(&weights));
            if done.send(()).is_err() {
                return;
            }
        }
    })?;
    Ok(Way::Threads { write, read })
}
