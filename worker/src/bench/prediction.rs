//! What the weights at the sampled positions must be, after every step.
//!
//! The same optimizer on the same numbers in the same order, so the same bits: a step that was lost,
//! applied twice, at another's place or to another block shows at once. Only for rules that update each
//! element by itself; norms need the whole tensor, which nobody here computes.

use halflife_proto::job::Combine;
use halflife_proto::slots::SlotTree;
use halflife_server::optim::bf16;
use halflife_server::optim::{ConfigError, Optimizer, OptimizerConfig, Plane, PlaneMut, TensorRule};

use super::samples::{Samples, initial_weight};
use super::verification::{Mismatch, Verification};

/// How a prediction combines slots and how long the run is: what besides the optimizer decides.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// The job's slots.
    pub slots: SlotTree,
    /// How they combine.
    pub combine: Combine,
    /// Steps of the whole run.
    pub steps: u64,
}

/// What the weights look like when they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As the server holds them.
    Exact,
    /// Rounded to bf16 on the way.
    Bf16,
}

/// The weights and state at the sampled positions after some step.
#[derive(Debug)]
pub struct Prediction {
    optimizer: Optimizer,
    course: Course,
    seen: Seen,
    step: u64,
    tensors: Vec<Tensor>,
}

#[derive(Debug)]
struct Tensor {
    rule: TensorRule,
    weights: Vec<f32>,
    next: Vec<f32>,
    planes: Vec<Plane>,
    gradient: Vec<f32>,
}

impl Prediction {
    /// The state after step 0. `None` for a rule that needs norms or whole tensors.
    ///
    /// # Errors
    /// When the configuration is none.
    pub fn new(
        config: &OptimizerConfig,
        course: Course,
        seen: Seen,
        samples: &Samples,
    ) -> Result<Option<Prediction>, ConfigError> {
        let optimizer = Optimizer::new(config, course.steps)?;
        if optimizer.needs_whole_tensors() || !optimizer.reductions().is_empty() {
            return Ok(None);
        }
        let tensors = samples.tensors.iter().map(|tensor| {
            let elements = tensor.positions.len();
            Tensor {
                rule: optimizer.tensor(&tensor.name, &tensor.shape),
                weights: tensor.positions.iter().map(|position| initial_weight(*position)).collect(),
                next: vec![0.0; elements],
                planes: optimizer.planes().iter().map(|spec| Plane::new(spec, elements)).collect(),
                gradient: vec![0.0; elements],
            }
        });
        Ok(Some(Prediction { tensors: tensors.collect(), optimizer, course, seen, step: 0 }))
    }

    /// Compares an arena that is said to be the weights of `step` with what they must be.
    pub fn check(&mut self, step: u64, arena: &[f32], samples: &Samples, found: &mut Verification) {
        while self.step < step {
            self.advance(samples);
        }
        if step < self.step {
            return; // compared when it came first
        }
        // The result of the run is the servers' own weights, whatever the wire carries before.
        let seen = if step == self.course.steps { Seen::Exact } else { self.seen };
        for (tensor, sampled) in self.tensors.iter().zip(&samples.tensors) {
            for (expected, position) in tensor.weights.iter().zip(&sampled.positions) {
                let expected = seen.after_the_wire(*expected);
                if arena[*position].to_bits() != expected.to_bits() {
                    let (name, element) = (sampled.name.clone(), *position - sampled.begin);
                    found.note(Mismatch { step, tensor: name, element, expected, found: arena[*position] });
                }
            }
        }
        found.versions += 1;
    }

    fn advance(&mut self, samples: &Samples) {
        self.step += 1;
        let root = self.course.slots.root();
        let scale = match self.course.combine {
            Combine::Sum => 1.0,
            // Every slot has weight 1.
            Combine::Mean | Combine::WeightedMean => (1.0 / f64::from(root.count())) as f32,
        };
        for (tensor, sampled) in self.tensors.iter_mut().zip(&samples.tensors) {
            for (gradient, position) in tensor.gradient.iter_mut().zip(&sampled.positions) {
                *gradient = samples.sum(self.step, root, *position) * scale;
            }
            let factors = self.optimizer.factors(&tensor.rule, self.step, self.step);
            let mut planes: Vec<PlaneMut<'_>> = tensor.planes.iter_mut().map(Plane::view_mut).collect();
            self.optimizer.update(&factors, &tensor.weights, &mut tensor.next, &mut planes, &tensor.gradient);
            std::mem::swap(&mut tensor.weights, &mut tensor.next);
        }
    }
}

