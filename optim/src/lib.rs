//! Optimizers, weight decay and schedules as pure mathematics.
//!
//! What it is: the reference for how weight decay meets Adam and its relatives. It promises the
//! same bits on every x86-64 CPU, for any split of a tensor into slices, and agreement with the
//! libraries it imitates (`tests/golden`). It does no I/O, starts no thread, reads no clock and
//! keeps no global state.
//!
//! The map:
//! - [`OptimizerConfig`] (`config/`): what a job file says; every choice by name.
//! - [`Optimizer`] (`optimizer.rs`): the checked form; resolves a tensor once, then gives the
//!   factors of a step and updates slices.
//! - [`Plane`], [`PlaneMut`] (`plane.rs`): the state beside the weights, f32 or [`bf16`].
//! - `rule/`: one update rule per file, its factors in f64 and its loop in f32.
//! - `gradient.rs`, `decay.rs`, `group.rs`: the gradient pipeline, the decay, the groups.
//! - [`schedule`]: lr and decay as functions of the global step.
//!
//! ```
//! use halflife_optim::{Algorithm, Optimizer, OptimizerConfig, Plane, PlaneMut};
//!
//! let config = OptimizerConfig {
//!     algorithm: Some(Algorithm::Adam),
//!     lr: 0.1.into(),
//!     ..OptimizerConfig::default()
//! };
//! let optimizer = Optimizer::new(&config, 100)?;
//! let rule = optimizer.tensor("w", &[2]);
//! let factors = optimizer.factors(&rule, 1, 1);
//! let mut state: Vec<Plane> = optimizer.planes().iter().map(|spec| Plane::new(spec, 2)).collect();
//! let mut planes: Vec<PlaneMut<'_>> = state.iter_mut().map(Plane::view_mut).collect();
//! let mut next = [0.0; 2];
//! optimizer.update(&factors, &[1.0, -1.0], &mut next, &mut planes, &[0.5, -2.0]);
//! assert!((next[0] - 0.9).abs() < 1e-6 && (next[1] + 0.9).abs() < 1e-6);
//! # Ok::<(), halflife_optim::ConfigError>(())
//! ```

pub mod bf16;
pub mod config;
mod decay;
mod error;
mod formula;
mod gradient;
mod group;
mod half_life;
mod kernel;
mod ledger;
mod optimizer;
mod parameters;
mod plane;
mod reduce;
mod rule;
pub mod schedule;
mod step;
mod update;
mod warning;

pub use config::{
    Algorithm, BiasRounding, DecayMode, DecayOrder, DecayScale, EpsPlacement, GradientOp, GroupConfig, HyperRounding,
    MomentRounding, MomentumForm, NormForm, OptimizerConfig, Preset, Span, StateDtype, StepCounter, WeightDecayConfig,
};
pub use error::ConfigError;
pub use group::TensorRule;
pub use kernel::KernelPath;
pub use ledger::DecayLedger;
pub use optimizer::Optimizer;
pub use parameters::{Parameter, Parameters, StepError};
pub use plane::{Extent, Plane, PlaneMut, PlaneRef, PlaneSpec};
pub use reduce::{Reduction, Sums};
pub use schedule::{Curve, Schedule, ScheduleConfig};
pub use step::StepFactors;
pub use warning::DecayWarning;
