//! What this machine is, and what a process has used of it.

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::process::Usage;

/// Facts without which no number means anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Installed memory.
    pub memory_bytes: Option<u64>,
    /// The kernel's release.
    pub kernel: String,
    /// Mean number of runnable tasks over the minute before: 0 on an idle machine.
    pub load_before: Option<f64>,
    /// Whether this build has optimisations on. Without them no number means anything either.
    pub optimized_build: bool,
}

impl Machine {
    /// This one. What the system does not tell is left empty.
    #[must_use]
    pub fn this() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        Machine {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field(&read("/proc/meminfo"), "MemTotal").and_then(|text| kibibytes(&text)),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()),
            optimized_build: !cfg!(debug_assertions),
        }
    }
}

/// The machine's monotonic clock, in nanoseconds: the same for all processes.
#[must_use]
pub fn now_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// CPU time of this process, user and system, in nanoseconds.
#[must_use]
pub fn cpu_ns() -> u64 {
    nanoseconds(ClockId::ProcessCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What this process has used.
#[must_use]
pub fn usage() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Usage { cpu_ns: cpu_ns(), peak_bytes: peak.and_then(kibibytes) }
}

/// Bytes of a text such as `12 kB`.
fn kibibytes(text: &str) -> Option<u64> {
    text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on_and_memory_is_counted() {
        let (time, before) = (now_ns(), usage());
        let work: u64 = (0..3_000_000u64).map(std::hint::black_box).sum();
        assert!(std::hint::black_box(work) > 0);
        assert!(now_ns() > time && usage().cpu_ns > before.cpu_ns);
        assert!(before.peak_bytes.is_none_or(|bytes| bytes > 1 << 20));
        assert_eq!(kibibytes(" 12 kB"), Some(12 * 1024));
    }
}
