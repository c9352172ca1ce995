//! One tensor's state under torch's names: `<tensor>.step` and `<tensor>.<array>`.
//!
//! Torch makes a parameter's state at its first gradient. Before that the file says `step` 0 and may have no arrays;
//! without a word about a tensor it is refused, since a forgotten moment would pass for zero.

use std::collections::BTreeSet;

use bytes::Bytes;
use halflife_optim::{Plane, PlaneSpec, StateDtype, bf16};
use halflife_proto::ids::Step;
use halflife_proto::manifest::Tensor;
use halflife_proto::tensor_codec::magnitude_max;
use safetensors::Dtype;

use super::torch_mapping::{TorchKind, TorchMapping};
use super::{InterchangeError, Stored, TensorFile};

/// The state of one tensor, whole.
#[derive(Debug)]
pub(super) struct TensorState {
    /// Updates it has had.
    pub updates: u64,
    /// In the optimizer's order.
    pub planes: Vec<Plane>,
}

/// Reads states out of one file.
#[derive(Debug)]
pub(super) struct StateReader<'a> {
    pub path: &'a str,
    pub file: &'a TensorFile,
    pub mapping: &'a TorchMapping,
    /// The step that the job goes on from.
    pub step: Step,
    /// Keys not read yet.
    pub unread: BTreeSet<&'a str>,
}

impl<'a> StateReader<'a> {
    /// Of a file.
    pub fn new(path: &'a str, file: &'a TensorFile, mapping: &'a TorchMapping, step: Step) -> StateReader<'a> {
        StateReader { path, file, mapping, step, unread: file.order.iter().map(String::as_str).collect() }
    }

    /// The state of a tensor.
    ///
    /// # Errors
    /// [`InterchangeError::Tensor`] names the key that is missing or not what it must be.
    pub fn read(&mut self, tensor: &Tensor, specs: &[PlaneSpec]) -> Result<TensorState, InterchangeError> {
        let steps = self.steps(tensor)?;
        let mut planes = Vec::with_capacity(specs.len());
        for spec in specs {
            planes.push(self.plane(tensor, spec, steps)?);
        }
        // Torch's SGD does not count; all that ours asks of the count is whether this is the first update.
        Ok(TensorState { updates: steps.unwrap_or_else(|| self.step.0.max(1)), planes })
    }

    /// Everything in the file was read.
    ///
    /// # Errors
    /// [`InterchangeError::Tensor`] names the first key that is of no trainable tensor, or of another optimizer.
    pub fn finish(&self) -> Result<(), InterchangeError> {
        match self.unread.first() {
            None => Ok(()),
            Some(key) => Err(self.refused(key, "no such key for this model and optimizer", "one")),
        }
    }

    fn steps(&mut self, tensor: &Tensor) -> Result<Option<u64>, InterchangeError> {
        let key = format!("{}.step", tensor.name);
        let Some(stored) = self.take(&key) else {
            return match self.mapping.kind {
                TorchKind::Sgd => Ok(None),
                TorchKind::AdamW | TorchKind::Adam => Err(self.refused(&key, "a number of updates", "none")),
            };
        };
        match count(stored) {
            Some(steps) => Ok(Some(steps)),
            None => Err(self.refused(&key, "a whole number from 0, as I64[] or F32[]", &stored.shown())),
        }
    }

    fn plane(&mut self, tensor: &Tensor, spec: &PlaneSpec, steps: Option<u64>) -> Result<Plane, InterchangeError> {
        let torchs = self.mapping.planes.iter().find(|(own, _)| *own == spec.name).map_or(spec.name, |(_, name)| name);
        let key = format!("{}.{torchs}", tensor.name);
        let expected = format!("F32{:?}", tensor.shape);
        let Some(stored) = self.take(&key) else {
            return match steps {
                Some(0) => Ok(Plane::new(spec, tensor.elements() as usize)),
                _ => Err(self.refused(&key, &expected, "none")),
            };
        };
        if stored.dtype != Dtype::F32 || stored.shape != tensor.shape {
            return Err(self.refused(&key, &expected, &stored.shown()));
        }
        if !magnitude_max(&stored.data).is_finite() {
            return Err(self.refused(&key, "finite values", "NaN or infinity"));
        }
        plane(spec, &stored.data)
            .ok_or_else(|| self.refused(&key, "values that bf16 holds exactly (optimizer.state_dtype)", "others"))
    }

    fn take(&mut self, key: &str) -> Option<&'a Stored> {
        self.unread.remove(key);
        self.file.tensors.get(key)
    }

    fn refused(&self, key: &str, expected: &str, found: &str) -> InterchangeError {
        let (path, name) = (self.path.to_owned(), key.to_owned());
        InterchangeError::Tensor { path, name, expected: expected.to_owned(), found: found.to_owned() }
    }
}

