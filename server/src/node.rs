//! A server's part in the job: carries out the lead's orders and reports back.
//!
//! The same loop runs on every server; on the lead its channels stay in the process, elsewhere they
//! are the two directions of a `Register` stream (`follower.rs`).

mod writing;

use std::sync::Arc;
use std::time::Duration;

use halflife_checkpoint::Checkpoints;
use halflife_proto::fault_point::{self, FaultPoint};
use halflife_proto::ids::Step;
use halflife_proto::manifest::Manifest;
use halflife_proto::membership::{CheckpointName, CheckpointPlan, Order, Partial, Report, ServerLoad};
use halflife_proto::placement::Placement;
use halflife_proto::refusal::{Refusal, RefusalCause};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};
use writing::{Writing, Written};

use crate::config::JobSpec;
use crate::saving::{self, RestoreError};
use crate::shard::{CutAnswer, Identity, Shard, ShardCompute, ShardPlace, Standing, TakenCut};

/// Orders or reports under way between the lead and one server.
pub const CHANNEL_CAPACITY: usize = 256;

/// Time between two reports of how much waits here, and two looks at who reads what waits.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How a server's part in the job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeEnd {
    /// The job is finished and every worker has left.
    Finished(Step),
    /// The lead is gone.
    LeadLost,
    /// The checkpoint store failed for longer than this server tries: it holds no blocks. Whoever starts it again may find
    /// the store well.
    StoreFailed(String),
    /// A bug. What the server holds is not to be trusted; its blocks are read again elsewhere.
    Panicked(String),
}

impl NodeEnd {
    /// How the task of a node ended.
    pub(crate) fn of(ended: Result<NodeEnd, JoinError>) -> NodeEnd {
        ended.unwrap_or_else(|error| NodeEnd::Panicked(error.to_string()))
    }
}

/// A server that has been admitted to a job.
#[derive(Debug)]
pub struct Node {
    /// Who it is in the job.
    pub identity: Identity,
    /// The job.
    pub spec: JobSpec,
    /// Where the data service finds the shard.
    pub place: Arc<ShardPlace>,
    /// The compute threads.
    pub compute: Arc<ShardCompute>,
    /// Where the job's state is kept, if it is.
    pub checkpoints: Option<Checkpoints>,
}

/// What a node follows of its shard, once it has one.
#[derive(Default)]
struct Followed {
    standing: Option<watch::Receiver<Standing>>,
    partials: Option<watch::Receiver<Option<Partial>>>,
    news: Option<watch::Receiver<()>>,
    cuts: Option<watch::Receiver<()>>,
}

impl Followed {
    fn of(shard: &Shard) -> Followed {
        let mut standing = shard.standing();
        standing.mark_changed();
        let (partials, news, cuts) = (shard.partials(), shard.news(), shard.cuts());
        Followed { standing: Some(standing), partials: Some(partials), news: Some(news), cuts: Some(cuts) }
    }
}

