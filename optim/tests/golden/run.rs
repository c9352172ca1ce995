//! Runs a case through the optimizer: all tensors together, or each cut into slices.

use crate::case::Case;
use halflife_optim::{Optimizer, Parameters, Plane, Reduction, StepFactors, Sums};
use std::collections::BTreeMap;

/// Every state of every tensor after every update: `history[step - 1][tensor][state]`.
pub(crate) type History = Vec<BTreeMap<String, States>>;
type States = BTreeMap<String, Vec<f32>>;

/// Runs all steps with [`Optimizer::step`].
pub(crate) fn together(case: &Case, optimizer: &Optimizer) -> History {
    let mut model = Parameters::default();
    for tensor in &case.tensors {
        model.add(optimizer, &tensor.name, &tensor.shape, tensor.init.clone()).expect("tensor");
    }
    let mut history = History::new();
    for step in 1..=case.steps {
        let gradients: Vec<_> = case.tensors.iter().map(|tensor| case.gradient(step, &tensor.name)).collect();
        let gradients: Vec<_> = gradients.iter().map(Option::as_deref).collect();
        optimizer.step(&mut model, &gradients, step).expect("step");
        let states = model.tensors().iter().map(|tensor| {
            let planes = optimizer.planes().iter();
            let plane = |name| tensor.plane(name).expect("plane").to_f32().into_owned();
            let mut states: States = planes.map(|spec| (spec.name.to_owned(), plane(spec.name))).collect();
            states.insert("p".into(), tensor.weights().to_vec());
            (tensor.name().to_owned(), states)
        });
        history.push(states.collect());
    }
    history
}

struct Live {
    weights: Vec<f32>,
    planes: Vec<Plane>,
    updates: u64,
}

/// Runs all steps with [`Optimizer::update`] on slices of `slice` elements, sums taken over
/// blocks of a power of two.
pub(crate) fn sliced(case: &Case, optimizer: &Optimizer, slice: usize) -> History {
    let new = |tensor: &crate::case::TensorCase| Live {
        weights: tensor.init.clone(),
        planes: optimizer.planes().iter().map(|spec| Plane::new(spec, spec.length(&tensor.shape))).collect(),
        updates: 0,
    };
    let mut live: Vec<Live> = case.tensors.iter().map(new).collect();
    let mut history = History::new();
    for step in 1..=case.steps {
        let gradients: Vec<_> = case.tensors.iter().map(|tensor| case.gradient(step, &tensor.name)).collect();
        let mut factors = Vec::new();
        for ((tensor, live), gradient) in case.tensors.iter().zip(&mut live).zip(&gradients) {
            live.updates += u64::from(gradient.is_some());
            let rule = optimizer.tensor(&tensor.name, &tensor.shape);
            assert_eq!(rule.group(), Some(tensor.name.as_str()));
            factors.push(optimizer.factors(&rule, step, live.updates.max(1)));
        }
        supply(optimizer, &mut factors, &live, &gradients, slice);
        for (index, live) in live.iter_mut().enumerate() {
            if let Some(gradient) = &gradients[index] {
                let shape = &case.tensors[index].shape;
                update(optimizer, &factors[index], live, shape, gradient, slice);
            }
        }
        let states =
            case.tensors.iter().zip(&live).map(|(tensor, live)| (tensor.name.clone(), states(optimizer, live)));
        history.push(states.collect());
    }
    history
}

fn supply(
    optimizer: &Optimizer,
    factors: &mut [StepFactors],
    live: &[Live],
    gradients: &[Option<Vec<f32>>],
    slice: usize,
) {
    let block = if slice.is_power_of_two() { slice } else { 2 };
    for reduction in optimizer.reductions() {
        let sums: Vec<Sums> = (0..live.len())
            .map(|index| {
                let (live, Some(gradient)) = (&live[index], &gradients[index]) else {
                    return Sums::default();
                };
                assert_eq!(factors[index].pending(), Some(reduction));
                let blocks = (0..gradient.len()).step_by(block).map(|start| {
                    let end = start.saturating_add(block).min(gradient.len());
                    let planes: Vec<_> = live.planes.iter().map(|plane| plane.slice(start..end)).collect();
                    optimizer.sums(&factors[index], &live.weights[start..end], &planes, &gradient[start..end])
                });
                Sums::combine(&blocks.collect::<Vec<_>>())
            })
            .collect();
        let whole = Sums::combine(&sums);
        for (factors, own) in factors.iter_mut().zip(sums) {
            factors.supply(if reduction == Reduction::GlobalNorm { whole } else { own });
        }
    }
}

fn update(
    optimizer: &Optimizer,
    factors: &StepFactors,
    live: &mut Live,
    shape: &[usize],
    gradient: &[f32],
    slice: usize,
) {
    if slice == 4 && !optimizer.needs_whole_tensors() {
        let mut planes: Vec<_> = live.planes.iter_mut().map(Plane::view_mut).collect();
        return optimizer.update_in_place(factors, &mut live.weights, &mut planes, gradient);
    }
    let mut next = vec![f32::NAN; live.weights.len()];
    if optimizer.needs_whole_tensors() {
        let mut planes: Vec<_> = live.planes.iter_mut().map(Plane::view_mut).collect();
        optimizer.update_tensor(factors, shape, &live.weights, &mut next, &mut planes, gradient);
        live.weights = next;
        return;
    }
    for start in (0..next.len()).step_by(slice) {
        let end = start.saturating_add(slice).min(next.len());
        let planes = live.planes.iter_mut();
        let mut planes: Vec<_> = planes.map(|plane| plane.slice_mut(start..end)).collect();
        let weights = &live.weights[start..end];
        optimizer.update(factors, weights, &mut next[start..end], &mut planes, &gradient[start..end]);
    }
    live.weights = next;
}

fn states(optimizer: &Optimizer, live: &Live) -> States {
    let planes = optimizer.planes().iter().zip(&live.planes);
    let mut states: States = planes.map(|(spec, plane)| (spec.name.to_owned(), plane.to_f32().into_owned())).collect();
    states.insert("p".into(), live.weights.clone());
    states
}