/// A whole number as i64 or, as torch counts, f32. `None` for anything else.
fn count(stored: &Stored) -> Option<u64> {
    if stored.shape.iter().product::<u64>() != 1 {
        return None;
    }
    match stored.dtype {
        Dtype::I64 => u64::try_from(i64::from_le_bytes(stored.data.as_ref().try_into().ok()?)).ok(),
        Dtype::F32 => {
            let value = f32::from_le_bytes(stored.data.as_ref().try_into().ok()?);
            // Where f32 no longer tells neighbours apart, torch's own count has stopped.
            let whole = value.fract() == 0.0 && (0.0..=16_777_216.0).contains(&value);
            whole.then_some(value as u64)
        }
        _ => None,
    }
}

/// Values as the job keeps them; `None` when they would have to be rounded.
fn plane(spec: &PlaneSpec, data: &Bytes) -> Option<Plane> {
    let values = data.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
    match spec.dtype {
        StateDtype::Bf16 => {
            let bits: Vec<u16> = values.clone().map(bf16::round).collect();
            let exact = bits.iter().zip(values).all(|(bits, value)| bf16::widen(*bits).to_bits() == value.to_bits());
            exact.then_some(Plane::Bf16(bits))
        }
        _ => Some(Plane::F32(values.collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(text: &str) -> (TorchMapping, Vec<PlaneSpec>) {
        let config = toml::from_str(&format!("lr = 0.1\n{text}")).unwrap();
        let optimizer = halflife_optim::Optimizer::new(&config, 10).unwrap();
        (TorchMapping::of(&config).unwrap(), optimizer.planes().to_vec())
    }

    fn read(settings: &str, entries: &[(&str, Stored)]) -> Result<TensorState, String> {
        let (mapping, specs) = specs(settings);
        let mut file = TensorFile::default();
        entries.iter().for_each(|(key, stored)| file.push((*key).to_owned(), stored.clone()));
        let mut reader = StateReader::new("f", &file, &mapping, Step(7));
        let state = reader.read(&Tensor::trainable("w", &[2]), &specs).map_err(|error| error.to_string())?;
        reader.finish().map_err(|error| error.to_string())?;
        Ok(state)
    }

    fn values(values: [f32; 2]) -> Stored {
        Stored::f32(&[2], values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    const ADAMW: &str = "preset = \"pytorch-adamw\"";
    const SGD: &str = "preset = \"pytorch-sgd\"";

    #[test]
    fn arrays_find_their_planes_and_counts_their_tensor() {
        let (m, v) = (values([1.0, 2.0]), values([3.0, 4.0]));
        for step in [Stored::count(5), Stored::f32(&[], 5.0_f32.to_le_bytes().to_vec())] {
            let state =
                read(ADAMW, &[("w.exp_avg_sq", v.clone()), ("w.exp_avg", m.clone()), ("w.step", step)]).unwrap();
            assert_eq!(state.updates, 5);
            assert_eq!(state.planes, [Plane::F32(vec![1.0, 2.0]), Plane::F32(vec![3.0, 4.0])]);
        }
        let state = read(ADAMW, &[("w.step", Stored::count(0))]).unwrap();
        assert_eq!((state.updates, &state.planes[0]), (0, &Plane::F32(vec![0.0, 0.0])));
        let state = read(SGD, &[("w.momentum_buffer", m)]).unwrap();
        assert_eq!((state.updates, state.planes), (7, vec![Plane::F32(vec![1.0, 2.0])]));
        assert_eq!(read(SGD, &[("w.step", Stored::count(0))]).unwrap().updates, 0);
        assert_eq!(read("algorithm = \"sgd\"", &[]).unwrap().updates, 7);
    }

    #[test]
    fn what_is_missing_strange_or_too_much_is_named() {
        let (m, step) = (values([1.0, 2.0]), Stored::count(5));
        let half = Stored::f32(&[], 5.5_f32.to_le_bytes().to_vec());
        let bf16 = "preset = \"pytorch-sgd\"\nstate_dtype = \"bf16\"";
        for (settings, entries, part) in [
            (ADAMW, vec![("w.exp_avg", &m)], "\"w.step\": expected a number of updates, found none"),
            (ADAMW, vec![("w.step", &step), ("w.exp_avg", &m)], "\"w.exp_avg_sq\": expected F32[2], found none"),
            (ADAMW, vec![("w.step", &half)], "expected a whole number"),
            (ADAMW, vec![("w.step", &m)], "found F32[2]"),
            (SGD, vec![], "\"w.momentum_buffer\": expected F32[2], found none"),
            (SGD, vec![("w.momentum_buffer", &step)], "expected F32[2], found I64[]"),
            (SGD, vec![("w.momentum_buffer", &values([f32::NAN, 0.0]))], "expected finite values"),
            (SGD, vec![("w.momentum_buffer", &m), ("x.step", &step)], "\"x.step\": expected no such key"),
            (bf16, vec![("w.momentum_buffer", &values([0.1, 0.0]))], "bf16 holds exactly"),
        ] {
            let entries: Vec<_> = entries.into_iter().map(|(key, stored)| (key, stored.clone())).collect();
            let error = read(settings, &entries).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(read(bf16, &[("w.momentum_buffer", m)]).is_ok());
    }
}
