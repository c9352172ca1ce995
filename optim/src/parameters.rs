//! A model's tensors in one process: the optimizer without a server.
//!
//! Holds weights, planes and counts; [`Optimizer::step`] updates all tensors, with norms over
//! tensors and model where the configuration asks for them.

use crate::group::TensorRule;
use crate::optimizer::Optimizer;
use crate::plane::{Plane, PlaneMut, PlaneRef, PlaneSpec};
use crate::reduce::{Reduction, Sums};
use crate::step::StepFactors;

/// One tensor with its state.
#[derive(Debug, Clone)]
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    rule: TensorRule,
    updates: u64,
    weights: Vec<f32>,
    next: Vec<f32>,
    planes: Vec<Plane>,
    specs: Vec<PlaneSpec>,
}

impl Parameter {
    /// The tensor's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weights, row-major.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The plane called `name`, such as `m`.
    #[must_use]
    pub fn plane(&self, name: &str) -> Option<&Plane> {
        let index = self.specs.iter().position(|spec| spec.name == name)?;
        Some(&self.planes[index])
    }

    /// What the groups say about the tensor.
    #[must_use]
    pub fn rule(&self) -> &TensorRule {
        &self.rule
    }

    /// How often the tensor was updated.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.updates
    }

    fn sums(&self, optimizer: &Optimizer, factors: &StepFactors, gradient: &[f32]) -> Sums {
        let planes: Vec<PlaneRef<'_>> = self.planes.iter().map(Plane::view).collect();
        optimizer.sums(factors, &self.weights, &planes, gradient)
    }

    fn update(&mut self, optimizer: &Optimizer, factors: &StepFactors, gradient: &[f32]) {
        let mut planes: Vec<PlaneMut<'_>> = self.planes.iter_mut().map(Plane::view_mut).collect();
        optimizer.update_tensor(factors, &self.shape, &self.weights, &mut self.next, &mut planes, gradient);
        std::mem::swap(&mut self.weights, &mut self.next);
        self.updates += 1;
    }
}

/// The tensors of a model, in manifest order.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    tensors: Vec<Parameter>,
}

impl Parameters {
    /// The tensors, in the order they were added.
    #[must_use]
    pub fn tensors(&self) -> &[Parameter] {
        &self.tensors
    }

    /// Adds a tensor with its initial weights, row-major.
    ///
    /// # Errors
    /// [`StepError::Length`] when `shape` does not hold as many weights.
    pub fn add(
        &mut self,
        optimizer: &Optimizer,
        name: impl Into<String>,
        shape: &[usize],
        weights: Vec<f32>,
    ) -> Result<(), StepError> {
        let name = name.into();
        let elements = shape.iter().product::<usize>();
        if weights.len() != elements {
            return Err(StepError::Length { tensor: name, expected: elements, found: weights.len() });
        }
        let planes = optimizer.planes().iter();
        self.tensors.push(Parameter {
            rule: optimizer.tensor(&name, shape),
            shape: shape.to_vec(),
            updates: 0,
            next: weights.clone(),
            planes: planes.map(|spec| Plane::new(spec, spec.length(shape))).collect(),
            specs: optimizer.planes().to_vec(),
            weights,
            name,
        });
        Ok(())
    }
}

/// Gradients that do not fit the tensors. Nothing was updated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Not one gradient (or absence) per tensor.
    #[error("expected one gradient for each of {expected} tensors, got {found}")]
    Count {
        /// Number of tensors.
        expected: usize,
        /// Number of gradients.
        found: usize,
    },
    /// An array of the wrong length.
    #[error("tensor {tensor:?}: expected {expected} elements, got {found}")]
    Length {
        /// Name of the tensor.
        tensor: String,
        /// Elements of the tensor.
        expected: usize,
        /// Elements that came.
        found: usize,
    },
    /// Step 0: updates are counted from 1.
    #[error("steps are counted from 1, got 0")]
    StepZero,
}

impl Optimizer {
    /// Updates every tensor that has a gradient. A tensor without one is skipped: no decay, no
    /// moment decay, and its count does not move. `step` is the update number, from 1.
    ///
    /// ```
    /// use halflife_optim::{Optimizer, OptimizerConfig, Parameters};
    ///
    /// let config = OptimizerConfig { lr: 0.01.into(), ..OptimizerConfig::default() };
    /// let adam = Optimizer::new(&config, 10)?;
    /// let mut model = Parameters::default();
    /// model.add(&adam, "w", &[2, 2], vec![1.0; 4])?;
    /// for step in 1..=10 {
    ///     let gradient: Vec<f32> = model.tensors()[0].weights().iter().map(|w| 2.0 * w).collect();
    ///     adam.step(&mut model, &[Some(&gradient)], step)?;
    /// }
    /// assert!(model.tensors()[0].weights()[0] < 0.91);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`StepError`] when the gradients do not fit; nothing is updated then.
    pub fn step(&self, parameters: &mut Parameters, gradients: &[Option<&[f32]>], step: u64) -> Result<(), StepError> {
        check(parameters, gradients, step)?;
        let mut factors: Vec<_> =
            parameters.tensors.iter().map(|tensor| self.factors(&tensor.rule, step, tensor.updates + 1)).collect();
        self.supply_norms(parameters, gradients, &mut factors);
        for ((tensor, gradient), factors) in parameters.tensors.iter_mut().zip(gradients).zip(&factors) {
            if let Some(gradient) = gradient {
                tensor.update(self, factors, gradient);
            }
        }
        Ok(())
    }

    /// Supplies every norm, all tensors in lockstep: a global one needs them all.
    fn supply_norms(&self, parameters: &Parameters, gradients: &[Option<&[f32]>], factors: &mut [StepFactors]) {
        for reduction in self.reductions() {
            // The tree runs over all tensors; one without a gradient adds zero.
            let tensors = parameters.tensors.iter().zip(gradients).zip(&*factors);
            let sums = tensors.map(|((tensor, gradient), factors)| match gradient {
                Some(gradient) => tensor.sums(self, factors, gradient),
                None => Sums::default(),
            });
            let sums: Vec<Sums> = sums.collect();
            let whole = Sums::combine(&sums);
            for (factors, own) in factors.iter_mut().zip(sums) {
                factors.supply(if reduction == Reduction::GlobalNorm { whole } else { own });
            }
        }
    }
}

fn check(parameters: &Parameters, gradients: &[Option<&[f32]>], step: u64) -> Result<(), StepError> {
    if step == 0 {
        return Err(StepError::StepZero);
    }
    if gradients.len() != parameters.tensors.len() {
        return Err(StepError::Count { expected: parameters.tensors.len(), found: gradients.len() });
    }
    for (tensor, gradient) in parameters.tensors.iter().zip(gradients) {
        let found = gradient.map_or(tensor.weights.len(), <[f32]>::len);
        if found != tensor.weights.len() {
            return Err(StepError::Length { tensor: tensor.name.clone(), expected: tensor.weights.len(), found });
        }
    }
    Ok(())
}
