//! What the controller and its processes say to each other: one JSON object a line, orders on standard
//! input, answers on standard output.
//!
//! Every order is answered, with one answer. A process whose standard input closes ends at once, so none
//! outlives the controller however that ends.

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::bound::BoundPlan;
use super::shape::ModelShape;
use super::verification::Verification;
use super::wire::Wire;

/// From the controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Be the server that leads this job. Answer: `listening`.
    Lead {
        /// The job file.
        job_toml: String,
        /// Threads for large updates.
        compute_threads: usize,
    },
    /// Be another server of the job. Answer: `listening`.
    Follow {
        /// The lead's URL.
        lead: String,
        /// Threads for large updates.
        compute_threads: usize,
    },
    /// Be a worker. Answer: `joined`.
    Work {
        /// The lead's URL.
        lead: String,
        /// The model.
        shape: ModelShape,
        /// What the job's wire carries.
        wire: Wire,
        /// How long to try to join.
        patience_s: u64,
    },
    /// A worker: take part in so many steps. Answer: `ran`.
    Run {
        /// Steps.
        steps: u64,
    },
    /// A server: open the bound's port and hold its share of the weights. Answer: `bound_listening`.
    ListenBound {
        /// The bound.
        plan: BoundPlan,
        /// This server's number.
        server: usize,
    },
    /// A worker: connect to the bound. Answer: `done`.
    ConnectBound {
        /// The bound.
        plan: BoundPlan,
        /// The servers' ports, by their number.
        addresses: Vec<SocketAddr>,
        /// This worker's number.
        worker: u32,
    },
    /// A worker: so many steps of the bound. Answer: `ran`.
    RunBound {
        /// Steps.
        steps: u64,
    },
    /// Anyone. Answer: `usage`.
    Usage,
    /// A worker: leave the job. Answer: `finished`.
    Finish,
}

/// From a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// A server is ready for workers.
    Listening {
        /// Its URL.
        url: String,
    },
    /// A worker has joined.
    Joined(JobFacts),
    /// Steps were made.
    Ran(Ran),
    /// The bound's port is open.
    BoundListening {
        /// The port.
        address: SocketAddr,
    },
    /// An order without a result was carried out.
    Done,
    /// What the process has used.
    Usage(Usage),
    /// A worker has left.
    Finished(Outcome),
    /// The order could not be carried out; the process ends.
    Failed {
        /// Why.
        message: String,
    },
}

/// What a worker gets to know of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobFacts {
    /// The job's id.
    pub job_id: String,
    /// Gradient contributions of a step.
    pub slots: u32,
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps it had made before this worker came.
    pub done: u64,
    /// Elements per block.
    pub block_elements: u64,
    /// The optimizer.
    pub optimizer_toml: String,
}

/// When steps were made. Times are nanoseconds of the machine's monotonic clock, which processes share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// When the first gradient was begun.
    pub begin_ns: u64,
    /// When each step's weights were whole, in order.
    pub complete_ns: Vec<u64>,
    /// CPU time this process spent meanwhile.
    pub cpu_ns: u64,
}

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time of all its threads.
    pub cpu_ns: u64,
    /// Largest resident memory, if the system tells.
    pub peak_bytes: Option<u64>,
}

/// A worker's last word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The weights that arrived against those predicted.
    pub verification: Verification,
    /// The same of the bound, if it ran.
    pub bound: Option<Verification>,
    /// See [`crate::digest::weights_digest`]; of the newest weights.
    pub weights_digest: String,
}

/// Writes one message.
///
/// # Errors
/// When the other end is gone.
pub fn write_message(out: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Reads one message; `None` at the end.
///
/// # Errors
/// When the line is no message.
pub fn read_message<T: for<'a> Deserialize<'a>>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    match from.read_line(&mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_str(&line)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines_of_json_and_read_back() {
        let orders = [
            Order::Lead { job_toml: "[job]\nname = \"ä\"\n".to_owned(), compute_threads: 2 },
            Order::Work {
                lead: "http://[::1]:7".to_owned(),
                shape: ModelShape::Parameters(7),
                wire: Wire::default(),
                patience_s: 3,
            },
            Order::Usage,
        ];
        let mut bytes = Vec::new();
        orders.iter().for_each(|order| write_message(&mut bytes, order).unwrap());
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), orders.len());
        let mut reader = bytes.as_slice();
        for order in orders {
            assert_eq!(read_message(&mut reader).unwrap(), Some(order));
        }
        assert_eq!(read_message::<Order>(&mut reader).unwrap(), None);
    }

    #[test]
    fn answers_read_back_and_anything_else_is_an_error() {
        let ran = Ran { begin_ns: u64::MAX, complete_ns: vec![1, 2], cpu_ns: 0 };
        let mut bytes = Vec::new();
        write_message(&mut bytes, &Answer::Ran(ran.clone())).unwrap();
        assert_eq!(read_message(&mut bytes.as_slice()).unwrap(), Some(Answer::Ran(ran)));
        assert!(read_message::<Answer>(&mut b"warning: hello\n".as_slice()).is_err());
    }
}
