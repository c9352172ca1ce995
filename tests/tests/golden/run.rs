//! Runs a case through servers, a contribution per part of the gradient.

use std::collections::BTreeMap;

use halflife_optim::{Optimizer, OptimizerConfig};
use halflife_server::JobSpec;
use halflife_tests::cluster::Cluster;
use halflife_tests::tool::{Tool, ToolTensor};
use serde::Serialize;
use serde_json::Value;

use crate::case::{Case, floats};

/// States after the updates that the file checks: `history[step - 1][tensor][state]`.
pub(crate) type History = Vec<BTreeMap<String, BTreeMap<String, Vec<f32>>>>;

/// How the tensors are laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) servers: u32,
    pub(crate) block_elements: u64,
}

#[derive(Serialize)]
struct File<'a> {
    job: toml::Table,
    optimizer: &'a OptimizerConfig,
}

/// A job of this optimizer.
pub(crate) fn spec(
    config: &OptimizerConfig,
    (steps, slots): (u64, usize),
    combine: &str,
    layout: Layout,
) -> Result<JobSpec, String> {
    let mut job = toml::Table::new();
    job.insert("name".to_owned(), "golden".into());
    job.insert("combine".to_owned(), combine.into());
    for (key, value) in [
        ("steps", steps as i64),
        ("slots", slots as i64),
        ("servers", i64::from(layout.servers)),
        ("block_elements", layout.block_elements as i64),
    ] {
        job.insert(key.to_owned(), value.into());
    }
    let text = toml::to_string(&File { job, optimizer: config }).map_err(|error| error.to_string())?;
    JobSpec::parse("golden", &text, &[]).map_err(|error| error.to_string())
}

/// The gradient of each slot of a step for a tensor, and the slot's sample weight.
fn slots(case: &Case, step: u64, tensor: &str) -> Vec<(Option<Vec<f32>>, f64)> {
    let index = step as usize - 1;
    let parts = &case.raw["gradient_parts"];
    if parts.is_null() {
        return vec![(floats(&case.raw["gradients"][index][tensor]), 1.0)];
    }
    let weights = floats(&case.raw["combine"]["weights"]);
    let parts = parts[index].as_array().expect("parts");
    let slot = |(number, part): (usize, &Value)| {
        let weight = weights.as_ref().map_or(1.0, |weights| weights[number]);
        let gradient = floats(&part[tensor]).map(|values| values.iter().map(|value| weight * value).collect());
        (gradient, f64::from(weight))
    };
    parts.iter().enumerate().map(slot).collect()
}

/// Every state at every step, as servers of this layout make it.
pub(crate) async fn run(case: &Case, config: &OptimizerConfig, layout: Layout) -> Result<History, String> {
    let parts = case.raw["gradient_parts"][0].as_array().map_or(1, Vec::len);
    let combine = case.raw["combine"]["op"].as_str().unwrap_or("mean");
    let cluster = Cluster::start(spec(config, (case.steps, parts), combine, layout)?).await;
    let optimizer = Optimizer::new(config, case.steps).map_err(|error| error.to_string())?;
    let planes: Vec<&str> = optimizer.planes().iter().map(|plane| plane.name).collect();
    let tensors = case.tensors.iter().map(|tensor| {
        let shape: Vec<u64> = tensor.shape.iter().map(|dim| *dim as u64).collect();
        ToolTensor::trainable(&tensor.name, &shape)
    });
    let refused = |status: tonic::Status| status.to_string();
    let mut tool = Tool::join(cluster.lead_url(), tensors.collect()).await.map_err(refused)?;
    for (index, tensor) in case.tensors.iter().enumerate() {
        tool.initialize(index, &tensor.init).await.map_err(refused)?;
    }
    tool.wait_for(0).await;
    let mut history = History::new();
    for step in 1..=case.steps {
        // Last slot first: the order of arrival must not matter.
        for slot in (0..parts as u32).rev() {
            for (index, tensor) in case.tensors.iter().enumerate() {
                let (gradient, weight) = &slots(case, step, &tensor.name)[slot as usize];
                tool.push(step, (slot, slot + 1), index, gradient.as_deref(), *weight).await.map_err(refused)?;
            }
        }
        tool.wait_for(step).await;
        let mut states = BTreeMap::new();
        if case.raw["expected"].get(step.to_string()).is_some() {
            for (index, tensor) in case.tensors.iter().enumerate() {
                let mut of_tensor =
                    BTreeMap::from([("p".to_owned(), tool.pull(index, "", step).await.map_err(refused)?)]);
                for plane in &planes {
                    of_tensor.insert((*plane).to_owned(), tool.pull(index, plane, step).await.map_err(refused)?);
                }
                states.insert(tensor.name.clone(), of_tensor);
            }
        }
        history.push(states);
    }
    cluster.stop().await;
    Ok(history)
}
