//! `checkpoint import`: a job that begins with another program's weights and moments.

use std::path::Path;

use halflife_checkpoint::Checkpoints;
use halflife_proto::ids::Step;

use super::arguments::ImportArguments;
use super::error::CheckpointCommandError;
use super::say;
use crate::config::JobSpec;
use crate::interchange::import::Import;

/// Imports a job.
pub(super) async fn run(arguments: &ImportArguments) -> Result<(), CheckpointCommandError> {
    let spec = JobSpec::load(&arguments.config, &arguments.set).map_err(Box::new)?;
    let Some(section) = &spec.checkpoint else {
        return Err(CheckpointCommandError::NoSection { config: arguments.config.display().to_string() });
    };
    let (weights, state) = (arguments.weights.clone(), arguments.torch_state.clone());
    let import = Import { spec: &spec, step: Step(arguments.step), weights, state };
    // The place is not made before the files are found right.
    let prepared = import.prepare().map_err(Box::new)?;
    let tensors = prepared.model().tensors().len();
    let notes = prepared.notes.clone();
    let checkpoints = Checkpoints::open(&section.location, Path::new("."))?;
    let id = import.write(&checkpoints, prepared).await.map_err(Box::new)?;
    notes.iter().for_each(|note| say(&format!("note: {note}")));
    let (location, next) = (checkpoints.location(), id.step.next().0);
    say(&format!("{id}  imported into {location}: {tensors} tensors; the job goes on with step {next}"));
    Ok(())
}
