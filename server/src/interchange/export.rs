//! A checkpoint as files for others: its weights, and its moments as a torch optimizer's state.
//!
//! Every digest is checked on the way. Tied tensors are left out, as in the worker's weights files: the record of the model
//! says what they are tied to, and a reader gets them from there.

use std::collections::BTreeMap;
use std::ops::Range;

use halflife_checkpoint::{Array, ArrayDtype, BlockContents, CheckpointManifest, Checkpoints, ReadError, WEIGHTS};
use halflife_optim::{Optimizer, bf16};
use halflife_proto::blocks::{all_blocks, block_range};
use halflife_proto::manifest::{Manifest, Role, Tensor};

use super::param_group;
use super::torch_mapping::TorchMapping;
use super::{GROUPS_KEY, InterchangeError, MODEL_KEY, OPTIMIZER_KEY, Stored, TensorFile, model_record};
use crate::config::JobSpec;

/// One tensor, put together from its blocks.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// f32, little-endian.
    weights: Vec<u8>,
    /// The same of each plane that was asked for.
    planes: BTreeMap<String, Vec<u8>>,
    /// Least and most updates of its blocks.
    updates: Option<(u64, u64)>,
}

impl Gathered {
    fn of(tensor: &Tensor, planes: &[&str]) -> Gathered {
        let zeros = || vec![0; size_of::<f32>() * tensor.elements() as usize];
        match tensor.role {
            Role::Tied(_) => Gathered::default(),
            Role::Frozen | Role::Buffer => Gathered { weights: zeros(), ..Gathered::default() },
            Role::Trainable => {
                let planes = planes.iter().map(|name| ((*name).to_owned(), zeros())).collect();
                Gathered { weights: zeros(), planes, updates: None }
            }
        }
    }

