//! Rules that look beyond a slice: clips by norm, trust ratios, whole tensors.

use halflife_optim::{KernelPath, Optimizer, OptimizerConfig, Parameters, Plane, Reduction, StepError, Sums};

fn build(text: &str) -> Optimizer {
    let config: OptimizerConfig = toml::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    Optimizer::new(&config, 100).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Weights after one SGD step of lr 1 from zero: minus the gradient that the rule saw.
fn seen(gradient_ops: &str, gradients: &[&[f32]]) -> Vec<Vec<f32>> {
    let optimizer = build(&format!("algorithm = \"sgd\"\nlr = 1.0\ngradient = [{gradient_ops}]"));
    let mut model = Parameters::default();
    for (index, gradient) in gradients.iter().enumerate() {
        model.add(&optimizer, format!("t{index}"), &[gradient.len()], vec![0.0; gradient.len()]).expect("tensor");
    }
    let gradients: Vec<_> = gradients.iter().map(|&gradient| Some(gradient)).collect();
    optimizer.step(&mut model, &gradients, 1).expect("step");
    model.tensors().iter().map(|tensor| tensor.weights().iter().map(|w| -w).collect()).collect()
}

fn clip(op: &str, form: &str, max: f64) -> String {
    format!("{{ op = \"{op}\", max_norm = {max:?}, form = \"{form}\" }}")
}

#[test]
fn the_four_forms_differ_only_where_they_are_known_to() {
    // The norm is exactly 5.
    for (form, max, expected) in [
        ("torch", 5.0, 3.0 * (5.0 / (5.0 + 1e-6))),
        ("torch", 10.0, 3.0),
        ("tf", 5.0, 3.0),
        ("tf", 2.5, 1.5),
        ("optax", 5.0, 3.0),
        ("optax", 2.5, 1.5),
        ("optax", 10.0, 3.0),
        ("caffe", 5.0, 3.0),
        ("caffe", 2.5, 1.5),
        ("caffe", 10.0, 3.0),
    ] {
        let clipped = seen(&clip("clip_global_norm", form, max), &[&[3.0], &[-4.0]]);
        assert!((f64::from(clipped[0][0]) - expected).abs() < 3e-7, "{form} {max}: {clipped:?}");
    }
}

#[test]
fn a_clip_per_tensor_leaves_other_tensors_alone() {
    let clipped = seen(&clip("clip_norm", "tf", 5.0), &[&[30.0, 40.0], &[3.0, 4.0]]);
    assert_eq!(clipped, [[3.0, 4.0], [3.0, 4.0]]);
}

#[test]
fn clips_see_what_the_operations_before_them_left() {
    let first = format!("{{ op = \"rescale\", by = 0.1 }}, {}", clip("clip_global_norm", "tf", 5.0));
    assert_eq!(seen(&first, &[&[30.0, 40.0]]), [[3.0, 4.0]]);
    let twice = format!("{}, {}", clip("clip_norm", "tf", 5.0), clip("clip_global_norm", "tf", 5.0));
    let clipped = seen(&twice, &[&[30.0, 40.0], &[0.0, 0.0]]);
    assert_eq!(clipped, [[3.0, 4.0], [0.0, 0.0]]);
}

#[test]
fn a_zero_gradient_stays_zero_under_every_clip() {
    for form in ["torch", "tf", "optax", "caffe"] {
        assert_eq!(seen(&clip("clip_global_norm", form, 1.0), &[&[0.0, 0.0]]), [[0.0, 0.0]], "{form}");
    }
}

#[test]
fn blocks_of_any_size_clip_to_the_same_bits() {
    let text = "algorithm = \"lamb\"\nlr = 0.1\nweight_decay = { mode = \"decoupled\", value = 0.1 }\n\
                gradient = [{ op = \"clip_global_norm\", max_norm = 0.5 }, { op = \"clip_norm\", max_norm = 0.1 }]";
    for dtype in ["f32", "bf16"] {
        let optimizer = build(&format!("state_dtype = \"{dtype}\"\n{text}"));
        assert_eq!(optimizer.reductions(), [Reduction::GlobalNorm, Reduction::TensorNorm, Reduction::TrustRatio]);
        blocks_change_no_bit(&optimizer);
    }
}

/// Of a lamb with norms, in sums and update.
fn blocks_change_no_bit(optimizer: &Optimizer) {
    let n = 5000;
    let gradient: Vec<f32> = (0..n).map(|i| ((i * 7919 % 1013) as f32 - 500.0) * 1e-3).collect();
    let weights: Vec<f32> = (0..n).map(|i| ((i * 104_729 % 997) as f32 - 400.0) * 1e-2).collect();
    let run = |block: usize, path: KernelPath| {
        let optimizer = optimizer.clone().with_kernel_path(path);
        let mut factors = optimizer.factors(&optimizer.tensor("w", &[n]), 1, 1);
        let mut state: Vec<Plane> = optimizer.planes().iter().map(|spec| Plane::new(spec, n)).collect();
        while factors.pending().is_some() {
            let nodes: Vec<Sums> = (0..n)
                .step_by(block)
                .map(|start| {
                    let cut = start..(start + block).min(n);
                    let planes: Vec<_> = state.iter().map(|plane| plane.slice(cut.clone())).collect();
                    optimizer.sums(&factors, &weights[cut.clone()], &planes, &gradient[cut])
                })
                .collect();
            factors.supply(Sums::combine(&nodes));
        }
        let mut next = vec![0.0; n];
        let mut planes: Vec<_> = state.iter_mut().map(Plane::view_mut).collect();
        optimizer.update(&factors, &weights, &mut next, &mut planes, &gradient);
        (next.iter().map(|w| w.to_bits()).collect::<Vec<_>>(), state)
    };
    let whole = run(8192, KernelPath::Best);
    for block in [1, 16, 256, 1024, 4096] {
        assert_eq!(run(block, KernelPath::Best), whole, "blocks of {block}");
    }
    assert_eq!(run(8192, KernelPath::Portable), whole);
    assert_eq!(run(64, KernelPath::Avx2), whole);
}

#[test]
fn lamb_takes_a_ratio_of_one_when_either_norm_is_zero() {
    let step = |weight: f32, gradient: f32| {
        let optimizer = build("algorithm = \"lamb\"\nlr = 0.1");
        let mut model = Parameters::default();
        model.add(&optimizer, "w", &[1], vec![weight]).unwrap();
        optimizer.step(&mut model, &[Some(&[gradient])], 1).unwrap();
        model.tensors()[0].weights()[0]
    };
    assert!((step(0.0, 3.0) + 0.1).abs() < 1e-6);
    assert_eq!(step(2.0, 0.0).to_bits(), 2.0_f32.to_bits());
    assert!((step(2.0, 3.0) - 1.8).abs() < 1e-6);
}

#[test]
fn adafactor_keeps_rows_and_columns_of_every_trailing_matrix() {
    let optimizer = build("algorithm = \"adafactor_torch\"\nlr = 0.01");
    let lengths = |shape: &[usize]| -> Vec<usize> { optimizer.planes().iter().map(|p| p.length(shape)).collect() };
    assert_eq!(lengths(&[2, 3, 5]), [6, 10, 0]);
    assert_eq!(lengths(&[3, 5]), [3, 5, 0]);
    assert_eq!(lengths(&[5]), [0, 0, 5]);
    assert_eq!(lengths(&[]), [0, 0, 1]);
    // Two matrices in one tensor move as they would alone: their rms agree.
    let weights: Vec<f32> = (0..12).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let gradient = [1.0_f32, -2.0, 3.0, 4.0, 5.0, -6.0];
    let mut model = Parameters::default();
    model.add(&optimizer, "both", &[2, 2, 3], weights.clone()).unwrap();
    model.add(&optimizer, "one", &[2, 3], weights[..6].to_vec()).unwrap();
    let twice: Vec<f32> = gradient.iter().chain(&gradient).copied().collect();
    for step in 1..=5 {
        optimizer.step(&mut model, &[Some(&twice), Some(&gradient)], step).unwrap();
    }
    let [both, one] = model.tensors() else { panic!("two tensors") };
    for (a, b) in both.weights().iter().zip(one.weights().iter().chain(one.weights())) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn gradients_that_do_not_fit_are_refused_and_change_nothing() {
    let optimizer = build("lr = 0.1");
    let mut model = Parameters::default();
    let length = |expected, found| StepError::Length { tensor: "w".into(), expected, found };
    assert_eq!(model.add(&optimizer, "w", &[3], vec![1.0; 2]), Err(length(3, 2)));
    model.add(&optimizer, "w", &[2], vec![1.0; 2]).unwrap();
    assert_eq!(optimizer.step(&mut model, &[], 1), Err(StepError::Count { expected: 1, found: 0 }));
    assert_eq!(optimizer.step(&mut model, &[Some(&[1.0])], 1), Err(length(2, 1)));
    assert_eq!(optimizer.step(&mut model, &[None], 0), Err(StepError::StepZero));
    optimizer.step(&mut model, &[None], 1).unwrap();
    assert_eq!((model.tensors()[0].weights(), model.tensors()[0].updates()), (&[1.0, 1.0][..], 0));
}

#[test]
fn adafactor_limits_its_step_and_its_scales() {
    let step = |weight: f32, gradient: &[f32], shape: &[usize], lr: f64, steps: u64| {
        // A clip that never acts lets the size of U show.
        let optimizer = build(&format!("algorithm = \"adafactor_torch\"\nlr = {lr:?}\nupdate_clip = 1e9"));
        let mut model = Parameters::default();
        model.add(&optimizer, "w", shape, vec![weight; gradient.len()]).expect("tensor");
        let mut before = weight;
        for step in 1..=steps {
            before = model.tensors()[0].weights()[0];
            optimizer.step(&mut model, &[Some(gradient)], step).expect("step");
        }
        (f64::from(before), f64::from(before - model.tensors()[0].weights()[0]))
    };
    // A constant gradient gives U = 1. lr is at most 1/sqrt(t), and relative to rms(w).
    let (before, moved) = step(1.0, &[2.0], &[1], 0.9, 4);
    assert!((moved - before.abs() * 0.5).abs() < 1e-6, "{before} {moved}");
    let (_, moved) = step(1.0, &[2.0], &[1], 0.1, 1);
    assert!((moved - 0.1).abs() < 1e-6, "{moved}");
    // So does one of a matrix: var = row col / mean(row) = 4.
    let (_, moved) = step(1.0, &[2.0; 12], &[3, 4], 0.1, 1);
    assert!((moved - 0.1).abs() < 1e-6, "{moved}");
    // rms(w) counts as at least eps2.
    let (_, moved) = step(1e-6, &[2.0], &[1], 0.1, 1);
    assert!((moved - 1e-4).abs() < 1e-9, "{moved}");
    // Rows whose mean is below eps1 are divided by eps1: var = 1e-10^2 / 1.19e-7, not 1e-10.
    let (_, moved) = step(1.0, &[1e-5; 4], &[2, 2], 0.001, 1);
    let expected = 1e-5 / (1e-20_f64 / f64::from(f32::EPSILON)).sqrt();
    assert!((moved / 0.001 / expected - 1.0).abs() < 1e-3 && expected > 30.0, "{moved} {expected}");
}

/// LAMB in f64 from its definition, with decay `wd` inside the trust ratio.
fn lamb_by_definition(w: &mut [f64], m: &mut [f64], v: &mut [f64], g: &[f32], t: i32, lr: f64, wd: f64) {
    let [bc1, bc2] = [0.9_f64, 0.999].map(|beta| 1.0 - beta.powi(t));
    let directions: Vec<f64> = (0..w.len())
        .map(|i| {
            let g = f64::from(g[i]);
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            (m[i] / bc1) / ((v[i] / bc2).sqrt() + 1e-6) + wd * w[i]
        })
        .collect();
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let ratio = norm(w) / norm(&directions);
    w.iter_mut().zip(directions).for_each(|(w, r)| *w -= lr * ratio * r);
}

#[test]
fn lamb_over_many_tiles_with_a_decay_that_changes_follows_its_definition() {
    let optimizer = build(
        "algorithm = \"lamb\"\nlr = 0.01\neps = 1e-6\n\
         weight_decay = { mode = \"decoupled\", value = { kind = \"table\", values = [0.5, 0.05, 0.2, 0.3] } }",
    );
    let size = 5000;
    let gradient = |step: u64| -> Vec<f32> {
        (0..size).map(|i| ((i * i) as f32 * 0.01 + step as f32).sin() * (1.0 + (i / 1000) as f32)).collect()
    };
    let weights: Vec<f32> = (0..size).map(|i| (i as f32 * 0.37).cos()).collect();
    let mut exact: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
    let (mut m, mut v) = (vec![0.0; size], vec![0.0; size]);
    let mut model = Parameters::default();
    model.add(&optimizer, "w", &[size], weights).unwrap();
    for (step, wd) in [(1, 0.5), (2, 0.05), (3, 0.2), (4, 0.3)] {
        let gradient = gradient(step);
        optimizer.step(&mut model, &[Some(&gradient)], step).unwrap();
        lamb_by_definition(&mut exact, &mut m, &mut v, &gradient, step as i32, 0.01, wd);
    }
    assert_eq!(model.tensors()[0].updates(), 4);
    let worst =
        exact.iter().zip(model.tensors()[0].weights()).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
    assert!(worst < 2e-6, "{worst}");
}

#[test]
fn both_places_of_eps_agree_when_there_is_next_to_none() {
    for algorithm in ["adam", "nadam_torch", "nadam_optax", "radam", "lamb"] {
        let [inside, outside] = ["corrected", "uncorrected"].map(|place| {
            let text = format!("algorithm = \"{algorithm}\"\nlr = 0.01\neps = 1e-30\neps_placement = \"{place}\"");
            let optimizer = build(&text);
            let mut model = Parameters::default();
            model.add(&optimizer, "w", &[3], vec![1.0, -2.0, 0.5]).unwrap();
            for step in 1..=8 {
                optimizer.step(&mut model, &[Some(&[0.3, -1.0 / step as f32, 2.0])], step).unwrap();
            }
            model.tensors()[0].weights().to_vec()
        });
        for (a, b) in inside.iter().zip(&outside) {
            assert!((a - b).abs() < 1e-6, "{algorithm}: {inside:?} {outside:?}");
        }
    }
}

#[test]
#[should_panic(expected = "no reduction is pending")]
fn a_ratio_supplied_twice_is_a_mistake() {
    let optimizer = build("algorithm = \"lamb\"\nlr = 0.1");
    let mut factors = optimizer.factors(&optimizer.tensor("w", &[2]), 1, 1);
    factors.supply(Sums([4.0, 1.0]));
    factors.supply(Sums([4.0, 1.0]));
}

#[test]
fn parts_of_planes_know_when_they_are_empty() {
    let optimizer = build("lr = 0.1");
    let mut plane = Plane::new(&optimizer.planes()[0], 2);
    assert!(!plane.view().is_empty() && plane.slice(1..1).is_empty());
    assert!(!plane.view_mut().is_empty() && plane.slice_mut(2..2).is_empty());
}