impl Node {
    /// Carries out orders until the job is over or the lead is gone.
    pub async fn run(self, mut orders: mpsc::Receiver<Order>, reports: mpsc::Sender<Report>) -> NodeEnd {
        let mut followed = Followed::default();
        let mut writing = Writing::default();
        let mut reported = Standing::default();
        let mut load_told = ServerLoad::default();
        let mut load_due = tokio::time::interval(LOAD_INTERVAL);
        load_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.write_next(&mut writing);
            tokio::select! {
                _ = load_due.tick() => {
                    let shard = self.place.get().inspect(|shard| shard.look_after_sessions());
                    let load = shard.map(|shard| shard.load()).unwrap_or_default();
                    if std::mem::replace(&mut load_told, load) != load && reports.send(Report::Load(load)).await.is_err() {
                        return NodeEnd::LeadLost;
                    }
                }
                order = orders.recv() => match order {
                    None => return NodeEnd::LeadLost,
                    Some(Order::Finish(step)) => return NodeEnd::Finished(step),
                    Some(order @ (Order::AskMissing(_) | Order::LastStep(_) | Order::Cut(_))) => {
                        if matches!(order, Order::Cut(_)) {
                            writing.give_up();
                        }
                        if let Some(answer) = self.answer(&order)
                            && reports.send(answer).await.is_err()
                        {
                            return NodeEnd::LeadLost;
                        }
                    }
                    Some(order) => match self.carry_out(order).await {
                        Ok(None) => {}
                        Ok(Some((shard, version))) => {
                            followed = Followed::of(&shard);
                            if reports.send(Report::Placed(version)).await.is_err() {
                                return NodeEnd::LeadLost;
                            }
                        }
                        Err(error @ RestoreError::Store { .. }) => return NodeEnd::StoreFailed(error.to_string()),
                        Err(RestoreError::Refused(refusal)) => {
                            error!(%refusal, "an order cannot be carried out");
                            if reports.send(Report::Halted(refusal)).await.is_err() {
                                return NodeEnd::LeadLost;
                            }
                        }
                    },
                },
                Some(Some(partial)) = changed(&mut followed.partials) => {
                    if reports.send(Report::Partial(partial)).await.is_err() {
                        return NodeEnd::LeadLost;
                    }
                }
                Some(()) = changed(&mut followed.news) => {
                    if let Some(report) = self.place.get().and_then(|shard| shard.take_news())
                        && reports.send(report).await.is_err()
                    {
                        return NodeEnd::LeadLost;
                    }
                }
                Some(()) = changed(&mut followed.cuts) => {
                    if let Some(cut) = self.fetch_cut() {
                        let step = cut.step;
                        writing.add(cut);
                        if reports.send(Report::CutTaken(step)).await.is_err() {
                            return NodeEnd::LeadLost;
                        }
                    }
                }
                Some(written) = writing.ended() => {
                    if let Written::Told(report) = written && reports.send(report).await.is_err() {
                        return NodeEnd::LeadLost;
                    }
                }
                Some(now) = changed(&mut followed.standing) => {
                    if report(&now, &mut reported, &reports).await.is_err() {
                        return NodeEnd::LeadLost;
                    }
                }
            }
        }
    }

    /// What the lead asks for. Without blocks there is nothing to say: the lead asks again.
    fn answer(&self, order: &Order) -> Option<Report> {
        let shard = self.place.get()?;
        match order {
            Order::AskMissing(step) => Some(Report::Missing(*step, shard.missing(*step))),
            Order::LastStep(step) => Some(Report::LastStep(shard.end_with(*step))),
            Order::Cut(step) => match shard.cut(*step) {
                CutAnswer::Taken => None, // said once it is
                CutAnswer::Passed(newest) => Some(Report::CutPassed { step: *step, newest }),
            },
            _ => None,
        }
    }

    /// A cut that is whole.
    fn fetch_cut(&self) -> Option<TakenCut> {
        let cut = self.place.get()?.take_cut()?;
        fault_point::reach(FaultPoint::CutTaken);
        Some(cut)
    }

    /// Begins to write what is to be written next, if it is its turn.
    fn write_next(&self, writing: &mut Writing) {
        let (Some(shard), Some(checkpoints)) = (self.place.get(), self.checkpoints.clone()) else { return };
        let Some(cut) = writing.take_next() else { return };
        let Identity { job, generation, index, .. } = self.identity.clone();
        let name = CheckpointName { step: cut.step, generation };
        writing.begin(cut.step, |given_up| async move {
            saving::save(&checkpoints, &given_up, name, index, &job, &shard, cut).await
        });
    }

    /// Holds the blocks of a placement; as a checkpoint has them, if the job goes on from one.
    async fn hold(
        &self,
        manifest: Manifest,
        placement: Placement,
        plan: Option<CheckpointPlan>,
    ) -> Result<(Arc<Shard>, u64), RestoreError> {
        let version = placement.version();
        let (compute, meter) = (self.compute.clone(), self.place.meter().clone());
        let shard = Shard::new(self.identity.clone(), &self.spec, manifest, placement, compute, meter)?;
        if let (Some(checkpoints), Some(plan)) = (&self.checkpoints, plan) {
            saving::check_shared(checkpoints, &plan).await?;
            if let Some(name) = plan.restore {
                saving::restore(checkpoints, name, &shard).await?;
                info!(step = name.step.0, "blocks are restored");
                fault_point::reach(FaultPoint::Restored);
            }
        }
        // Seen by others only now: half a restored shard would answer.
        self.place.set(shard.clone());
        info!(version, "blocks are in place");
        Ok((shard, version))
    }

    async fn carry_out(&self, order: Order) -> Result<Option<(Arc<Shard>, u64)>, RestoreError> {
        match order {
            Order::Place { manifest, placement, checkpoint } => {
                self.hold(manifest, placement, checkpoint).await.map(Some)
            }
            Order::Durable(step) => {
                if let Some(shard) = self.place.get() {
                    shard.note_durable(step);
                }
                Ok(None)
            }
            Order::Initialize(contribution) => {
                let shard =
                    self.place.get().ok_or_else(|| Refusal::new(RefusalCause::NotReady, "no blocks are placed yet"))?;
                shard.contribute(contribution)?;
                Ok(None)
            }
            Order::Total(total) => {
                if let Some(shard) = self.place.get() {
                    shard.supply(total);
                }
                Ok(None)
            }
            Order::Close { step, slots } => {
                if let Some(shard) = self.place.get() {
                    shard.close(step, &slots)?;
                }
                Ok(None)
            }
            Order::Void(tickets) => {
                if let Some(shard) = self.place.get() {
                    shard.void(&tickets);
                }
                Ok(None)
            }
            Order::Halt(refusal) => {
                warn!(%refusal, "the job has stopped");
                if let Some(shard) = self.place.get() {
                    shard.halt(refusal);
                }
                Ok(None)
            }
            // The callers act on these.
            Order::Admit { .. } | Order::Finish(_) | Order::AskMissing(_) | Order::LastStep(_) | Order::Cut(_) => {
                Ok(None)
            }
        }
    }
}

/// The value after its next change; waits for ever while there is nothing to follow.
async fn changed<T: Clone>(followed: &mut Option<watch::Receiver<T>>) -> Option<T> {
    match followed {
        Some(followed) => {
            followed.changed().await.ok()?;
            Some(followed.borrow_and_update().clone())
        }
        None => std::future::pending().await,
    }
}

async fn report(now: &Standing, reported: &mut Standing, reports: &mpsc::Sender<Report>) -> Result<(), ()> {
    if now.complete != reported.complete
        && let Some(step) = now.complete
    {
        reports.send(Report::Complete(step)).await.map_err(drop)?;
    }
    if now.halted != reported.halted
        && let Some(refusal) = &now.halted
    {
        reports.send(Report::Halted(refusal.clone())).await.map_err(drop)?;
    }
    *reported = now.clone();
    Ok(())
}

#[cfg(test)]
mod tests;
