//! The optimizer: a checked configuration that updates slices.
//!
//! Elementwise and stateless: all state is in the planes the caller keeps. The caller counts
//! steps and updates. Misuse by the caller (slices of unequal length, too few planes) panics;
//! bad configurations are refused by [`Optimizer::new`].

use crate::config::OptimizerConfig;
use crate::decay::{Decay, DecayInput};
use crate::error::{ConfigError, at_least_one};
use crate::gradient::{self, Pipeline};
use crate::group::{Group, TensorRule, without_output_suffix};
use crate::plane::PlaneSpec;
use crate::rule::{Rule, Slices};
use crate::schedule::Schedule;
use crate::step::StepFactors;

/// Elements handled between two looks at memory: a tile of gradient, weights and planes stays in
/// the first-level cache while the gradient pipeline and the rule pass over it.
const TILE: usize = 1024;

/// A validated, compiled optimizer. Shared freely between threads; holds no state of the run.
#[derive(Debug, Clone)]
pub struct Optimizer {
    lr: Schedule,
    decay: Decay,
    pipeline: Pipeline,
    groups: Vec<Group>,
    strip_name_suffix: bool,
    rule: Rule,
    planes: Vec<PlaneSpec>,
}

impl Optimizer {
    /// Checks and compiles `config`. `steps` is the length of the run, for schedules that do not
    /// name their own.
    ///
    /// # Errors
    /// [`ConfigError`] for a value out of range, a bad pattern, a setting nobody would read, or
    /// settings that contradict each other.
    pub fn new(config: &OptimizerConfig, steps: u64) -> Result<Self, ConfigError> {
        at_least_one("steps", steps)?;
        let decay = Decay::new(config, steps)?;
        let rule = Rule::new(config)?;
        let groups = config.groups.iter().map(|group| Group::new(group, steps));
        Ok(Self {
            lr: Schedule::new("lr", &config.lr, steps)?,
            pipeline: Pipeline::new(config, decay.mode)?,
            groups: groups.collect::<Result<_, _>>()?,
            strip_name_suffix: config.strip_name_suffix.unwrap_or(false),
            planes: rule.planes(),
            decay,
            rule,
        })
    }

    /// The state beside the weights, in the order [`Optimizer::update`] takes it.
    #[must_use]
    pub fn planes(&self) -> &[PlaneSpec] {
        &self.planes
    }

    /// Bytes of state per parameter, weights not counted.
    #[must_use]
    pub fn state_bytes_per_parameter(&self) -> usize {
        self.planes.len() * PlaneSpec::BYTES
    }

    /// What the groups say about a tensor. Call once per tensor, not per step.
    #[must_use]
    pub fn tensor(&self, name: &str, shape: &[usize]) -> TensorRule {
        let name = if self.strip_name_suffix { without_output_suffix(name) } else { name };
        let found = self.groups.iter().position(|group| group.matches(name, shape.len()));
        let group = found.map(|index| &self.groups[index]);
        let decay_mult = group.map_or(1.0, |group| group.decay_mult);
        TensorRule {
            group: found,
            group_name: group.map(|group| group.name.clone()),
            lr_mult: group.map_or(1.0, |group| group.lr_mult),
            decay_mult,
            decays: self.decay.acts_on(decay_mult),
        }
    }

    /// The numbers of one update of a tensor. `step` is the update number of the job, from 1
    /// (schedules see `step - 1`); `updates` the number of updates of this tensor, from 1, this
    /// one included (bias correction sees it).
    ///
    /// # Panics
    /// If either count is 0, or `rule` comes from another optimizer with more groups.
    #[must_use]
    pub fn factors(&self, rule: &TensorRule, step: u64, updates: u64) -> StepFactors {
        assert!(step >= 1 && updates >= 1, "updates are counted from 1");
        let done = step - 1;
        let lr_schedule = self.lr_schedule(rule);
        let lr = lr_schedule.value(done) * rule.lr_mult;
        let (rule_step, correction) = self.rule.step(lr, step, updates);
        let decay = self.decay.factor(&DecayInput {
            step: done,
            lr_schedule,
            lr_mult: rule.lr_mult,
            decay_mult: rule.decay_mult,
            correction,
        });
        StepFactors {
            lr,
            decay,
            gradient: self.pipeline.stages(decay),
            decay_step: self.decay.step(decay),
            rule: rule_step,
        }
    }

    fn lr_schedule(&self, rule: &TensorRule) -> &Schedule {
        let group = rule.group.and_then(|index| self.groups[index].lr.as_ref());
        group.unwrap_or(&self.lr)
    }

    /// Updates a slice of a tensor: reads `weights` and `gradient`, writes `next_weights` and
    /// `planes`. Elementwise: any split of a tensor into slices gives the same bits.
    ///
    /// # Panics
    /// If lengths differ or the number of planes is not that of [`Optimizer::planes`].
    pub fn update(
        &self,
        factors: &StepFactors,
        weights: &[f32],
        next_weights: &mut [f32],
        planes: &mut [&mut [f32]],
        gradient: &[f32],
    ) {
        self.check_lengths(weights, next_weights, planes, gradient);
        if factors.gradient.is_empty() {
            let slices = Slices::new(weights, next_weights, gradient, 0);
            return factors.rule.update(factors.decay_step, slices, planes);
        }
        let mut scratch = [0.0_f32; TILE];
        for (index, weights) in weights.chunks(TILE).enumerate() {
            let start = index * TILE;
            let end = start + weights.len();
            let tile = &mut scratch[..weights.len()];
            tile.copy_from_slice(&gradient[start..end]);
            gradient::run(&factors.gradient, weights, tile);
            let slices = Slices::new(weights, &mut next_weights[start..end], tile, start);
            factors.rule.update(factors.decay_step, slices, planes);
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
            let mut tile: Vec<&mut [f32]> = planes.iter_mut().map(|plane| &mut plane[start..end]).collect();
            self.update(factors, old, next, &mut tile, gradient);
            start = end;
        }
    }

    fn check_lengths(&self, weights: &[f32], next_weights: &[f32], planes: &[&mut [f32]], gradient: &[f32]) {
        let length = weights.len();
        assert_eq!(next_weights.len(), length, "next weights length");
        assert_eq!(gradient.len(), length, "gradient length");
        assert_eq!(planes.len(), self.planes.len(), "number of planes");
        for (plane, spec) in planes.iter().zip(&self.planes) {
            assert_eq!(plane.len(), length, "length of plane {}", spec.name);
        }
    }
}
