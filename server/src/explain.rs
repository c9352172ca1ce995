//! `halflife-server explain`: what a job's optimizer does, in words and numbers, before it runs.
//!
//! The text is a pure function of a [`Run`]; only [`ExplainArguments::run`] reads a file, and only
//! `main.rs` prints. Each section of the text is a file: `configuration`, `rule`, `course` (with
//! `plot`), `ledger` (with `coupled` and `conventions`), `cost` (with `wire`), `warnings`. Costs some passes over
//! the schedule: seconds for a run of a million steps. Does not: reach a server, read data, or know
//! more of the model than the job file says.

mod arguments;
mod configuration;
mod conventions;
pub(crate) mod cost;
mod coupled;
mod course;
mod group;
pub(crate) mod layout;
mod ledger;
pub(crate) mod number;
mod plot;
mod presets;
mod rule;
mod run;
#[cfg(test)]
mod tests;
mod warnings;
mod wire;
pub(crate) mod workload;

pub use arguments::{ExplainArguments, ExplainError};
pub use run::Run;

use layout::section;

/// Everything there is to say about a run, for people, at most 100 columns wide.
#[must_use]
pub fn explain(run: &Run) -> String {
    [
        section("1. Configuration, every choice written out", configuration::lines(run)),
        section("2. Update rule", rule::lines(run)),
        section("3. Learning rate and decay over the run", course::lines(run)),
        section("4. Decay ledger", ledger::lines(run)),
        section("5. Cost", cost::lines(run)),
        section("6. Warnings", warnings::lines(run)),
    ]
    .join("\n")
}
