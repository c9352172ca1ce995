//! Updating arrays: slices, slices in place, whole tensors, and the sums a step needs first.
//!
//! One pass over memory. When the gradient pipeline has stages, it works on a tile of the
//! gradient that stays in the first-level cache between the pipeline and the rule.

use crate::gradient;
use crate::optimizer::Optimizer;
use crate::plane::Extent;
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
    /// If lengths differ, the number of planes is not that of [`Optimizer::planes`], a norm is
    /// still pending, or the rule [needs whole tensors](Optimizer::needs_whole_tensors).
    pub fn update(
        &self,
        factors: &StepFactors,
        weights: &[f32],
        next_weights: &mut [f32],
        planes: &mut [&mut [f32]],
        gradient: &[f32],
    ) {
        let lengths = planes.iter().map(|plane| plane.len());
        self.check_slice(weights.len(), gradient.len(), lengths);
        assert_eq!(next_weights.len(), weights.len(), "next weights length");
        if factors.gradient.is_empty() {
            let slices = Slices::new(weights, next_weights, gradient, 0);
            let decay = factors.decay_step;
            return factors.rule.update(self.path, decay, slices, planes);
        }
        let mut scratch = [0.0_f32; PIPELINE_TILE];
        let tiles = weights.chunks(PIPELINE_TILE).zip(gradient.chunks(PIPELINE_TILE));
        for (index, (weights, gradient)) in tiles.enumerate() {
            let start = index * PIPELINE_TILE;
            let tile = &mut scratch[..weights.len()];
            gradient::run(self.path, &factors.gradient, weights, gradient, tile);
            let next = &mut next_weights[start..start + tile.len()];
            let slices = Slices::new(weights, next, tile, start);
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
        planes: &mut [&mut [f32]],
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
            let mut tiles: Vec<_> = planes.map(|plane| &mut plane[start..end]).collect();
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
        planes: &mut [&mut [f32]],
        gradient: &[f32],
    ) {
        let mut factors = factors.clone();
        while let Some(reduction) = factors.pending() {
            assert_ne!(reduction, Reduction::GlobalNorm, "supply the global norm first");
            let read: Vec<&[f32]> = planes.iter().map(|plane| &**plane).collect();
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
            assert_eq!(plane.len(), spec.length(shape), "length of {}", spec.name);
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
    pub fn sums(&self, factors: &StepFactors, weights: &[f32], planes: &[&[f32]], gradient: &[f32]) -> Sums {
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
                let tile = &mut scratch[..weights.len()];
                gradient::run(self.path, ready, weights, gradient, tile);
                if ready.len() < stages.len() {
                    return Sums([reduce::squares(self.path, tile), 0.0]);
                }
                self.trust_sums(factors, weights, planes, tile, index * TILE)
            })
            .collect();
        Sums::combine(&nodes)
    }

    /// Squares of the weights and of LAMB's update over one tile.
    fn trust_sums(
        &self,
        factors: &StepFactors,
        weights: &[f32],
        planes: &[&[f32]],
        gradient: &[f32],
        start: usize,
    ) -> Sums {
        let (RuleStep::Lamb(step), [m, v]) = (&factors.rule, planes) else {
            panic!("a trust ratio is lamb's, with planes m and v");
        };
        let end = start + weights.len();
        let mut update = [0.0_f32; TILE];
        let update = &mut update[..weights.len()];
        let (m, v) = (&m[start..end], &v[start..end]);
        directions(self.path, step, weights, gradient, m, v, update);
        let of_weights = reduce::squares(self.path, weights);
        Sums([of_weights, reduce::squares(self.path, update)])
    }

    fn check_slice(&self, weights: usize, gradient: usize, planes: impl ExactSizeIterator<Item = usize>) {
        assert_eq!(gradient, weights, "gradient length");
        assert_eq!(planes.len(), self.planes().len(), "number of planes");
        for (length, spec) in planes.zip(self.planes()) {
            assert_eq!(spec.extent, Extent::Element, "use update_tensor");
            assert_eq!(length, weights, "length of plane {}", spec.name);
        }
    }
}
