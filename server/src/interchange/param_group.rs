//! The parameter groups of a torch optimizer, as a state file carries them.
//!
//! lr and weight decay are those of one step and are told, not compared: in a job they are functions of the step. What the
//! moments were made with must be the job's.

use halflife_optim::{DecayMode, Optimizer, ScheduleConfig, TensorRule};
use halflife_proto::ids::Step;
use halflife_proto::manifest::{Manifest, Role};
use serde::{Deserialize, Serialize};

use super::torch_mapping::{TorchKind, TorchMapping};
use super::{GROUPS_KEY, InterchangeError, TensorFile};

/// One group. Settings that its optimizer does not have are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// Learning rate of the next step.
    pub lr: f64,
    /// Weight decay of the next step, as torch takes it: AdamW multiplies it by lr.
    pub weight_decay: f64,
    /// Adam's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// Adam's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Adam's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amsgrad: Option<bool>,
    /// SGD's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// SGD's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dampening: Option<f64>,
    /// SGD's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// Its tensors.
    pub names: Vec<String>,
}

impl ParamGroup {
    /// The job's settings, without lr, decay and names.
    fn of(mapping: &TorchMapping) -> ParamGroup {
        let config = &mapping.config;
        let group = ParamGroup::default();
        match mapping.kind {
            TorchKind::AdamW | TorchKind::Adam => {
                ParamGroup { betas: config.betas, eps: config.eps, amsgrad: config.amsgrad, ..group }
            }
            TorchKind::Sgd => {
                let (momentum, dampening) = (config.momentum, config.dampening);
                ParamGroup { momentum, dampening, nesterov: config.nesterov, ..group }
            }
        }
    }
}

/// A job's groups at `next_step`: those of the job file that hold tensors, before them the tensors of none.
pub(super) fn of_job(
    mapping: &TorchMapping,
    optimizer: &Optimizer,
    model: &Manifest,
    next_step: Step,
) -> Vec<ParamGroup> {
    let mut groups: Vec<(TensorRule, ParamGroup)> = optimizer
        .group_rules()
        .into_iter()
        .map(|rule| {
            let (lr, weight_decay) = factors(mapping, optimizer, &rule, next_step);
            (rule, ParamGroup { lr, weight_decay, ..ParamGroup::of(mapping) })
        })
        .collect();
    for tensor in model.tensors().iter().filter(|tensor| tensor.role == Role::Trainable) {
        let own = rule_of(optimizer, &tensor.name, &tensor.shape);
        if let Some((_, group)) = groups.iter_mut().find(|(rule, _)| rule.group() == own.group()) {
            group.names.push(tensor.name.clone());
        }
    }
    groups.into_iter().map(|(_, group)| group).filter(|group| !group.names.is_empty()).collect()
}

fn rule_of(optimizer: &Optimizer, name: &str, shape: &[u64]) -> TensorRule {
    let shape: Vec<usize> = shape.iter().map(|dim| *dim as usize).collect();
    optimizer.tensor(name, &shape)
}

/// lr and weight decay of a step, as torch takes them.
fn factors(mapping: &TorchMapping, optimizer: &Optimizer, rule: &TensorRule, step: Step) -> (f64, f64) {
    let factors = optimizer.factors(rule, step.0, step.0);
    let decay = mapping.config.weight_decay.as_ref();
    let constant = match decay.and_then(|decay| decay.value.as_ref()) {
        Some(ScheduleConfig::Constant(value)) => Some(value * rule.decay_mult()),
        _ => None,
    };
    let weight_decay = match decay.and_then(|decay| decay.mode) {
        None | Some(DecayMode::None) => 0.0,
        Some(DecayMode::Decoupled) if factors.lr() > 0.0 => constant.unwrap_or(factors.decay() / factors.lr()),
        // At lr 0 nothing decays, and what a schedule of values would say cannot be told from the product.
        Some(DecayMode::Decoupled) => constant.unwrap_or(0.0),
        Some(DecayMode::L2 | DecayMode::L1) => factors.decay(),
    };
    (factors.lr(), weight_decay)
}

/// The groups of a state file, as metadata.
pub(super) fn text(groups: &[ParamGroup]) -> String {
    serde_json::to_string(groups).expect("finite numbers and texts are JSON")
}

/// Reads the groups of a state file and checks what the moments depend on.
///
/// # Errors
/// [`InterchangeError`] names the group and the setting.
pub(super) fn read(path: &str, file: &TensorFile, mapping: &TorchMapping) -> Result<Vec<ParamGroup>, InterchangeError> {
    let malformed = |found: String| InterchangeError::Malformed {
        path: path.to_owned(),
        expected: "metadata \"param_groups\" with a list of groups",
        found,
    };
    let text = file.metadata.get(GROUPS_KEY).ok_or_else(|| malformed("none".to_owned()))?;
    let groups: Vec<ParamGroup> = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let expected = ParamGroup::of(mapping);
    for (index, group) in groups.iter().enumerate() {
        if let Some((setting, expected, found)) = difference(&expected, group) {
            let path = path.to_owned();
            return Err(InterchangeError::Setting { path, group: index, setting, expected, found });
        }
    }
    Ok(groups)
}

