//! Presets by name: the right one for a misspelt one, and a preset as a job of its own.

use std::fmt;

use halflife_optim::Preset;
use halflife_proto::strict_toml;
use serde::Deserialize;
use thiserror::Error;

use super::layout::wrapped;

/// A name that no preset has.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct UnknownPreset {
    given: String,
    nearest: Option<String>,
}

impl fmt::Display for UnknownPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown preset `{}`", self.given)?;
        if let Some(nearest) = &self.nearest {
            write!(f, ", did you mean `{nearest}`?")?;
        }
        write!(f, "\nexpected one of")?;
        let names: Vec<String> = Preset::ALL.into_iter().map(name).collect();
        wrapped("  ", &names.join(", ")).iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

#[derive(Deserialize)]
struct Given {
    preset: Preset,
}

/// The preset of a name.
pub(super) fn named(given: &str) -> Result<Preset, UnknownPreset> {
    let text = format!("preset = {}", toml::Value::String(given.to_owned()));
    strict_toml::from_str::<Given>(&text).map(|given| given.preset).map_err(|error| {
        let message = error.to_string();
        let suggestion = message.lines().last().and_then(|line| line.strip_prefix("did you mean `"));
        let nearest = suggestion.map(|line| line.trim_end_matches("`?").to_owned());
        UnknownPreset { given: given.to_owned(), nearest }
    })
}

/// The name of a preset, as in job files.
pub(super) fn name(preset: Preset) -> String {
    match toml::Value::try_from(preset) {
        Ok(toml::Value::String(name)) => name,
        other => unreachable!("a preset is written as a string, not as {other:?}"),
    }
}

/// A job that says no more than its preset, whose own lr it takes.
pub(super) fn job_text(preset: Preset, steps: u64) -> String {
    let name = name(preset);
    let lr = toml::Value::try_from(preset.config().lr).expect("a schedule can be written as TOML");
    format!("[job]\nname = \"{name}\"\nsteps = {steps}\n[optimizer]\npreset = \"{name}\"\nlr = {lr}\n")
}
