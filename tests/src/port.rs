//! Ports that are found free and used later. Stands alone: a test of the checkpoint crate takes this file in.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Below those that the system gives to whoever connects or asks for any: one of them may be another's by the time it is used,
/// or while a process that listens there is started again.
const FIRST: u16 = 20_000;
const COUNT: u32 = 10_000;
/// Tests that run beside each other begin so far apart.
const OF_A_PROCESS: u32 = 64;

/// A port that nobody has, and that this process has not handed out before.
#[must_use]
pub fn free_port() -> u16 {
    static HANDED_OUT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let number = std::process::id() * OF_A_PROCESS + HANDED_OUT.fetch_add(1, Relaxed);
        let port = FIRST + (number % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("expected a free port among {COUNT} from {FIRST} on");
}
