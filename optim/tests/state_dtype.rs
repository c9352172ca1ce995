//! Moments kept in bfloat16: f32 arithmetic, rounded once when they are written.

use halflife_optim::{
    ConfigError, DecayWarning, KernelPath, Optimizer, OptimizerConfig, Parameters, Plane, StateDtype, bf16,
};

const RULES: [&str; 8] = [
    "algorithm = \"adam\"",
    "algorithm = \"adam\"\namsgrad = true",
    "algorithm = \"nadam_torch\"",
    "algorithm = \"nadam_optax\"",
    "algorithm = \"radam\"",
    "algorithm = \"sgd\"\nmomentum = 0.9\nnesterov = true",
    "algorithm = \"lion\"",
    "algorithm = \"lamb\"",
];

fn config(text: &str) -> OptimizerConfig {
    toml::from_str(&format!("lr = 0.01\n{text}")).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn build(text: &str) -> Optimizer {
    Optimizer::new(&config(text), 100).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Weights and planes after one update from `state`.
fn step(optimizer: &Optimizer, mut state: Vec<Plane>) -> (Vec<f32>, Vec<Plane>) {
    let n = state[0].len();
    let weights: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
    let gradient: Vec<f32> = (0..n).map(|i| (i as f32 * 1.13).cos() * 0.1).collect();
    let mut next = vec![0.0; n];
    let factors = optimizer.factors(&optimizer.tensor("w", &[n]), 7, 7);
    let mut planes: Vec<_> = state.iter_mut().map(Plane::view_mut).collect();
    optimizer.update_tensor(&factors, &[n], &weights, &mut next, &mut planes, &gradient);
    (next, state)
}

fn rounded(plane: &Plane) -> Plane {
    Plane::Bf16(plane.to_f32().iter().map(|value| bf16::round(*value)).collect())
}

#[test]
fn a_step_is_that_of_f32_with_its_moments_rounded_once() {
    for rule in RULES {
        let full = build(rule);
        let start = |_| Plane::F32((1..=3000).map(|i| bf16::widen(bf16::round(i as f32 * 1e-5))).collect());
        let start: Vec<Plane> = full.planes().iter().map(start).collect();
        let (weights, planes) = step(&full, start.clone());
        let expected: Vec<Plane> = planes.iter().map(rounded).collect();
        for path in [KernelPath::Best, KernelPath::Avx2, KernelPath::Portable] {
            let half = build(&format!("state_dtype = \"bf16\"\n{rule}")).with_kernel_path(path);
            let start = start.iter().map(rounded).collect();
            assert_eq!(step(&half, start), (weights.clone(), expected.clone()), "{rule} {path:?}");
        }
    }
}

#[test]
fn bf16_halves_the_state() {
    for rule in RULES {
        let (full, half) = (build(rule), build(&format!("state_dtype = \"bf16\"\n{rule}")));
        assert_eq!(full.state_bytes_per_parameter(), 2 * half.state_bytes_per_parameter(), "{rule}");
        assert!(half.planes().iter().all(|plane| plane.dtype == StateDtype::Bf16));
        assert!(full.planes().iter().all(|plane| plane.dtype == StateDtype::F32));
    }
}

#[test]
fn rules_without_moments_refuse_the_setting() {
    let refused = |text: &str| Optimizer::new(&config(text), 100).expect_err(text);
    let factored = refused("algorithm = \"adafactor_torch\"\nstate_dtype = \"bf16\"");
    assert!(matches!(factored, ConfigError::Unread { ref field, .. } if field == "state_dtype"), "{factored}");
    let stateless = refused("algorithm = \"sgd\"\nstate_dtype = \"bf16\"");
    assert!(stateless.to_string().contains("there is no state without momentum"), "{stateless}");
}

#[test]
fn a_dtype_nobody_knows_is_refused() {
    assert!(toml::from_str::<OptimizerConfig>("lr = 0.1\nstate_dtype = \"f16\"").is_err());
}

#[test]
#[should_panic(expected = "dtype of plane m")]
fn planes_of_another_dtype_are_a_bug_of_the_caller() {
    let half = build("state_dtype = \"bf16\"");
    step(&half, vec![Plane::F32(vec![0.0; 4]), Plane::F32(vec![0.0; 4])]);
}

#[test]
fn a_moment_that_bf16_keeps_from_falling_is_warned_of() {
    let warned =
        |text: &str| build(text).warnings([]).iter().any(|w| matches!(w, DecayWarning::MomentCannotFall { .. }));
    assert!(warned("state_dtype = \"bf16\""));
    assert!(warned("state_dtype = \"bf16\"\nalgorithm = \"sgd\"\nmomentum = 0.999"));
    assert!(!warned("state_dtype = \"bf16\"\nbetas = [0.9, 0.95]"));
    let half_a_unit = "state_dtype = \"bf16\"\nbetas = [0.9, 0.998046875]"; // 1 - 2^-9
    assert!(!warned(half_a_unit), "what is taken off is half a unit, no less");
    assert!(!warned("state_dtype = \"f32\""));
}

#[test]
fn the_formula_says_what_moments_are_kept_in() {
    let says = |text: &str| config(text).formula().expect("formula").iter().any(|line| line.contains("bf16"));
    assert!(says("state_dtype = \"bf16\"") && !says(""));
}

/// The second moment after gradients of 1, then of 0.
fn second_moment(text: &str) -> f32 {
    let optimizer = build(text);
    let mut model = Parameters::default();
    model.add(&optimizer, "w", &[1], vec![1.0]).expect("tensor");
    for step in 1..=2000 {
        let gradient = if step <= 1000 { 1.0 } else { 0.0 };
        optimizer.step(&mut model, &[Some(&[gradient])], step).expect("step");
    }
    model.tensors()[0].plane("v").expect("v").to_f32()[0]
}

#[test]
fn a_bf16_moment_whose_gain_is_below_half_a_unit_cannot_fall() {
    // In f32, v rises to 1 - 0.999^1000 = 0.63 and falls to 0.37 of that.
    assert!((second_moment("betas = [0.9, 0.999]") - 0.232).abs() < 1e-3);
    // In bf16 it stops where a rise of 0.001 (1 - v) is half a unit, and then falls no more.
    let stuck = second_moment("betas = [0.9, 0.999]\nstate_dtype = \"bf16\"");
    assert!((0.2..0.3).contains(&stuck), "{stuck}");
    // With a gain of 0.05 it rises and falls.
    assert!(second_moment("betas = [0.9, 0.95]\nstate_dtype = \"bf16\"") < 1e-20);
}
