//! Programs of others that the tests need.

use std::io::Write as _;
use std::process::Command;

/// The program, or `None` where it is missing: said on the terminal, whatever the test runner does with output. With `CI`
/// set, as in `.ci/run`, that is a failure.
#[must_use]
pub fn program(name: &str, purpose: &str) -> Option<Command> {
    if Command::new(name).arg("--help").output().is_ok() {
        return Some(Command::new(name));
    }
    assert!(std::env::var_os("CI").is_none(), "{name} is needed: {purpose}");
    let _ = writeln!(std::io::stderr(), "SKIPPED, NOT TESTED: {purpose}: there is no {name} here");
    None
}
