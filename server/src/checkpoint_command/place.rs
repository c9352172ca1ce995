//! Finds the store that a command means, and the checkpoint in it.
//!
//! A place that is only looked at is not made: a mistyped directory is an error.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use halflife_checkpoint::{CheckpointId, Checkpoints, Listed, ReadError};

use super::arguments::{JobArguments, OneArguments, PlaceArguments};
use super::error::CheckpointCommandError;
use crate::config::{CheckpointSection, JobSpec};

/// A store, and what the job file says about it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub checkpoints: Checkpoints,
    /// Of the job file, if one was given.
    pub section: Option<CheckpointSection>,
    /// When it is a directory.
    directory: Option<PathBuf>,
}

impl Place {
    /// The place of a command that takes no checkpoint.
    pub fn find(arguments: &PlaceArguments) -> Result<Place, CheckpointCommandError> {
        Place::open(arguments.location.as_deref(), &arguments.job)
    }

    /// The place, and the text that names a checkpoint.
    pub fn find_one(arguments: &OneArguments) -> Result<(Place, Option<&str>), CheckpointCommandError> {
        let texts: Vec<&str> = arguments.place.iter().map(String::as_str).collect();
        let (location, id) = match (&arguments.job.config, texts.as_slice()) {
            (Some(_), []) => (None, None),
            (Some(_), [id]) => (None, Some(*id)),
            (None, [location]) => (Some(*location), None),
            (None, [location, id]) => (Some(*location), Some(*id)),
            (None, _) => {
                return Err(CheckpointCommandError::Place {
                    expected: "LOCATION or --config FILE",
                    found: "neither".to_owned(),
                });
            }
            (Some(_), more) => {
                let expected = "either LOCATION or --config FILE";
                return Err(CheckpointCommandError::Place { expected, found: format!("both, with {more:?}") });
            }
        };
        Ok((Place::open(location, &arguments.job)?, id))
    }

    fn open(location: Option<&str>, job: &JobArguments) -> Result<Place, CheckpointCommandError> {
        let section = job.config.as_ref().map(|config| section(config, &job.set)).transpose()?;
        let location = section.as_ref().map(|section| section.location.as_str()).or(location).unwrap_or_default();
        let directory = (!location.contains("://")).then(|| PathBuf::from(location));
        if let Some(directory) = directory.as_ref().filter(|directory| !directory.is_dir()) {
            return Err(CheckpointCommandError::NoDirectory { location: directory.display().to_string() });
        }
        let checkpoints = Checkpoints::open(location, Path::new("."))?;
        Ok(Place { checkpoints, section, directory })
    }

    /// Every committed checkpoint.
    pub async fn list(&self) -> Result<Vec<Listed>, CheckpointCommandError> {
        self.checkpoints.list().await.map_err(|error| self.unreadable(error))
    }

    /// The checkpoint of a name or a step; without either the one that a restart goes on from.
    pub async fn choose(&self, text: Option<&str>) -> Result<CheckpointId, CheckpointCommandError> {
        let Some(text) = text else {
            let newest = self.checkpoints.newest().await.map_err(|error| self.unreadable(error))?;
            return newest.ok_or_else(|| self.none("a checkpoint", "none".to_owned()));
        };
        let listed = self.list().await?;
        let found = match text.parse::<u64>() {
            // A step may have been trained more than once: the one that counts is meant.
            Ok(step) => listed.iter().rfind(|listed| listed.in_history && listed.id.step.0 == step),
            Err(_) => {
                let id = text.parse::<CheckpointId>().map_err(|error| CheckpointCommandError::Place {
                    expected: "a checkpoint's step, or its name like \"000000000100-g00000002\"",
                    found: format!("{:?}", error.found),
                })?;
                listed.iter().find(|listed| listed.id == id)
            }
        };
        let there = || listed.iter().map(|listed| listed.id.to_string()).collect::<Vec<_>>().join(", ");
        found.map(|listed| listed.id).ok_or_else(|| self.none(&format!("checkpoint {text}"), format!("[{}]", there())))
    }

    /// When a checkpoint was committed, where the store says so: its manifest is its last file.
    pub fn committed_at(&self, id: CheckpointId) -> Option<SystemTime> {
        let manifest = self.directory.as_ref()?.join("checkpoints").join(id.to_string()).join("manifest.json");
        manifest.metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// Says where it is that something cannot be read.
    pub fn unreadable(&self, source: ReadError) -> CheckpointCommandError {
        CheckpointCommandError::Read { location: self.checkpoints.location(), source: Box::new(source) }
    }

    fn none(&self, expected: &str, found: String) -> CheckpointCommandError {
        let (location, expected) = (self.checkpoints.location(), expected.to_owned());
        CheckpointCommandError::NoCheckpoint { location, expected, found }
    }
}

/// `[checkpoint]` of a job file, its directory made whole.
fn section(config: &Path, set: &[String]) -> Result<CheckpointSection, CheckpointCommandError> {
    let spec = JobSpec::load(config, set).map_err(Box::new)?;
    let none = || CheckpointCommandError::NoSection { config: config.display().to_string() };
    spec.checkpoint.ok_or_else(none)
}
