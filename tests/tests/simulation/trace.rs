//! What happened, as one number: two runs are the same when their traces are. And as text, when someone reads along.

use std::io::Write as _;

use crate::random::mix;

/// The hash of all events so far.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    is_read: bool,
}

impl Trace {
    /// Nothing happened yet; `is_read`: somebody reads along.
    pub fn new(is_read: bool) -> Trace {
        Trace { is_read, ..Trace::default() }
    }

    /// Something happened at a time, said by numbers for the hash and by words for the reader.
    pub fn note(&mut self, at_us: u64, numbers: &[u64], words: impl FnOnce() -> String) {
        self.events += 1;
        self.hash = mix(&[self.hash, at_us, mix(numbers)]);
        if self.is_read {
            // Not `eprintln!`: the test harness would keep it to itself.
            let _ = writeln!(std::io::stderr(), "{:>12.6} {}", at_us as f64 / 1e6, words());
        }
    }

    /// The hash.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events.
    pub fn events(&self) -> u64 {
        self.events
    }
}
