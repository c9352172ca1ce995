//! The controller's processes: starting them, ordering, waiting for answers, ending them.
//!
//! Promises: an answer is waited for at most `ANSWER_WITHIN`; a process that fails or dies is named,
//! with its reason; of several that end at once the one that died by itself is told, not those that
//! missed it; none is left when this is dropped or [`Running::end_all`] was called.

use std::collections::VecDeque;
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::process::{Answer, Order, read_message, write_message};

/// The hidden subcommand that processes are started with.
pub const SUBCOMMAND: &str = "bench-process";
/// Longest time without any answer: far beyond a phase of steps of the largest model.
const ANSWER_WITHIN: Duration = Duration::from_secs(900);
/// How long others may take to explain a failure that they caused.
const EXPLAIN_WITHIN: Duration = Duration::from_millis(300);
/// How long a process may take to end once its standard input is closed.
const END_WITHIN: Duration = Duration::from_millis(800);
/// Lines of standard error that are kept of each process.
const STDERR_LINES: usize = 20;

/// Why processes could not do what they were ordered to.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// One could not be started.
    #[error("cannot start {name}: {source}")]
    Start {
        /// Which.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// One said why it cannot go on.
    #[error("{name}: {message}")]
    Failed {
        /// Which.
        name: String,
        /// Its reason.
        message: String,
    },
    /// One ended without a word.
    #[error("{name} has died ({status}){stderr}")]
    Died {
        /// Which.
        name: String,
        /// How it ended.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// One answered another question.
    #[error("{name}: expected {expected}, found {found}")]
    Unexpected {
        /// Which.
        name: String,
        /// The answer expected.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// None answered for a long time.
    #[error("no answer from {name} within {} s", ANSWER_WITHIN.as_secs())]
    Silent {
        /// One of those that were waited for.
        name: String,
    },
    /// The benchmark is being stopped.
    #[error("stopped")]
    Stopped,
}

/// One process, by its place among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(usize);

/// All processes of a benchmark.
pub struct Processes {
    running: Running,
    io_threads: usize,
    inputs: Vec<ChildStdin>,
    reports: Receiver<(ProcessId, Report)>,
    sender: Sender<(ProcessId, Report)>,
}

/// What can be ended from elsewhere: the processes of one [`Processes`] at a time. Clones share it.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    processes: Vec<Process>,
    /// Nothing is started any more.
    ended: bool,
}

impl State {
    fn end(&mut self) {
        for mut process in self.processes.drain(..) {
            // One that has ended already is what is wanted.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

struct Process {
    name: String,
    child: Child,
    stderr: Arc<Mutex<VecDeque<String>>>,
}

/// What came from a process; `None` once its standard output is closed, or is no protocol.
type Report = Option<Answer>;

impl Processes {
    /// None yet, to move data with so many threads each; `running` ends them from elsewhere.
    #[must_use]
    pub fn new(running: Running, io_threads: usize) -> Processes {
        let (sender, reports) = channel();
        Processes { running, io_threads, inputs: Vec::new(), reports, sender }
    }

    /// Starts one.
    ///
    /// # Errors
    /// [`ProcessError::Start`].
    pub fn start(&mut self, name: String) -> Result<ProcessId, ProcessError> {
        let mut running = self.running.lock();
        if running.ended {
            return Err(ProcessError::Stopped);
        }
        let cannot = |source| ProcessError::Start { name: name.clone(), source };
        let mut command = Command::new(env::current_exe().map_err(cannot)?);
        command.arg(SUBCOMMAND).arg(format!("--io-threads={}", self.io_threads));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(cannot(io::ErrorKind::BrokenPipe.into()));
        };
        let (id, stderr) = (ProcessId(self.inputs.len()), Arc::default());
        let (sender, kept) = (self.sender.clone(), Arc::clone(&stderr));
        thread::spawn(move || read_answers(id, BufReader::new(output), &sender));
        thread::spawn(move || keep_last_lines(BufReader::new(errors), &kept));
        self.inputs.push(input);
        running.processes.push(Process { name, child, stderr });
        Ok(id)
    }

    /// Gives an order. That nobody reads it shows when the answer is waited for.
    pub fn order(&mut self, id: ProcessId, order: &Order) {
        let _ = write_message(&mut self.inputs[id.0], order);
    }

    /// Waits for one answer from each, in the order given.
    ///
    /// # Errors
    /// [`ProcessError`]: the first that failed.
    pub fn answers(&mut self, from: &[ProcessId]) -> Result<Vec<Answer>, ProcessError> {
        let mut answers: Vec<Option<Answer>> = vec![None; from.len()];
        while let Some(missing) = answers.iter().position(Option::is_none) {
            let report = self.reports.recv_timeout(ANSWER_WITHIN);
            let (id, report) = report.map_err(|_| ProcessError::Silent { name: self.name(from[missing]) })?;
            match (report, from.iter().position(|wanted| *wanted == id)) {
                (Some(Answer::Failed { message }), _) => return Err(self.explain(id, Some(message))),
                (None, _) => return Err(self.explain(id, None)),
                (Some(answer), Some(place)) if answers[place].is_none() => answers[place] = Some(answer),
                (Some(answer), _) => return Err(self.unexpected(id, "no answer", &answer)),
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// The error of an answer to another question.
    #[must_use]
    pub fn unexpected(&self, id: ProcessId, expected: &'static str, found: &Answer) -> ProcessError {
        ProcessError::Unexpected { name: self.name(id), expected, found: format!("{found:?}") }
    }

    /// Closes every standard input and waits until all have ended.
    pub fn close(mut self) {
        self.inputs.clear();
        self.running.wait_for_all();
    }

    /// Why `id` ended. Others may end because it did, or it because of one of them: one that died
    /// without a word is the cause.
    fn explain(&self, id: ProcessId, message: Option<String>) -> ProcessError {
        let mut ends = vec![(id, message)];
        let deadline = Instant::now() + EXPLAIN_WITHIN;
        while let Ok((id, report)) = self.reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            match report {
                Some(Answer::Failed { message }) => ends.push((id, Some(message))),
                // A process that said why it ends is gone afterwards.
                None if ends.iter().all(|(ended, _)| *ended != id) => ends.push((id, None)),
                _ => {}
            }
        }
        let cause = ends.iter().position(|(_, message)| message.is_none()).unwrap_or(0);
        match ends.swap_remove(cause) {
            (id, Some(message)) => ProcessError::Failed { name: self.name(id), message },
            (id, None) => self.running.died(id),
        }
    }

    fn name(&self, id: ProcessId) -> String {
        // Gone from the list once everything was ended.
        self.running.lock().processes.get(id.0).map_or(String::new(), |process| process.name.clone())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.running.lock().end();
    }
}

impl Running {
    /// Kills every process that still runs, and waits for its end. None is started after that.
    pub fn end_all(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.end();
    }

    fn wait_for_all(&self) {
        let deadline = Instant::now() + END_WITHIN;
        let all_ended =
            || self.lock().processes.iter_mut().all(|process| matches!(process.child.try_wait(), Ok(Some(_))));
        while !all_ended() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn died(&self, id: ProcessId) -> ProcessError {
        let status = self.status(id).map_or("it still runs".to_owned(), |status| status.to_string());
        let state = self.lock();
        let Some(process) = state.processes.get(id.0) else { return ProcessError::Stopped };
        let lines = process.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let stderr: String = lines.iter().map(|line| format!("\n  {line}")).collect();
        let stderr = if stderr.is_empty() { "; it said nothing".to_owned() } else { format!("; it said:{stderr}") };
        ProcessError::Died { name: process.name.clone(), status, stderr }
    }

    /// How a process ended that has closed its output.
    fn status(&self, id: ProcessId) -> Option<ExitStatus> {
        let deadline = Instant::now() + END_WITHIN;
        loop {
            let status = self.lock().processes.get_mut(id.0).map(|process| process.child.try_wait().ok().flatten());
            let status = status?;
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves a valid list behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_answers(id: ProcessId, mut output: impl BufRead, reports: &Sender<(ProcessId, Report)>) {
    while let Ok(Some(answer)) = read_message(&mut output) {
        if reports.send((id, Some(answer))).is_err() {
            return;
        }
    }
    let _ = reports.send((id, None)); // nobody may wait any more
}

/// Who sets RUST_LOG wants to see what is logged; others only when something fails.
fn keep_last_lines(errors: impl BufRead, kept: &Mutex<VecDeque<String>>) {
    let shown = env::var_os("RUST_LOG").is_some();
    for line in errors.lines().map_while(Result::ok) {
        if shown {
            let _ = writeln!(io::stderr(), "{line}");
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(line);
        if kept.len() > STDERR_LINES {
            kept.pop_front();
        }
    }
}
