//! Runs a case through the optimizer, each tensor cut into slices of a given length.

use crate::case::Case;
use halflife_optim::{Optimizer, OptimizerConfig};
use std::collections::BTreeMap;

/// Every state of every tensor after every update: `history[step - 1][tensor][state]`.
pub(crate) type History = Vec<BTreeMap<String, BTreeMap<String, Vec<f32>>>>;

struct Live {
    weights: Vec<f32>,
    planes: Vec<Vec<f32>>,
    updates: u64,
}

/// Runs all steps of `case` in slices of `slice` elements.
pub(crate) fn run(case: &Case, config: &OptimizerConfig, slice: usize) -> History {
    let optimizer = Optimizer::new(config, case.steps).unwrap_or_else(|e| panic!("{}: {e}", case.path.display()));
    let new = |init: &Vec<f32>| Live {
        weights: init.clone(),
        planes: optimizer.planes().iter().map(|plane| vec![plane.initial; init.len()]).collect(),
        updates: 0,
    };
    let mut live: Vec<Live> = case.tensors.iter().map(|tensor| new(&tensor.init)).collect();
    let mut history = History::new();
    for step in 1..=case.steps {
        for (tensor, live) in case.tensors.iter().zip(&mut live) {
            let Some(gradient) = case.gradient(step, &tensor.name) else {
                continue;
            };
            live.updates += 1;
            let rule = optimizer.tensor(&tensor.name, &tensor.shape);
            assert_eq!(rule.group(), Some(tensor.name.as_str()));
            let factors = optimizer.factors(&rule, step, live.updates);
            let mut next = vec![f32::NAN; live.weights.len()];
            for start in (0..next.len()).step_by(slice) {
                let end = (start + slice).min(next.len());
                let planes = live.planes.iter_mut();
                let mut planes: Vec<_> = planes.map(|plane| &mut plane[start..end]).collect();
                optimizer.update(
                    &factors,
                    &live.weights[start..end],
                    &mut next[start..end],
                    &mut planes,
                    &gradient[start..end],
                );
            }
            live.weights = next;
        }
        history.push(snapshot(case, &optimizer, &live));
    }
    history
}

fn snapshot(case: &Case, optimizer: &Optimizer, live: &[Live]) -> BTreeMap<String, BTreeMap<String, Vec<f32>>> {
    let states = |live: &Live| {
        let planes = optimizer.planes().iter().zip(&live.planes);
        let mut states: BTreeMap<_, _> = planes.map(|(spec, plane)| (spec.name.to_owned(), plane.clone())).collect();
        states.insert("p".into(), live.weights.clone());
        states
    };
    let tensors = case.tensors.iter().zip(live);
    tensors.map(|(tensor, live)| (tensor.name.clone(), states(live))).collect()
}
