//! `checkpoint export`: writes files for others.

use super::arguments::ExportArguments;
use super::error::CheckpointCommandError;
use super::place::Place;
use super::{amounts, say};
use crate::config::JobSpec;
use crate::interchange::{TensorFile, TorchMapping, export};

/// Exports a checkpoint. Whether torch has a state for the job is known before anything is written.
pub(super) async fn run(arguments: &ExportArguments) -> Result<(), CheckpointCommandError> {
    let (place, id) = Place::find_one(&arguments.one)?;
    let id = place.choose(id).await?;
    let manifest = place.checkpoints.manifest(id).await.map_err(|error| place.unreadable(error))?;
    let spec = JobSpec::parse(&format!("the settings of {id}"), &manifest.spec_toml, &[]).map_err(Box::new)?;
    let mapping = match &arguments.torch_state {
        Some(_) => Some(TorchMapping::of(&spec.optimizer).map_err(crate::interchange::InterchangeError::from)?),
        None => None,
    };
    let planes: Vec<&str> = mapping.iter().flat_map(|mapping| &mapping.planes).map(|(own, _)| *own).collect();
    let gathered = export::gather(&place.checkpoints, &manifest, &planes).await;
    let mut gathered = gathered.map_err(|error| place.unreadable(error))?;
    let state = match &mapping {
        Some(mapping) => Some(export::state_file(&manifest, &spec, mapping, &mut gathered)?),
        None => None,
    };
    if let Some(path) = &arguments.weights {
        let file = export::weights_file(&manifest, &mut gathered);
        file.write(path)?;
        say(&format!("{id}  weights: {} in {}", size(&file), path.display()));
    }
    if let (Some(path), Some(file), Some(mapping)) = (&arguments.torch_state, state, mapping) {
        file.write(path)?;
        say(&format!("{id}  state of torch.optim.{}: {} in {}", mapping.kind, size(&file), path.display()));
    }
    Ok(())
}

fn size(file: &TensorFile) -> String {
    let bytes = file.tensors.values().map(|stored| stored.data.len() as u64).sum();
    format!("{} arrays, {}", file.order.len(), amounts::bytes(bytes))
}
