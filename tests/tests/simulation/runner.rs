//! Runs seeds: in sync mode each twice as a job, undisturbed and disturbed; many of them on all cores.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use halflife_server::shard::ShardCompute;

use crate::coverage::Coverage;
use crate::promises::History;
use crate::scenario::{Mode, Scenario, Severity};
use crate::world::{Outcome, World};

/// A bug to plant while the disturbed job runs.
#[derive(Clone, Copy, Debug)]
pub enum Planted {
    Nothing,
    InServer(halflife_server::planted::Bug),
    InClient(halflife_client::planted::Bug),
    InStore(halflife_checkpoint::planted::Bug),
}

impl Planted {
    fn plant(self) {
        let (server, client, store) = match self {
            Planted::Nothing => (None, None, None),
            Planted::InServer(bug) => (Some(bug), None, None),
            Planted::InClient(bug) => (None, Some(bug), None),
            Planted::InStore(bug) => (None, None, Some(bug)),
        };
        halflife_server::planted::plant(server);
        halflife_client::planted::plant(client);
        halflife_checkpoint::planted::plant(store);
    }
}

/// What became of a seed.
pub struct Report {
    pub seed: u64,
    pub violation: Option<String>,
    pub hash: u64,
    pub events: u64,
    pub coverage: Coverage,
    pub virtual_us: u64,
    pub longest_stall_us: u64,
    pub severity: Severity,
}

impl Report {
    fn of_failure(seed: u64, violation: String, severity: Severity) -> Report {
        let (violation, coverage) = (Some(violation), Coverage::default());
        Report { seed, violation, hash: 0, events: 0, coverage, virtual_us: 0, longest_stall_us: 0, severity }
    }
}

/// Updates are so small that all run in the thread of the simulation; one thread idles because some must exist.
pub fn compute() -> Arc<ShardCompute> {
    Arc::new(ShardCompute::new(1).expect("a thread can be started"))
}

/// Runs one seed.
pub fn run_seed(seed: u64, planted: Planted, compute: &Arc<ShardCompute>, is_read: bool) -> Report {
    let scenario = Scenario::draw(seed);
    let history = match scenario.job.mode {
        Mode::Sync => run_undisturbed(&scenario, compute),
        // What it must come to follows from decisions of the run itself.
        Mode::Quorum(_) | Mode::Bounded(_) | Mode::Async => Ok(History::default()),
    };
    let history = match history {
        Ok(history) => history,
        Err(violation) => return Report::of_failure(seed, violation, scenario.severity),
    };
    planted.plant();
    let run = || World::new(&scenario, Some(&history), compute.clone(), is_read).run();
    let ended = catch_unwind(AssertUnwindSafe(run));
    Planted::Nothing.plant();
    match ended {
        Ok(Outcome { violation, trace, coverage, virtual_us, longest_stall_us, .. }) => {
            let (hash, events, severity) = (trace.hash(), trace.events(), scenario.severity);
            Report { seed, violation, hash, events, coverage, virtual_us, longest_stall_us, severity }
        }
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something");
            Report::of_failure(seed, format!("panicked: {said}"), scenario.severity)
        }
    }
}

/// The same job without faults: what it must come to.
fn run_undisturbed(scenario: &Scenario, compute: &Arc<ShardCompute>) -> Result<History, String> {
    let undisturbed = scenario.undisturbed();
    let Outcome { violation, history, .. } = World::new(&undisturbed, None, compute.clone(), false).run();
    violation.map_or(Ok(history), |violation| Err(format!("undisturbed: {violation}")))
}

/// What became of many seeds.
pub struct Summary {
    pub seeds: u64,
    pub events: u64,
    pub virtual_s: u64,
    pub took: Duration,
    pub coverage: Coverage,
    /// Longest time without progress while some worker was well, by severity of the faults.
    pub longest_stalls_us: [u64; 3],
    /// Seeds that broke a promise, with the promise.
    pub failures: Vec<(u64, String)>,
}

/// Runs seeds from `first` on, on all cores: `count` of them, or until the time is up.
pub fn run_many(first: u64, count: u64, until: Option<Instant>) -> Summary {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary {
        seeds: 0,
        events: 0,
        virtual_s: 0,
        took: Duration::ZERO,
        coverage: Coverage::default(),
        longest_stalls_us: [0; 3],
        failures: Vec::new(),
    });
    let work = || {
        let compute = compute();
        while until.is_none_or(|until| Instant::now() < until) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let report = run_seed(first + number, Planted::Nothing, &compute, false);
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            summary.seeds += 1;
            summary.events += report.events;
            summary.virtual_s += report.virtual_us / 1_000_000;
            summary.coverage.add(&report.coverage);
            let longest = &mut summary.longest_stalls_us[report.severity as usize];
            *longest = report.longest_stall_us.max(*longest);
            summary.failures.extend(report.violation.map(|violation| (report.seed, violation)));
            if summary.failures.len() >= 5 {
                return;
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.took = started.elapsed();
    summary.failures.sort();
    summary
}