    /// Puts a block into its tensor. Gives what is wrong with a plane: its length is the optimizer's matter, which the store
    /// does not know.
    fn place(&mut self, range: &Range<u64>, contents: BlockContents) -> Result<(), String> {
        let BlockContents { updates, arrays, .. } = contents;
        let (least, most) = self.updates.unwrap_or((updates, updates));
        self.updates = Some((least.min(updates), most.max(updates)));
        for Array { name, dtype, data } in arrays {
            let whole = if name == WEIGHTS { Some(&mut self.weights) } else { self.planes.get_mut(&name) };
            let Some(whole) = whole else { continue };
            let target = &mut whole[4 * range.start as usize..4 * range.end as usize];
            let expected = (range.end - range.start) * dtype.element_bytes();
            if data.len() as u64 != expected {
                return Err(format!("array {name:?}: expected {expected} bytes, found {}", data.len()));
            }
            match dtype {
                ArrayDtype::F32 => target.copy_from_slice(&data),
                ArrayDtype::Bf16 => {
                    for (word, bits) in target.as_chunks_mut::<4>().0.iter_mut().zip(data.as_chunks::<2>().0) {
                        *word = bf16::widen(u16::from_le_bytes(*bits)).to_le_bytes();
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads a checkpoint's weights, and the named planes of its trainable tensors, a tensor each.
///
/// # Errors
/// [`ReadError`] names what is damaged.
pub async fn gather(
    checkpoints: &Checkpoints,
    manifest: &CheckpointManifest,
    planes: &[&str],
) -> Result<Vec<Gathered>, ReadError> {
    let model = &manifest.model;
    let mut gathered: Vec<_> = model.tensors().iter().map(|tensor| Gathered::of(tensor, planes)).collect();
    let blocks: Vec<_> = all_blocks(model, manifest.block_elements).map(|(block, _)| block).collect();
    let mut misfit = None;
    let mut each = |contents: BlockContents| {
        let (block, name) = (contents.block, contents.tensor.clone());
        let (tensor, index) = (contents.block.tensor, contents.block.index);
        let range = model.get(tensor).and_then(|tensor| block_range(tensor, index, manifest.block_elements));
        // Only blocks of the model were asked for.
        if let Some(range) = range
            && let Err(problem) = gathered[tensor.0 as usize].place(&range, contents)
        {
            let path = format!("checkpoint {}", manifest.id);
            misfit.get_or_insert(ReadError::Block { path, tensor: name, block, problem });
        }
    };
    checkpoints.read_blocks(manifest, &blocks, &mut each).await?;
    misfit.map_or(Ok(gathered), Err)
}

/// The weights file.
#[must_use]
pub fn weights_file(manifest: &CheckpointManifest, gathered: &mut [Gathered]) -> TensorFile {
    let mut file = TensorFile::default();
    for (tensor, gathered) in own(&manifest.model, gathered) {
        file.push(tensor.name.clone(), Stored::f32(&tensor.shape, std::mem::take(&mut gathered.weights)));
    }
    // "pt" is what other tools expect of arrays in torch's layout.
    file.metadata = BTreeMap::from([
        ("format".to_owned(), "pt".to_owned()),
        (MODEL_KEY.to_owned(), model_record::text(&manifest.model)),
        ("halflife_checkpoint".to_owned(), manifest.id.to_string()),
    ]);
    file
}

/// The state file: what torch's optimizer would hold after the checkpoint's step.
///
/// # Errors
/// [`InterchangeError::Torn`] when torch cannot count a tensor's updates, [`InterchangeError::Tensor`] when a plane is missing.
pub fn state_file(
    manifest: &CheckpointManifest,
    spec: &JobSpec,
    mapping: &TorchMapping,
    gathered: &mut [Gathered],
) -> Result<TensorFile, InterchangeError> {
    let optimizer = Optimizer::new(&spec.optimizer, spec.job.steps).map_err(super::NoTorchState::from)?;
    let mut file = TensorFile::default();
    let mut arrays = Vec::new();
    for (tensor, gathered) in own(&manifest.model, gathered).filter(|(tensor, _)| tensor.role == Role::Trainable) {
        let (least, most) = gathered.updates.unwrap_or_default();
        if least != most {
            return Err(InterchangeError::Torn { name: tensor.name.clone(), least, most });
        }
        file.push(format!("{}.step", tensor.name), Stored::count(most));
        for (own, torchs) in &mapping.planes {
            let values = gathered.planes.remove(*own).unwrap_or_default();
            arrays.push((format!("{}.{torchs}", tensor.name), Stored::f32(&tensor.shape, values)));
        }
    }
    // Counts of 8 bytes come first, so that everything lies aligned.
    arrays.into_iter().for_each(|(key, stored)| file.push(key, stored));
    let groups = param_group::of_job(mapping, &optimizer, &manifest.model, manifest.schedule.next_step);
    file.metadata = BTreeMap::from([
        ("format".to_owned(), "halflife-torch-state".to_owned()),
        ("format_version".to_owned(), "1".to_owned()),
        (OPTIMIZER_KEY.to_owned(), mapping.kind.to_string()),
        (GROUPS_KEY.to_owned(), param_group::text(&groups)),
        ("halflife_checkpoint".to_owned(), manifest.id.to_string()),
    ]);
    Ok(file)
}

/// The tensors that have blocks of their own.
fn own<'a>(model: &'a Manifest, gathered: &'a mut [Gathered]) -> impl Iterator<Item = (&'a Tensor, &'a mut Gathered)> {
    model.tensors().iter().zip(gathered).filter(|(tensor, _)| !matches!(tensor.role, Role::Tied(_)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use halflife_proto::blocks::BlockId;
    use halflife_proto::ids::TensorIndex;

    use super::*;

    #[test]
    fn a_plane_of_another_length_is_refused() {
        let block = BlockId { tensor: TensorIndex(0), index: 1 };
        let cases =
            [("m", ArrayDtype::F32, 4, false), ("m", ArrayDtype::F32, 8, true), ("m", ArrayDtype::Bf16, 8, false)];
        for (name, dtype, bytes, fits) in cases {
            let mut gathered = Gathered::of(&Tensor::trainable("w", &[6]), &["m"]);
            let arrays = vec![Array { name: name.to_owned(), dtype, data: Bytes::from(vec![0; bytes]) }];
            let contents = BlockContents { block, tensor: "w".to_owned(), updates: 1, arrays };
            assert_eq!(gathered.place(&(4..6), contents).is_ok(), fits, "{dtype:?} {bytes}");
        }
    }
}
