//! Updating arrays: slices, slices in place, whole tensors, and the sums a step needs first.
//!
//! One pass over memory. The common pipelines run inside the rule's loop; any other works on a tile
//! of the gradient that stays in the first-level cache between the pipeline and the rule.

use crate::gradient;
use crate::kernel::Intake;
use crate::optimizer::Optimizer;
use crate::plane::{Extent, PlaneMut, PlaneRef};
use crate::reduce::{self, Reduction, Sums};
use crate::rule::{RuleStep, Slices, Tensor, directions};
use crate::step::StepFactors;

/// Elements summed at a time; a node of the tree of sums.
const TILE: usize = reduce::TILE;
/// Elements that pass through the gradient pipeline before the rule takes them. Measured on 1M
/// and 30M parameters with one L2 stage: 256 reaches 0.8 of the memory bound, 1,024 0.76 and
/// 4,096 0.7.
const PIPELINE_TILE: usize = 256;

impl Optimizer {
    /// Updates a slice of a tensor: reads `weights` and `gradient`, writes `next_weights` and
    /// `planes`. Elementwise: any split of a tensor into slices gives the same bits.
    ///
    /// # Panics
    /// If lengths differ, the planes are not those of [`Optimizer::planes`] in number and dtype, a
    /// norm is still pending, or the rule [needs whole tensors](Optimizer::needs_whole_tensors).
    pub fn update(
        &self,
        factors: &StepFactors,
        weights: &[f32],
        next_weights: &mut [f32],
        planes: &mut [PlaneMut<'_>],
        gradient: &[f32],
    ) {
        self.check_slice(weights.len(), gradient.len(), planes);
        assert_eq!(next_weights.len(), weights.len(), "next weights length");
        if let Some(intake) = gradient::intake(&factors.gradient) {
            let slices = Slices::new(weights, next_weights, gradient, intake);
            return factors.rule.update(self.path, factors.decay_step, slices, planes);
        }
        let mut scratch = [0.0_f32; PIPELINE_TILE];
        let tiles = weights.chunks(PIPELINE_TILE).zip(gradient.chunks(PIPELINE_TILE));
        for (index, (weights, gradient)) in tiles.enumerate() {
            let start = index * PIPELINE_TILE;
            let tile = &mut scratch[..weights.len()];
            gradient::run(self.path, &factors.gradient, weights, gradient, tile);
            let next = &mut next_weights[start..start + tile.len()];
            let slices = Slices::new(weights, next, tile, Intake::AsIs).at(start);
            factors.rule.update(self.path, factors.decay_step, slices, planes);
        }
    }

    /// [`Optimizer::update`] on one buffer: `weights` become the next weights. Same bits.
    ///
    /// # Panics
    /// As [`Optimizer::update`].
    pub fn update_in_place(
        &self,
        factors: &StepFactors,
        weights: &mut [f32],
        planes: &mut [PlaneMut<'_>],
        gradient: &[f32],
    ) {
        assert_eq!(weights.len(), gradient.len(), "gradient length");
        let mut old = [0.0_f32; TILE];
        let mut start = 0;
        for (next, gradient) in weights.chunks_mut(TILE).zip(gradient.chunks(TILE)) {
            let old = &mut old[..next.len()];
            old.copy_from_slice(next);
            let end = start + next.len();
            let planes = planes.iter_mut();
            let mut tiles: Vec<_> = planes.map(|plane| plane.slice_mut(start..end)).collect();
            self.update(factors, old, next, &mut tiles, gradient);
            start = end;
        }
    }

    /// Updates a whole tensor of `shape`, with its own norms; only a global norm must have been
    /// supplied. For every rule, and the only way for those that need whole tensors.
    ///
    /// # Panics
    /// If a length is not the one `shape` gives, or a global norm is pending.
    pub fn update_tensor(
        &self,
        factors: &StepFactors,
        shape: &[usize],
        weights: &[f32],
        next_weights: &mut [f32],
        planes: &mut [PlaneMut<'_>],
        gradient: &[f32],
    ) {
        let mut factors = factors.clone();
        while let Some(reduction) = factors.pending() {
            assert_ne!(reduction, Reduction::GlobalNorm, "supply the global norm first");
            let read: Vec<PlaneRef<'_>> = planes.iter().map(PlaneMut::view).collect();
            factors.supply(self.sums(&factors, weights, &read, gradient));
        }
        let RuleStep::Adafactor(rule) = &factors.rule else {
            return self.update(&factors, weights, next_weights, planes, gradient);
        };
        assert_eq!(weights.len(), shape.iter().product::<usize>(), "weights length");
        assert_eq!(next_weights.len(), weights.len(), "next weights length");
        assert_eq!(gradient.len(), weights.len(), "gradient length");
        assert_eq!(planes.len(), self.planes().len(), "number of planes");
        for (plane, spec) in planes.iter().zip(self.planes()) {
            assert_eq!(plane.len(), spec.length(shape), "length of plane {}", spec.name);
            assert_eq!(plane.view().dtype(), spec.dtype, "dtype of plane {}", spec.name);
        }
        let mut piped = vec![0.0; gradient.len()];
        gradient::run(self.path, &factors.gradient, weights, gradient, &mut piped);
        let tensor = Tensor { shape, weights, next: next_weights, gradient: &piped };
        rule.update(self.path, factors.decay_step, tensor, planes);
    }

    /// The sums that [`StepFactors::pending`] asks for, over a node of the tensor's tree: a run
    /// of 2^k elements that starts at a multiple of 2^k, the tail of the tensor, or all of it.
    /// Reads the state before the update. Combine nodes with [`Sums::combine`].
    ///
    /// # Panics
    /// If nothing is pending or lengths differ.
    #[must_use]
    pub fn sums(&self, factors: &StepFactors, weights: &[f32], planes: &[PlaneRef<'_>], gradient: &[f32]) -> Sums {
        let stages = &factors.gradient;
        let ready = stages.iter().position(|stage| stage.is_pending());
        let ready = &stages[..ready.unwrap_or(stages.len())];
        assert!(factors.pending().is_some(), "no reduction is pending");
        assert_eq!(gradient.len(), weights.len(), "gradient length");
        let mut scratch = [0.0_f32; TILE];
        let tiles = weights.chunks(TILE).zip(gradient.chunks(TILE));
        let nodes: Vec<_> = tiles
            .enumerate()
            .map(|(index, (weights, gradient))| {
                let seen = if ready.is_empty() {
                    gradient
                } else {
                    let tile = &mut scratch[..weights.len()];
                    gradient::run(self.path, ready, weights, gradient, tile);
                    tile
                };
                if ready.len() < stages.len() {
                    return Sums([reduce::squares(self.path, seen), 0.0]);
                }
                self.trust_sums(factors, weights, planes, seen, index * TILE)
            })
            .collect();
        Sums::combine(&nodes)
    }

    /// Squares of the weights and of LAMB's update over one tile.
    fn trust_sums(
        &self,
        factors: &StepFactors,
        weights: &[f32],
        planes: &[PlaneRef<'_>],
        gradient: &[f32],
        start: usize,
    ) -> Sums {
        let (RuleStep::Lamb(step), [m, v]) = (&factors.rule, planes) else {
            panic!("a trust ratio is lamb's, with planes m and v");
        };
        let end = start + weights.len();
        let mut update = [0.0_f32; TILE];
        let update = &mut update[..weights.len()];
        let moments = [m.slice(start..end), v.slice(start..end)];
        directions(self.path, step, weights, gradient, moments, update);
        let of_weights = reduce::squares(self.path, weights);
        Sums([of_weights, reduce::squares(self.path, update)])
    }

    fn check_slice(&self, weights: usize, gradient: usize, planes: &[PlaneMut<'_>]) {
        assert_eq!(gradient, weights, "gradient length");
        assert_eq!(planes.len(), self.planes().len(), "number of planes");
        for (plane, spec) in planes.iter().zip(self.planes()) {
            assert_eq!(spec.extent, Extent::Element, "use update_tensor");
            assert_eq!(plane.len(), weights, "length of plane {}", spec.name);
            assert_eq!(plane.view().dtype(), spec.dtype, "dtype of plane {}", spec.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimizerConfig;
    use crate::kernel::KernelPath;
    use crate::plane::Plane;
    use crate::rule::Slices;

    fn build(gradient: &str) -> Optimizer {
        let text = format!("algorithm = \"lion\"\nlr = 0.01\n{gradient}");
        let config: OptimizerConfig = toml::from_str(&text).unwrap();
        Optimizer::new(&config, 10).unwrap()
    }

    /// Values where a pipeline could go wrong.
    fn values(n: usize) -> Vec<f32> {
        let special = [0.0, -0.0, 1e-41, -1e-41, 0.5, -0.5, 3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 7.0];
        (0..n).map(|i| special[(i * i + i / 5) % special.len()]).collect()
    }

    /// Weights and momentum after one update, as text: it tells -0 from 0, and NaN is NaN.
    fn run(optimizer: &Optimizer, factors: &StepFactors, gradient: &[f32], fused: bool) -> String {
        let weights: Vec<f32> = values(gradient.len() + 3)[3..].to_vec();
        let mut next = vec![0.0; weights.len()];
        let mut plane = Plane::F32(vec![0.25; weights.len()]);
        if fused {
            optimizer.update(factors, &weights, &mut next, &mut [plane.view_mut()], gradient);
        } else {
            let mut piped = vec![0.0; weights.len()];
            gradient::run(optimizer.path, &factors.gradient, &weights, gradient, &mut piped);
            let slices = Slices::new(&weights, &mut next, &piped, Intake::AsIs);
            factors.rule.update(optimizer.path, factors.decay_step, slices, &mut [plane.view_mut()]);
        }
        format!("{next:?} {plane:?}")
    }

    const RESCALE: &str = "{ op = \"rescale\", by = 0.3 }";
    const LIMIT: &str = "{ op = \"clip_value\", at = 0.4 }";
    const L2: &str = "{ op = \"l2\" }";

    #[test]
    fn a_pipeline_inside_the_loop_gives_the_bits_of_a_pass_of_its_own() {
        let coupled = "weight_decay = { mode = \"l2\", value = 0.1 }";
        let decoupled = "weight_decay = { mode = \"decoupled\", value = 0.1 }";
        for (ops, decay) in [
            ([RESCALE, "", ""], decoupled),
            (["", LIMIT, ""], decoupled),
            ([RESCALE, LIMIT, ""], ""),
            (["", "", L2], coupled),
            ([RESCALE, "", L2], coupled),
            (["", LIMIT, L2], coupled),
            ([RESCALE, LIMIT, L2], coupled),
        ] {
            let ops: Vec<_> = ops.into_iter().filter(|op| !op.is_empty()).collect();
            let optimizer = build(&format!("gradient = [{}]\n{decay}", ops.join(", ")));
            let factors = optimizer.factors(&optimizer.tensor("w", &[1000]), 1, 1);
            assert!(gradient::intake(&factors.gradient).is_some(), "{ops:?} takes a pass of its own");
            for path in [KernelPath::Best, KernelPath::Avx2, KernelPath::Portable] {
                let optimizer = optimizer.clone().with_kernel_path(path);
                let (fused, apart) = [true, false].map(|fused| run(&optimizer, &factors, &values(1000), fused)).into();
                assert_eq!(fused, apart, "{ops:?} {path:?}");
            }
        }
    }

    #[test]
    fn other_orders_take_a_pass_of_their_own() {
        let coupled = "weight_decay = { mode = \"l2\", value = 0.1 }";
        for ops in [[LIMIT, RESCALE], [L2, LIMIT], [L2, RESCALE]] {
            let coupled = if ops.contains(&L2) { coupled } else { "" };
            let optimizer = build(&format!("gradient = [{}]\n{coupled}", ops.join(", ")));
            let factors = optimizer.factors(&optimizer.tensor("w", &[1000]), 1, 1);
            assert_eq!(gradient::intake(&factors.gradient), None, "{ops:?}");
            let (whole, apart) = [true, false].map(|whole| run(&optimizer, &factors, &values(1000), whole)).into();
            assert_eq!(whole, apart, "{ops:?}");
        }
    }
}
