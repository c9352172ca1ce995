//! One job of a benchmark: its server and worker processes, ordered phase by phase.

use std::net::SocketAddr;
use std::thread::available_parallelism;

use halflife_server::JobSpec;

use super::bound::BoundPlan;
use super::child::{ProcessError, ProcessId, Processes};
use super::phase::Phase;
use super::process::{Answer, JobFacts, Order, Outcome, Ran, Usage};
use super::shape::ModelShape;
use super::wire::Wire;

/// What a phase's steps are steps of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The job.
    Job,
    /// The bound in the same processes.
    Bound,
}

/// How workers take part.
#[derive(Clone, Debug)]
pub struct Workers {
    /// How many.
    pub count: u32,
    /// The model.
    pub shape: ModelShape,
    /// What the job's wire carries.
    pub wire: Wire,
    /// How long each tries to join.
    pub patience_s: u64,
}

/// A job's processes.
pub struct Cluster {
    servers: Vec<ProcessId>,
    workers: Vec<ProcessId>,
    facts: JobFacts,
}

impl Cluster {
    /// Starts a job's servers, then workers that join it. `label` tells its processes from another's.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn start(
        processes: &mut Processes,
        label: &str,
        spec: &JobSpec,
        workers: &Workers,
    ) -> Result<Cluster, ProcessError> {
        let count = spec.job.servers;
        let cores = available_parallelism().map_or(1, usize::from);
        // The servers share the cores, as in `halflife-worker local`.
        let compute_threads = (cores / count as usize).max(1);
        let (mut servers, mut lead) = (Vec::new(), None);
        for index in 0..count {
            let id = processes.start(format!("{label}server {index}"))?;
            let order = match &lead {
                None => Order::Lead { job_toml: spec.to_toml(), compute_threads },
                Some(lead) => Order::Follow { lead: String::clone(lead), compute_threads },
            };
            processes.order(id, &order);
            for answer in processes.answers(&[id])? {
                let Answer::Listening { url } = answer else { return Err(processes.unexpected(id, "a URL", &answer)) };
                lead.get_or_insert(url);
            }
            servers.push(id);
        }
        let lead = lead.unwrap_or_default();
        Ok(Cluster { servers, ..Cluster::join(processes, label, &lead, workers)? })
    }

    /// Starts workers that join the job of the lead at `url`, which runs elsewhere.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn join(processes: &mut Processes, label: &str, url: &str, workers: &Workers) -> Result<Cluster, ProcessError> {
        let Workers { count, shape, wire, patience_s } = workers.clone();
        let start = |index| processes.start(format!("{label}worker {index}"));
        let ids = (0..count).map(start).collect::<Result<Vec<_>, _>>()?;
        let mut facts = None;
        for id in &ids {
            // One after the other, so that worker 0 has slot 0.
            processes.order(*id, &Order::Work { lead: url.to_owned(), shape, wire, patience_s });
            for answer in processes.answers(&[*id])? {
                let Answer::Joined(joined) = answer else { return Err(processes.unexpected(*id, "a job", &answer)) };
                facts.get_or_insert(joined);
            }
        }
        let facts = facts.ok_or(ProcessError::Stopped)?;
        Ok(Cluster { servers: Vec::new(), workers: ids, facts })
    }

    /// How many servers are its own.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// What the job is.
    #[must_use]
    pub fn facts(&self) -> &JobFacts {
        &self.facts
    }

    /// Makes so many steps.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn run(&self, processes: &mut Processes, kind: Kind, steps: u64) -> Result<Phase, ProcessError> {
        let before = usages(processes, &self.servers)?;
        let order = match kind {
            Kind::Job => Order::Run { steps },
            Kind::Bound => Order::RunBound { steps },
        };
        self.workers.iter().for_each(|id| processes.order(*id, &order));
        let mut ran: Vec<Ran> = Vec::with_capacity(self.workers.len());
        for (answer, id) in processes.answers(&self.workers)?.into_iter().zip(&self.workers) {
            match answer {
                Answer::Ran(steps_of_worker) if steps_of_worker.complete_ns.len() as u64 == steps => {
                    ran.push(steps_of_worker)
                }
                other => return Err(processes.unexpected(*id, "the times of as many steps as ordered", &other)),
            }
        }
        let after = usages(processes, &self.servers)?;
        let servers = before.iter().zip(after).map(|(before, after)| after.cpu_ns - before.cpu_ns).collect();
        Ok(Phase::new(&ran, servers))
    }

    /// Opens the bound beside the job.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn open_bound(&self, processes: &mut Processes, plan: &BoundPlan) -> Result<(), ProcessError> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for (server, id) in self.servers.iter().enumerate() {
            processes.order(*id, &Order::ListenBound { plan: plan.clone(), server });
        }
        for (answer, id) in processes.answers(&self.servers)?.into_iter().zip(&self.servers) {
            let Answer::BoundListening { address } = answer else {
                return Err(processes.unexpected(*id, "a port", &answer));
            };
            addresses.push(address);
        }
        for (id, worker) in self.workers.iter().zip(0..) {
            processes.order(*id, &Order::ConnectBound { plan: plan.clone(), addresses: addresses.clone(), worker });
        }
        for (answer, id) in processes.answers(&self.workers)?.into_iter().zip(&self.workers) {
            if answer != Answer::Done {
                return Err(processes.unexpected(*id, "a connection", &answer));
            }
        }
        Ok(())
    }

    /// What servers and workers have used so far.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn usage(&self, processes: &mut Processes) -> Result<(Vec<Usage>, Vec<Usage>), ProcessError> {
        Ok((usages(processes, &self.servers)?, usages(processes, &self.workers)?))
    }

    /// Lets the workers leave. Their last words, by worker.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn finish(&self, processes: &mut Processes) -> Result<Vec<Outcome>, ProcessError> {
        self.workers.iter().for_each(|id| processes.order(*id, &Order::Finish));
        let answers = processes.answers(&self.workers)?.into_iter().zip(&self.workers);
        let outcome = |(answer, id): (Answer, &ProcessId)| match answer {
            Answer::Finished(outcome) => Ok(outcome),
            other => Err(processes.unexpected(*id, "its last word", &other)),
        };
        answers.map(outcome).collect()
    }
}

fn usages(processes: &mut Processes, of: &[ProcessId]) -> Result<Vec<Usage>, ProcessError> {
    of.iter().for_each(|id| processes.order(*id, &Order::Usage));
    let answers = processes.answers(of)?.into_iter().zip(of);
    let usage = |(answer, id): (Answer, &ProcessId)| match answer {
        Answer::Usage(usage) => Ok(usage),
        other => Err(processes.unexpected(*id, "what it has used", &other)),
    };
    answers.map(usage).collect()
}