fn difference(job: &ParamGroup, file: &ParamGroup) -> Option<(&'static str, String, String)> {
    let shown = |group: &ParamGroup| {
        let ParamGroup { betas, eps, amsgrad, momentum, dampening, nesterov, .. } = group;
        let texts = [
            betas.map(|[b1, b2]| format!("[{b1}, {b2}]")),
            eps.map(|eps| format!("{eps:e}")),
            amsgrad.map(|amsgrad| amsgrad.to_string()),
            momentum.map(|momentum| momentum.to_string()),
            dampening.map(|dampening| dampening.to_string()),
            nesterov.map(|nesterov| nesterov.to_string()),
        ];
        texts.map(|text| text.unwrap_or_else(|| "none".to_owned()))
    };
    let names = ["betas", "eps", "amsgrad", "momentum", "dampening", "nesterov"];
    let mut settings = names.into_iter().zip(shown(job)).zip(shown(file));
    settings.find(|((_, job), file)| job != file).map(|((name, job), file)| (name, job, file))
}

/// What changes with the import, in words: lr and decay of groups that the job has otherwise at its next step.
pub(super) fn changes(file: &[ParamGroup], job: &[ParamGroup]) -> Vec<String> {
    let mut changes = Vec::new();
    for (index, group) in file.iter().enumerate() {
        for own in job.iter().filter(|own| own.names.iter().any(|name| group.names.contains(name))) {
            let settings = [("lr", group.lr, own.lr), ("weight_decay", group.weight_decay, own.weight_decay)];
            let differing = settings.iter().filter(|(_, before, after)| (before - after).abs() > 1e-12 * before.abs());
            changes.extend(differing.map(|(setting, before, after)| {
                let first = own.names.iter().find(|name| group.names.contains(name));
                let first = first.map_or("", String::as_str);
                format!(
                    "{setting} of param_groups[{index}] was {before}, and is {after} in the job's next step ({first:?})"
                )
            }));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::manifest::Tensor;

    fn groups(text: &str) -> Vec<ParamGroup> {
        let config = toml::from_str(text).unwrap();
        let mapping = TorchMapping::of(&config).unwrap();
        let model = Manifest::new(vec![Tensor::trainable("a.weight", &[2, 2]), Tensor::trainable("a.bias", &[2])]);
        of_job(&mapping, &Optimizer::new(&config, 10).unwrap(), &model.unwrap(), Step(3))
    }

    const SPARED: &str = "[[groups]]\nname = \"spared\"\npatterns = [\"bias$\"]\nlr_mult = 2.0\ndecay_mult = 0.0\n";

    #[test]
    fn groups_have_the_numbers_of_the_next_step_as_torch_takes_them() {
        let found = groups(&format!(
            "preset = \"pytorch-adamw\"\nlr = {{ kind = \"step\", base = 0.1, every = 2, gamma = 0.5 }}\n{SPARED}"
        ));
        let expected = |lr, weight_decay, name: &str| ParamGroup {
            lr,
            weight_decay,
            betas: Some([0.9, 0.999]),
            eps: Some(1e-8),
            amsgrad: Some(false),
            names: vec![name.to_owned()],
            ..ParamGroup::default()
        };
        assert_eq!(found, [expected(0.05, 0.01, "a.weight"), expected(0.1, 0.0, "a.bias")]);
        let sgd = groups("preset = \"pytorch-sgd\"\nlr = 0.1");
        assert_eq!((sgd[0].weight_decay, sgd[0].momentum, sgd[0].betas), (1e-4, Some(0.9), None));
        assert_eq!(sgd[0].names, ["a.weight", "a.bias"]);
    }

    #[test]
    fn a_changed_lr_is_told_and_a_changed_beta_refused() {
        let job = groups("preset = \"pytorch-adamw\"\nlr = 0.1");
        let mut file = job.clone();
        file[0].lr = 0.2;
        let told = changes(&file, &job);
        assert_eq!(told, ["lr of param_groups[0] was 0.2, and is 0.1 in the job's next step (\"a.weight\")"]);
        assert!(changes(&job, &job).is_empty());
        file[0].betas = Some([0.8, 0.999]);
        let mut stored = TensorFile::default();
        stored.metadata.insert(GROUPS_KEY.to_owned(), text(&file));
        let mapping = TorchMapping::of(&toml::from_str("preset = \"pytorch-adamw\"\nlr = 0.1").unwrap()).unwrap();
        let error = read("f", &stored, &mapping).unwrap_err().to_string();
        assert_eq!(error, "f: param_groups[0].betas: expected [0.9, 0.999] as in the job, found [0.8, 0.999]");
    }
}
