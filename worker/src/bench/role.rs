//! What every process of a benchmark does: read orders, take the role that the first one gives, answer.

use std::io::{BufReader, stdin, stdout};
use std::process::{ExitCode, exit};
use std::thread;

use halflife_client::ClientError;
use halflife_proto::manifest::ManifestError;
use halflife_server::optim::ConfigError as OptimizerError;
use halflife_server::{ConfigError, Part, ServerError};
use thiserror::Error;
use tokio::sync::mpsc;

use super::bound::BoundError;
use super::process::{Answer, Order, read_message, write_message};
use super::{server_process, worker_process};

/// Orders that may wait: the controller waits for each answer.
const ORDERS_MAX: usize = 16;

/// Orders as they come.
pub(super) type Orders = mpsc::Receiver<Order>;

/// Why a process cannot go on.
#[derive(Debug, Error)]
pub(super) enum RoleError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Job(#[from] ConfigError),
    #[error(transparent)]
    Bound(#[from] BoundError),
    #[error("the model: {0}")]
    Model(#[from] ManifestError),
    #[error("the job's optimizer: {0}")]
    Settings(#[from] halflife_proto::strict_toml::TomlError),
    #[error("the job's optimizer: {0}")]
    Optimizer(#[from] OptimizerError),
    #[error(
        "the job's wire carries gradients as {gradients} and weights as {weights}: \
         give --gradients {gradients} --weights {weights}"
    )]
    OtherWire { gradients: &'static str, weights: &'static str },
    #[error("expected a job whose steps are made of all slots (mode sync without a quorum), found one where {why}")]
    OtherMode { why: &'static str },
    #[error("a task has ended: {0}")]
    Panicked(tokio::task::JoinError),
    #[error("the controller cannot be answered: {0}")]
    Answer(#[from] std::io::Error),
    #[error("expected an order for {role}, found {found}")]
    Unexpected { role: &'static str, found: String },
    #[error("the job is over after step {done}, {wanted} were ordered")]
    Over { done: u64, wanted: u64 },
    #[error("the job's operator drained this worker")]
    Drained,
}

impl RoleError {
    pub(super) fn unexpected(role: &'static str, found: &Order) -> RoleError {
        RoleError::Unexpected { role, found: format!("{found:?}") }
    }
}

/// The whole life of a process that the controller started. It ends at once when its standard input
/// closes.
pub async fn run() -> ExitCode {
    let (sender, orders) = mpsc::channel(ORDERS_MAX);
    thread::spawn(move || {
        let mut input = BufReader::new(stdin());
        while let Ok(Some(order)) = read_message(&mut input) {
            if sender.blocking_send(order).is_err() {
                return; // it failed and says so
            }
        }
        // The controller is gone, and nothing here is worth keeping.
        exit(0);
    });
    match take_role(orders).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If the controller is gone there is nobody left to tell.
            let _ = answer(&Answer::Failed { message: error.to_string() });
            ExitCode::FAILURE
        }
    }
}

async fn take_role(mut orders: Orders) -> Result<(), RoleError> {
    match orders.recv().await {
        Some(Order::Lead { job_toml, compute_threads }) => {
            server_process::serve(server_process::lead(&job_toml)?, compute_threads, orders).await
        }
        Some(Order::Follow { lead, compute_threads }) => {
            server_process::serve(Part::Follower { lead, expected: None }, compute_threads, orders).await
        }
        Some(Order::Work { lead, shape, wire, patience_s }) => {
            // A task, as in any program that trains from async code: the main thread's own future would be
            // woken across threads at every step.
            let working = tokio::spawn(worker_process::work(lead, shape, wire, patience_s, orders));
            working.await.map_err(RoleError::Panicked)?
        }
        Some(other) => Err(RoleError::unexpected("a new process", &other)),
        None => Ok(()),
    }
}

pub(super) fn answer(answer: &Answer) -> Result<(), RoleError> {
    Ok(write_message(&mut stdout().lock(), answer)?)
}