impl Seen {
    fn after_the_wire(self, value: f32) -> f32 {
        match self {
            Seen::Exact => value,
            Seen::Bf16 => bf16::widen(bf16::round(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::samples::Values;
    use crate::bench::shape::ModelShape;
    use halflife_client::Layout;
    use halflife_proto::ids::TensorIndex;
    use halflife_server::optim::Parameters;

    const STEPS: u64 = 12;
    const SLOTS: u32 = 3;

    /// A whole model, stepped by [`Optimizer::step`]: another way to the same weights.
    struct Whole {
        optimizer: Optimizer,
        samples: Samples,
        model: Parameters,
        layout: Layout,
        done: u64,
    }

    fn config() -> OptimizerConfig {
        let text = "algorithm = \"adam\"\nlr = { kind = \"cosine\", base = 0.1 }\n\
                    weight_decay = { mode = \"decoupled\", value = 0.1 }\n\
                    groups = [{ name = \"n\", patterns = [\"1$\"], decay_mult = 0.0 }]";
        halflife_proto::strict_toml::from_str(text).unwrap()
    }

    fn course() -> Course {
        Course { slots: SlotTree::new(SLOTS).unwrap(), combine: Combine::Mean, steps: STEPS }
    }

    impl Whole {
        fn new() -> Whole {
            let manifest = ModelShape::Parameters(1000).manifest().unwrap();
            let optimizer = Optimizer::new(&config(), STEPS).unwrap();
            let (samples, layout) = (Samples::of_model(&manifest, 64, Values::Spread), Layout::new(&manifest));
            let mut model = Parameters::default();
            for (tensor, index) in manifest.tensors().iter().zip(0..) {
                let weights = layout.range(TensorIndex(index)).map(initial_weight).collect();
                model.add(&optimizer, &tensor.name, &[tensor.shape[0] as usize], weights).unwrap();
            }
            Whole { optimizer, samples, model, layout, done: 0 }
        }

        /// Applies the gradient of `of` as the next step; the gradient is summed slot by slot.
        fn step(&mut self, of: u64) {
            let slot = |slot| {
                let mut arena = vec![0.0; 1000];
                self.samples.write_gradient(
                    &mut arena,
                    of,
                    halflife_proto::slots::SlotRange { begin: slot, end: slot + 1 },
                );
                arena
            };
            let [a, b, c] = [0, 1, 2].map(slot);
            let scale = (1.0 / f64::from(SLOTS)) as f32;
            let mean: Vec<f32> = (0..1000).map(|i| ((a[i] + b[i]) + c[i]) * scale).collect();
            let gradients: Vec<_> = (0..4).map(|index| Some(&mean[self.layout.range(TensorIndex(index))])).collect();
            self.done += 1;
            self.optimizer.step(&mut self.model, &gradients, self.done).unwrap();
        }

        fn arena(&self) -> Vec<f32> {
            self.model.tensors().iter().flat_map(|tensor| tensor.weights().to_vec()).collect()
        }

        fn verify(&self, prediction: &mut Prediction, step: u64) -> Verification {
            let mut found = Verification::default();
            prediction.check(step, &self.arena(), &self.samples, &mut found);
            found
        }

        fn prediction(&self) -> Prediction {
            Prediction::new(&config(), course(), Seen::Exact, &self.samples).unwrap().unwrap()
        }
    }

    #[test]
    fn a_prediction_is_the_optimizer_over_whole_tensors() {
        let mut whole = Whole::new();
        let mut prediction = whole.prediction();
        assert_eq!(whole.verify(&mut prediction, 0).mismatches, 0);
        for step in 1..=STEPS {
            whole.step(step);
            let found = whole.verify(&mut prediction, step);
            assert_eq!((found.mismatches, found.versions), (0, 1), "{:?}", found.first);
        }
    }

    #[test]
    fn a_lost_a_doubled_and_a_swapped_step_are_found() {
        for (applied, said) in
            [(vec![1, 2, 4], 4), (vec![1, 2, 3], 4), (vec![1, 2, 2], 3), (vec![1, 3, 2], 3), (vec![2, 1], 2)]
        {
            let mut whole = Whole::new();
            applied.iter().for_each(|step| whole.step(*step));
            let found = whole.verify(&mut whole.prediction(), said);
            assert!(found.mismatches > 0, "{applied:?}");
            assert_eq!(found.first.map(|first| first.step), Some(said));
        }
    }

    #[test]
    fn two_blocks_in_each_others_place_are_found() {
        let mut whole = Whole::new();
        whole.step(1);
        let mut arena = whole.arena();
        arena.swap(0, 64);
        let mut found = Verification::default();
        whole.prediction().check(1, &arena, &whole.samples, &mut found);
        assert_eq!(found.mismatches, 2);
    }

    #[test]
    fn weights_rounded_on_the_way_are_compared_rounded() {
        let mut whole = Whole::new();
        whole.step(1);
        let rounded: Vec<f32> = whole.arena().iter().map(|value| bf16::widen(bf16::round(*value))).collect();
        let mut found = Verification::default();
        let mut prediction = Prediction::new(&config(), course(), Seen::Bf16, &whole.samples).unwrap().unwrap();
        prediction.check(1, &rounded, &whole.samples, &mut found);
        assert_eq!(found.mismatches, 0);
        whole.prediction().check(1, &rounded, &whole.samples, &mut found);
        assert!(found.mismatches > 0);
        (2..=STEPS).for_each(|step| whole.step(step));
        let mut found = Verification::default();
        prediction.check(STEPS, &whole.arena(), &whole.samples, &mut found);
        assert_eq!(found.mismatches, 0, "the result is not rounded");
    }

    #[test]
    fn a_rule_with_norms_is_not_predicted() {
        let text = "algorithm = \"lamb\"\nlr = 0.1";
        let lamb = halflife_proto::strict_toml::from_str(text).unwrap();
        assert!(Prediction::new(&lamb, course(), Seen::Exact, &Whole::new().samples).unwrap().is_none());
    }
}
