//! `halflife-server plan`: what a job of a given size needs, before there is a machine for it.
//!
//! Answers from formulas and measured constants, and prints both. A [`Plan`] is a pure function of a [`Question`]; only
//! `arguments` reads a file. What servers reserve is computed by the code with which the lead refuses workers
//! (`lead/state/memory.rs`), so that figure is exact; how fast a job goes is an estimate, given as a range.
//! Does not: reach a server, measure this machine, or know what a user's model computes.

mod arguments;
mod constants;
mod containers;
mod fleet;
mod memory;
mod pace;
mod question;
mod saving;
#[cfg(test)]
mod tests;
mod text;
mod traffic;

pub use arguments::{PlanArguments, PlanError};
pub use containers::{Containers, Resources};
pub use fleet::Fleet;
pub use memory::{ServerMemory, WorkerMemory};
pub use pace::Pace;
pub use question::Question;
pub use saving::Saving;
pub use traffic::Traffic;

use serde::Serialize;

/// What a job needs. Sizes in bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What was asked.
    #[serde(flatten)]
    pub question: Question,
    /// How many servers, and how many would be best.
    pub fleet: Fleet,
    /// Of the fullest server.
    pub server_memory: ServerMemory,
    /// Of each worker.
    pub worker_memory: WorkerMemory,
    /// What a step moves.
    pub traffic: Traffic,
    /// How long a step takes.
    pub pace: Pace,
    /// What a checkpoint is and takes; `None` for a job that keeps none.
    pub checkpoint: Option<Saving>,
    /// What to ask a cluster for.
    pub containers: Containers,
}

impl Plan {
    /// # Errors
    /// [`PlanError::DoesNotFit`] when no number of servers keeps each below `memory_max`.
    pub fn new(question: Question) -> Result<Plan, PlanError> {
        let fleet = Fleet::choose(&question)?;
        let server_memory = ServerMemory::new(&question, fleet.servers);
        let worker_memory = WorkerMemory::new(&question, fleet.servers);
        let traffic = Traffic::new(&question, fleet.servers);
        let pace = Pace::new(&question, fleet.servers);
        let checkpoint = Saving::new(&question, fleet.servers);
        let containers = Containers::new(&question, &server_memory, &worker_memory, &pace);
        Ok(Plan { question, fleet, server_memory, worker_memory, traffic, pace, checkpoint, containers })
    }
}

/// The plan as text, or as JSON with `--json`.
///
/// # Errors
/// [`PlanError`], naming what was expected and what came.
pub fn run(arguments: &PlanArguments) -> Result<String, PlanError> {
    let plan = Plan::new(arguments.question()?)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&plan).expect("a plan has only numbers and names");
        return Ok(text + "\n");
    }
    Ok(text::of(&plan))
}
