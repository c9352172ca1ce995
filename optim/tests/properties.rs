//! Facts that hold for any numbers: splits, builds of the loops, zero decay, spared tensors.

use halflife_optim::{
    Algorithm, Curve, DecayMode, DecayOrder, DecayScale, EpsPlacement, GradientOp, GroupConfig, KernelPath, Optimizer,
    OptimizerConfig, Plane, PlaneSpec, Schedule, StateDtype, StepFactors, WeightDecayConfig, bf16,
};
use proptest::prelude::*;

/// Any f32: normal, denormal, zero of either sign, huge; sometimes infinite or NaN.
fn wild() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => any::<f32>(),
        8 => -4.0_f32..4.0,
        1 => Just(0.0_f32),
        1 => Just(-0.0_f32),
        1 => Just(f32::from_bits(1)),
        1 => Just(f32::INFINITY),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(f32::NAN),
        1 => Just(-1e-41_f32),
    ]
}

fn tame() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0_f32), -4.0_f32..4.0, -1e-3_f32..1e-3]
}

fn elementwise_rules() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        Just(Algorithm::Adam),
        Just(Algorithm::NadamTorch),
        Just(Algorithm::NadamOptax),
        Just(Algorithm::Radam),
        Just(Algorithm::Sgd),
        Just(Algorithm::Lion),
    ]
}

fn decays() -> impl Strategy<Value = WeightDecayConfig> {
    let modes = prop_oneof![
        Just(DecayMode::None),
        Just(DecayMode::L2),
        Just(DecayMode::L1),
        Just(DecayMode::Decoupled),
        Just(DecayMode::Decoupled),
    ];
    let orders = prop_oneof![Just(DecayOrder::Before), Just(DecayOrder::Fused), Just(DecayOrder::After)];
    let scales = prop_oneof![Just(DecayScale::Lr), Just(DecayScale::CorrectedLr), Just(DecayScale::Nothing)];
    (modes, orders, scales, any::<bool>(), 0.001_f64..0.5).prop_map(|(mode, order, scale, cautious, value)| {
        let decoupled = mode == DecayMode::Decoupled;
        WeightDecayConfig {
            mode: Some(mode),
            value: (mode != DecayMode::None).then(|| value.into()),
            order: decoupled.then_some(order),
            scaled_by: decoupled.then_some(scale),
            cautious: decoupled.then_some(cautious && order != DecayOrder::After),
            ..WeightDecayConfig::default()
        }
    })
}

