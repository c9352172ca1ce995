//! What any process tells: its build, when it began, what it uses. Under the names that Prometheus' own libraries give.

use std::fs;
use std::time::Duration;

use super::{Exposition, catalogue};

/// Tells what the system knows; what it does not say is left out.
pub(super) fn tell(exposition: &mut Exposition) {
    exposition.gauge(&catalogue::BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
    if let Some(began) = start_time() {
        exposition.gauge(&catalogue::PROCESS_START, &[], began.as_secs_f64());
    }
    if let Some(bytes) = resident_bytes() {
        exposition.gauge(&catalogue::PROCESS_RESIDENT, &[], bytes as f64);
    }
    if let Some(used) = cpu_time() {
        exposition.counter(&catalogue::PROCESS_CPU, &[], used.as_secs_f64());
    }
}

/// Fields of `/proc/self/stat` behind the name, which is in parentheses and may hold anything.
fn stat(field: usize) -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // Fields are counted from 1, and the state, the first behind the name, is the third.
    stat.rsplit(')').next()?.split_whitespace().nth(field - 3)?.parse().ok()
}

fn ticks(count: u64) -> Option<Duration> {
    Some(Duration::from_secs_f64(count as f64 / sysconf(libc::_SC_CLK_TCK)? as f64))
}

/// From 1970 to the beginning of the process: that of the system, and the time since.
fn start_time() -> Option<Duration> {
    let stat_of_system = fs::read_to_string("/proc/stat").ok()?;
    let booted = stat_of_system.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Duration::from_secs(booted.trim().parse().ok()?) + ticks(stat(22)?)?)
}

fn cpu_time() -> Option<Duration> {
    ticks(stat(14)? + stat(15)?)
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * sysconf(libc::_SC_PAGESIZE)?)
}

#[allow(unsafe_code)]
fn sysconf(name: libc::c_int) -> Option<u64> {
    // SAFETY: it reads a constant of the system and touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(name) }).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_process_began_a_while_ago_and_uses_memory() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(2); // btime is rounded
        let began = start_time().unwrap();
        assert!(began <= now && began + Duration::from_secs(24 * 3600) > now, "{began:?}");
        assert!(resident_bytes().unwrap() > 1 << 20 && cpu_time().is_some());
    }
}
