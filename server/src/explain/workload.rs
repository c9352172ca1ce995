//! What a job file says about its model and data: tensor names, their shapes, steps per epoch.
//!
//! The built-in worker makes the tensors; this only repeats its names, since the server does not
//! depend on it. Without a `[model]`, names in the manner of the preset's system stand in.

use halflife_optim::Preset;
use halflife_proto::workload::{DataSettings, DigitsSettings, ModelSettings, Workload};

use crate::config::JobSpec;

/// Samples, features and classes of the built-in digits.
const DIGITS: (f64, usize, usize) = (1_797.0, 64, 10);

/// The tensors the explanation speaks of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelTensors {
    /// Name and shape; sizes that only the data knows are 0.
    pub(super) shapes: Vec<(String, Vec<usize>)>,
    /// Whether they are the job's own, not examples.
    pub(super) own: bool,
}

impl ModelTensors {
    pub(super) fn of(workload: Option<&Workload>, preset: Option<Preset>) -> ModelTensors {
        match workload {
            Some(workload) => ModelTensors { shapes: built_in(workload), own: true },
            None => ModelTensors { shapes: typical(preset), own: false },
        }
    }

    /// Elements of all tensors, where every size is known.
    pub(super) fn parameters(&self) -> Option<usize> {
        let sizes = self.shapes.iter().map(|(_, shape)| shape.iter().product::<usize>());
        (self.own && self.shapes.iter().all(|(_, shape)| !shape.contains(&0))).then(|| sizes.sum())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }
}

fn built_in(workload: &Workload) -> Vec<(String, Vec<usize>)> {
    let (features, classes) = match workload.data {
        DataSettings::Digits(_) => (DIGITS.1, DIGITS.2),
        DataSettings::Csv(_) | DataSettings::Idx(_) => (0, 0),
    };
    let hidden: &[usize] = match &workload.model {
        ModelSettings::Mlp(mlp) => &mlp.hidden,
        ModelSettings::Softmax(_) => &[],
    };
    let units = [&[features], hidden, &[classes]].concat();
    let layers = units.windows(2).enumerate().flat_map(|(layer, units)| {
        let weight = (format!("layers.{layer}.weight"), vec![units[1], units[0]]);
        [weight, (format!("layers.{layer}.bias"), vec![units[1]])]
    });
    layers.collect()
}

/// Elements of the job's own model, where the job file says every size.
pub(crate) fn parameters(job: &JobSpec) -> Option<u64> {
    ModelTensors::of(job.workload.as_ref(), job.optimizer.preset).parameters().map(|elements| elements as u64)
}

/// A weight, a bias and a norm's scale, named as the preset's system names them.
fn typical(preset: Option<Preset>) -> Vec<(String, Vec<usize>)> {
    let names = match preset {
        Some(Preset::Mxnet07 | Preset::Mxnet | Preset::Mxnet20 | Preset::MxnetContribAdamw) => {
            ["fc1_weight", "fc1_bias", "bn1_gamma"]
        }
        Some(Preset::Bert | Preset::Tf1AdamL2 | Preset::TfContribAdamw | Preset::TfContribMomentumw) => {
            ["dense/kernel:0", "dense/bias:0", "LayerNorm/gamma:0"]
        }
        _ => ["layers.0.weight", "layers.0.bias", "norm.weight"],
    };
    names.into_iter().zip([vec![64, 64], vec![64], vec![64]]).map(|(name, shape)| (name.to_owned(), shape)).collect()
}

/// Steps of one epoch: as the job says, or from the size of the built-in data.
pub(super) fn steps_per_epoch(job: &JobSpec) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // exact below 2^53 steps
    let told = job.optimizer.steps_per_epoch.map(|steps| steps as f64);
    told.or_else(|| {
        let workload = job.workload.as_ref()?;
        let DataSettings::Digits(digits) = &workload.data else { return None };
        Some(digits_to_train_on(digits) / samples_per_step(job)?)
    })
}

/// Samples of one step, where the job file says it.
pub(super) fn samples_per_step(job: &JobSpec) -> Option<f64> {
    let workload = job.workload.as_ref()?;
    Some(f64::from(job.job.slots) * f64::from(workload.training.samples_per_slot))
}

/// Both parts are rounded up to whole samples, as the worker does.
fn digits_to_train_on(digits: &DigitsSettings) -> f64 {
    let rest = DIGITS.0 - (DIGITS.0 * digits.test_fraction).ceil();
    rest - (rest * digits.holdout_fraction).ceil()
}