fn configs() -> impl Strategy<Value = OptimizerConfig> {
    let clip = prop_oneof![Just(None), Just(Some(GradientOp::ClipValue { at: 0.5 }))];
    let rules = (elementwise_rules(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (rules, decays(), clip, 1e-4_f64..0.1).prop_map(|((algorithm, amsgrad, hat, nesterov, half), decay, clip, lr)| {
        let adam = algorithm == Algorithm::Adam;
        let sgd = algorithm == Algorithm::Sgd;
        let second = !sgd && algorithm != Algorithm::Lion;
        let coupled = match decay.mode {
            Some(DecayMode::L2) => Some(GradientOp::L2),
            Some(DecayMode::L1) => Some(GradientOp::L1),
            _ => None,
        };
        OptimizerConfig {
            algorithm: Some(algorithm),
            lr: lr.into(),
            amsgrad: adam.then_some(amsgrad),
            eps_placement: (second && hat).then_some(EpsPlacement::Uncorrected),
            momentum: sgd.then_some(if amsgrad || nesterov { 0.9 } else { 0.0 }),
            nesterov: sgd.then_some(nesterov),
            state_dtype: (half && (!sgd || amsgrad || nesterov)).then_some(StateDtype::Bf16),
            gradient: clip.map(|clip| [clip].into_iter().chain(coupled).collect()),
            weight_decay: Some(decay),
            ..OptimizerConfig::default()
        }
    })
}

/// A plane that holds `values`, as far as its dtype can.
fn filled(spec: &PlaneSpec, values: &[f32]) -> Plane {
    match spec.dtype {
        StateDtype::Bf16 => Plane::Bf16(values.iter().map(|value| bf16::round(*value)).collect()),
        _ => Plane::F32(values.to_vec()),
    }
}

/// The next weights and planes of one update, cut into slices of `slice`, as bits.
fn run(optimizer: &Optimizer, factors: &StepFactors, arrays: &[(f32, f32, f32)], slice: usize) -> Vec<u32> {
    let weights: Vec<f32> = arrays.iter().map(|a| a.0).collect();
    let gradient: Vec<f32> = arrays.iter().map(|a| a.1).collect();
    // Second moments are never negative.
    let state: Vec<f32> = arrays.iter().map(|a| a.2.abs()).collect();
    let mut planes: Vec<Plane> = optimizer.planes().iter().map(|spec| filled(spec, &state)).collect();
    let mut next = vec![0.0; weights.len()];
    for start in (0..weights.len()).step_by(slice) {
        let end = (start + slice).min(weights.len());
        let mut cut: Vec<_> = planes.iter_mut().map(|plane| plane.slice_mut(start..end)).collect();
        optimizer.update(factors, &weights[start..end], &mut next[start..end], &mut cut, &gradient[start..end]);
    }
    // The bits of a NaN are the machine's affair; that it is NaN is ours.
    let bits = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
    planes.iter().flat_map(|plane| plane.to_f32().into_owned()).chain(next).map(bits).collect()
}

fn triples(one: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = Vec<(f32, f32, f32)>> {
    proptest::collection::vec((one.clone(), one.clone(), one), 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn neither_splits_nor_builds_of_the_loops_change_a_bit(
        config in configs(), arrays in triples(wild().boxed()), slice in 1_usize..40, t in 1_u64..2000,
    ) {
        let optimizer = Optimizer::new(&config, 2000).unwrap();
        let factors = optimizer.factors(&optimizer.tensor("w", &[8, 8]), t, t);
        let whole = run(&optimizer, &factors, &arrays, usize::MAX);
        prop_assert_eq!(&run(&optimizer, &factors, &arrays, slice), &whole);
        for path in [KernelPath::Portable, KernelPath::Avx2] {
            let optimizer = optimizer.clone().with_kernel_path(path);
            prop_assert_eq!(&run(&optimizer, &factors, &arrays, usize::MAX), &whole, "{:?}", path);
        }
    }

    #[test]
    fn zero_decay_is_the_same_bits_as_no_decay(
        config in configs(), arrays in triples(wild().boxed()), t in 1_u64..100,
    ) {
        let none = OptimizerConfig { weight_decay: None, gradient: None, ..config.clone() };
        let mut zero = OptimizerConfig { gradient: None, ..config };
        let decay = zero.weight_decay.as_mut().unwrap();
        decay.value = (decay.mode != Some(DecayMode::None)).then(|| 0.0.into());
        let (none, zero) = (Optimizer::new(&none, 100).unwrap(), Optimizer::new(&zero, 100).unwrap());
        let bits = |optimizer: &Optimizer| {
            let factors = optimizer.factors(&optimizer.tensor("w", &[8]), t, t);
            run(optimizer, &factors, &arrays, usize::MAX)
        };
        prop_assert_eq!(bits(&none), bits(&zero));
    }

    #[test]
    fn a_spared_tensor_is_the_same_bits_as_no_decay(
        config in configs(), arrays in triples(wild().boxed()), t in 1_u64..100,
    ) {
        let none = OptimizerConfig { weight_decay: None, gradient: None, ..config.clone() };
        let group = GroupConfig {
            name: "spared".into(), patterns: vec!["^b".into()], rank_max: None, lr_mult: 1.0, decay_mult: 0.0, lr: None,
        };
        let spared = OptimizerConfig { gradient: None, groups: vec![group], ..config };
        let (none, spared) = (Optimizer::new(&none, 100).unwrap(), Optimizer::new(&spared, 100).unwrap());
        let bits = |optimizer: &Optimizer| {
            let rule = optimizer.tensor("b", &[8]);
            assert!(!rule.decays());
            let factors = optimizer.factors(&rule, t, t);
            assert!(factors.decay() == 0.0);
            run(optimizer, &factors, &arrays, usize::MAX)
        };
        prop_assert_eq!(bits(&none), bits(&spared));
    }

    #[test]
    fn plain_sgd_cannot_tell_l2_from_decay_scaled_by_lr(
        arrays in triples(tame().boxed()), lr in 1e-3_f64..0.5, wd in 0.0_f64..0.5,
    ) {
        let of = |mode| {
            let decay = WeightDecayConfig { mode: Some(mode), value: Some(wd.into()), ..WeightDecayConfig::default() };
            let config = OptimizerConfig {
                algorithm: Some(Algorithm::Sgd), lr: lr.into(), weight_decay: Some(decay), ..OptimizerConfig::default()
            };
            let optimizer = Optimizer::new(&config, 1).unwrap();
            let factors = optimizer.factors(&optimizer.tensor("w", &[8]), 1, 1);
            run(&optimizer, &factors, &arrays, usize::MAX)
        };
        for (i, (l2, decoupled)) in of(DecayMode::L2).into_iter().zip(of(DecayMode::Decoupled)).enumerate() {
            let difference = (f32::from_bits(l2) - f32::from_bits(decoupled)).abs();
            prop_assert!(difference <= 1e-6 * (arrays[i].0.abs() + arrays[i].1.abs()), "{difference}");
        }
    }

    #[test]
    fn schedules_that_should_be_continuous_are(base in 0.1_f64..2.0, warmup in 0_u64..50, end in 0.0_f64..1.0) {
        let steps = None;
        for curve in [
            Curve::Linear { base, end, steps },
            Curve::Polynomial { base, end, power: 2.0, steps },
            Curve::Cosine { base, end, steps },
            Curve::InverseSqrt { base, timescale: 50 },
            Curve::Exponential { base, gamma: 0.99, every: 1, staircase: false },
        ] {
            let clock = Default::default();
            let whole = Curve::Warmup { steps: warmup, from: 0.0, clock, then: curve.into() };
            let schedule = Schedule::new("lr", &whole.into(), 1000).unwrap();
            let start = if warmup == 0 { base } else { 0.0 };
            prop_assert!((schedule.value(0) - start).abs() < 1e-12);
            prop_assert!((schedule.value(warmup) - base).abs() < 1e-12);
            for step in 0..1100 {
                let jump = (schedule.value(step + 1) - schedule.value(step)).abs();
                let steepest = if step < warmup { base / warmup as f64 } else { 0.02 * (base + end) };
                prop_assert!(jump <= steepest * (1.0 + 1e-9), "step {step}: {jump}");
            }
        }
    }
}

#[test]
fn a_run_that_ends_within_its_warmup_heads_for_where_the_rest_begins() {
    let steps = None;
    for curve in [
        Curve::Linear { base: 0.5, end: 0.0, steps },
        Curve::Polynomial { base: 0.5, end: 0.0, power: 2.0, steps },
        Curve::Cosine { base: 0.5, end: 0.0, steps },
    ] {
        let whole = Curve::Warmup { steps: 50, from: 0.0, clock: Default::default(), then: curve.into() };
        let schedule = Schedule::new("lr", &whole.into(), 10).unwrap();
        assert!((schedule.value(5) - 0.05).abs() < 1e-12, "{}", schedule.value(5));
    }
}
