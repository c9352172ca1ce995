//! The optimizer: a checked configuration that updates slices.
//!
//! Stateless: all state is in the planes the caller keeps. The caller counts steps and updates.
//! Misuse by the caller (slices of unequal length, too few planes, a norm not supplied) panics;
//! bad configurations are refused by [`Optimizer::new`].

use crate::config::{DecayMode, DecayScale, OptimizerConfig, filled};
use crate::decay::{Decay, DecayInput};
use crate::error::{ConfigError, at_least_one};
use crate::gradient::Pipeline;
use crate::group::{Group, TensorRule, without_output_suffix};
use crate::half_life;
use crate::kernel::KernelPath;
use crate::plane::{Extent, PlaneSpec};
use crate::reduce::Reduction;
use crate::rule::{Rule, StepInput};
use crate::schedule::Schedule;
use crate::step::StepFactors;
use crate::warning::{self, DecayWarning};

/// A validated, compiled optimizer. Shared freely between threads; holds no state of the run.
///
/// One step of one tensor: [`Optimizer::factors`]; while [`StepFactors::pending`] asks for a
/// norm, [`Optimizer::sums`] and [`StepFactors::supply`]; then [`Optimizer::update`] on any
/// slices. [`Optimizer::step`] does all of it for whole models in one process.
#[derive(Debug, Clone)]
pub struct Optimizer {
    lr: Schedule,
    lr_peak: f64,
    pub(crate) decay: Decay,
    pipeline: Pipeline,
    groups: Vec<Group>,
    strip_name_suffix: bool,
    rule: Rule,
    planes: Vec<PlaneSpec>,
    pub(crate) path: KernelPath,
    pub(crate) run_steps: u64,
    pub(crate) moments_warning: Option<DecayWarning>,
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
        let config = &config.expanded()?;
        let decay = Decay::new(config, steps)?;
        let rule = Rule::new(config)?;
        let dtype = config.state_dtype.unwrap_or_default();
        let groups = config.groups.iter().map(|group| Group::new(group, steps));
        let mut optimizer = Self {
            lr: Schedule::new("lr", &config.lr, steps)?,
            lr_peak: 0.0,
            pipeline: Pipeline::new(config, decay.mode)?,
            groups: groups.collect::<Result<_, _>>()?,
            strip_name_suffix: filled(config.strip_name_suffix),
            planes: rule.planes().into_iter().map(|plane| plane.stored_as(dtype)).collect(),
            decay,
            rule,
            path: KernelPath::Best,
            run_steps: steps,
            moments_warning: warning::of_moments(config),
        };
        optimizer.find_peaks();
        if let Some(exponent) = half_life::wanted_exponent(config)? {
            let value = optimizer.solve_decay(exponent)?;
            optimizer.decay.set_value(value);
        }
        Ok(optimizer)
    }

    /// The same optimizer on another build of the loops. For tests and measurements: the bits do
    /// not change.
    #[must_use]
    pub fn with_kernel_path(mut self, path: KernelPath) -> Self {
        self.path = path;
        self
    }

    /// Looks up the largest lr of the run, for decay scaled by it.
    fn find_peaks(&mut self) {
        if self.decay.needs_peak() {
            self.lr_peak = self.lr.peak(self.run_steps);
            for group in &mut self.groups {
                group.lr_peak = group.lr.as_ref().map(|lr| lr.peak(self.run_steps));
            }
        }
    }

    /// The decay value under which a tensor of no group has `exponent` per step on average.
    fn solve_decay(&self, exponent: f64) -> Result<f64, ConfigError> {
        // The value is 1 until it is solved for: the factor is its coefficient.
        let rule = TensorRule::ungrouped();
        let coefficient = |done: u64| self.decay_factor(&rule, done + 1, done + 1);
        half_life::solve(coefficient, self.run_steps, exponent)
    }

    /// The same optimizer with a decay value of 1 under another scaling: its factors are the
    /// coefficients of a value to be found.
    pub(crate) fn with_unit_decay(&self, scale: DecayScale) -> Self {
        let mut other = self.clone();
        other.decay.scale = scale;
        other.decay.set_value(1.0);
        other.find_peaks();
        other
    }

    /// The state beside the weights, in the order [`Optimizer::update`] takes it.
    #[must_use]
    pub fn planes(&self) -> &[PlaneSpec] {
        &self.planes
    }

    /// Bytes of state per parameter, weights not counted. Adafactor's few are not counted.
    #[must_use]
    pub fn state_bytes_per_parameter(&self) -> usize {
        let full = |plane: &&PlaneSpec| plane.extent == Extent::Element;
        self.planes.iter().filter(full).map(|plane| plane.dtype.bytes()).sum()
    }

    /// The norms every step needs before it can be applied, in order. Empty: slices are updated
    /// as soon as their gradient is complete.
    #[must_use]
    pub fn reductions(&self) -> Vec<Reduction> {
        let of_rule = self.rule.reduction();
        self.pipeline.reductions().chain(of_rule).collect()
    }

    /// Whether a tensor must be updated whole, by [`Optimizer::update_tensor`] (Adafactor).
    #[must_use]
    pub fn needs_whole_tensors(&self) -> bool {
        matches!(self.rule, Rule::Adafactor(_))
    }

    /// The learning-rate schedule of tensors whose group has none of its own.
    #[must_use]
    pub fn lr_schedule(&self) -> &Schedule {
        &self.lr
    }

    /// What the groups say about a tensor. Call once per tensor, not per step. The first group
    /// that matches wins.
    #[must_use]
    pub fn tensor(&self, name: &str, shape: &[usize]) -> TensorRule {
        let name = if self.strip_name_suffix { without_output_suffix(name) } else { name };
        let mut groups = self.groups.iter();
        match groups.position(|group| group.matches(name, shape.len())) {
            Some(index) => self.rule_of_group(index),
            None => TensorRule { decays: self.decay.acts_on(1.0), ..TensorRule::ungrouped() },
        }
    }

    /// What holds for tensors of no group, then for those of each group in the order written:
    /// for reports about a run whose tensors are not known.
    #[must_use]
    pub fn group_rules(&self) -> Vec<TensorRule> {
        let ungrouped = TensorRule { decays: self.decay.acts_on(1.0), ..TensorRule::ungrouped() };
        std::iter::once(ungrouped).chain((0..self.groups.len()).map(|index| self.rule_of_group(index))).collect()
    }

    pub(crate) fn rule_of_group(&self, index: usize) -> TensorRule {
        let group = &self.groups[index];
        TensorRule {
            group: Some(index),
            group_name: Some(group.name.clone()),
            lr_mult: group.lr_mult,
            decay_mult: group.decay_mult,
            decays: self.decay.acts_on(group.decay_mult),
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
        let (lr, _) = self.lr_of(rule, step);
        let (rule_step, _) = self.rule_step(rule, lr, step, updates);
        let decay = self.decay_factor(rule, step, updates);
        StepFactors {
            lr,
            decay,
            decoupled: self.decay.mode == DecayMode::Decoupled,
            gradient: self.pipeline.stages(decay),
            decay_step: self.decay.step(decay),
            rule: rule_step,
        }
    }

    /// The lr of a tensor, and the schedule it follows.
    pub(crate) fn lr_of(&self, rule: &TensorRule, step: u64) -> (f64, &Schedule) {
        assert!(step >= 1, "steps are counted from 1");
        let group = rule.group.and_then(|index| self.groups[index].lr.as_ref());
        let schedule = group.unwrap_or(&self.lr);
        (schedule.value(step - 1) * rule.lr_mult, schedule)
    }

    fn rule_step(&self, rule: &TensorRule, lr: f64, step: u64, updates: u64) -> (crate::rule::RuleStep, f64) {
        assert!(updates >= 1, "updates are counted from 1");
        self.rule.step(StepInput { lr, step, updates, inner_decay: self.decay.inner(step - 1, rule.decay_mult) })
    }

    pub(crate) fn decay_factor(&self, rule: &TensorRule, step: u64, updates: u64) -> f64 {
        let (lr, lr_schedule) = self.lr_of(rule, step);
        let own_peak = rule.group.and_then(|index| self.groups[index].lr_peak);
        let corrected = self.decay.needs_correction();
        let correction = if corrected { self.rule_step(rule, lr, step, updates).1 } else { 1.0 };
        self.decay.factor(&DecayInput {
            step: step - 1,
            lr_schedule,
            lr_peak: own_peak.unwrap_or(self.lr_peak),
            lr_mult: rule.lr_mult,
            decay_mult: rule.decay_mult,
            correction,
        })
    }
}
