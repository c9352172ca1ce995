//! Section 1: the job as a job file that leaves nothing open.

use super::layout::WIDTH;
use super::presets;
use super::run::Run;

pub(super) fn lines(run: &Run) -> Vec<String> {
    let mut lines = vec!["# A job file: means the same, and leaves nothing open.".to_owned()];
    if let Some(preset) = run.preset {
        lines.push(format!("# What the job leaves open is filled in from preset {}.", presets::name(preset)));
    }
    lines.push(String::new());
    lines.extend(text(run).trim_end().lines().map(with_exponent));
    lines
}

/// The job as TOML; arrays take a line per element only when one would not fit.
fn text(run: &Run) -> String {
    let text = run.job.to_toml();
    if text.lines().all(|line| line.chars().count() <= WIDTH) {
        return text;
    }
    let table: toml::Table = toml::from_str(&text).expect("a job is written as TOML");
    toml::to_string_pretty(&table).unwrap_or(text)
}

/// `eps = 0.00000001` as `eps = 1e-8`.
fn with_exponent(line: &str) -> String {
    let small = |text: &str| text.parse().ok().filter(|number: &f64| *number != 0.0 && number.abs() < 1e-3);
    match line.split_once(" = ") {
        Some((key, number)) => small(number).map_or(line.to_owned(), |number| format!("{key} = {number:e}")),
        None => line.to_owned(),
    }
}
