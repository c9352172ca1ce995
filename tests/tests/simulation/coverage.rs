//! What was met, how often: a count per name, over one run or many.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by name: what kind of thing, and which.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<(&'static str, String), u64>);

impl Coverage {
    /// Counts one.
    pub fn count(&mut self, kind: &'static str, which: impl fmt::Debug) {
        *self.0.entry((kind, format!("{which:?}"))).or_default() += 1;
    }

    /// Takes in another's counts.
    pub fn add(&mut self, other: &Coverage) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }

    /// How often a thing was met.
    pub fn of(&self, kind: &'static str, which: impl fmt::Debug) -> u64 {
        self.0.get(&(kind, format!("{which:?}"))).copied().unwrap_or(0)
    }

    /// How many things of a kind were met.
    pub fn of_kind(&self, kind: &str) -> u64 {
        self.0.iter().filter(|((known, _), _)| *known == kind).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((kind, which), count) in &self.0 {
            writeln!(f, "{kind:<12} {which:<24} {count:>12}")?;
        }
        Ok(())
    }
}
