//! Gradients against central finite differences of a plain f64 reference.

use halflife_proto::workload::{Activation, MlpSettings};

use super::{Mlp, Model, SoftmaxRegression};
use crate::data::Batch;
use crate::random::Philox;

const SAMPLES: usize = 5;
const FEATURES: usize = 7;
const CLASSES: usize = 4;
const LABELS: [u32; SAMPLES] = [3, 0, 1, 1, 2];

fn features() -> Vec<f32> {
    let stream = Philox::new(99);
    (0..(SAMPLES * FEATURES) as u64).map(|index| stream.uniform(index)).collect()
}

fn mlp(hidden: &[usize], activation: Activation) -> Mlp {
    Mlp::new(&MlpSettings { hidden: hidden.to_vec(), activation }, FEATURES, CLASSES).unwrap()
}

/// Initial weights with biases that are not zero.
fn weights(model: &dyn Model) -> Vec<f64> {
    let stream = Philox::new(5);
    let jitter = |index| f64::from(stream.uniform(index)) * 0.2 - 0.1;
    model.initialize(3).iter().zip(0..).map(|(weight, index)| f64::from(*weight) + jitter(index)).collect()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
        Activation::Gelu => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
    }
}

/// The mean loss, written out.
fn reference_loss(hidden: &[usize], activation: Activation, weights: &[f64]) -> f64 {
    let units = [&[FEATURES], hidden, &[CLASSES]].concat();
    let mut sum = 0.0;
    for (sample, label) in features().chunks(FEATURES).zip(LABELS) {
        let mut outputs: Vec<f64> = sample.iter().map(|feature| f64::from(*feature)).collect();
        let mut rest = weights;
        for (layer, units) in units.windows(2).enumerate() {
            let (weight, after) = rest.split_at(units[0] * units[1]);
            let (bias, after) = after.split_at(units[1]);
            rest = after;
            let row = |(row, bias): (&[f64], &f64)| row.iter().zip(&outputs).map(|(w, x)| w * x).sum::<f64>() + bias;
            outputs = weight.chunks(units[0]).zip(bias).map(row).collect();
            if layer < hidden.len() {
                outputs.iter_mut().for_each(|x| *x = activate(activation, *x));
            }
        }
        sum += outputs.iter().map(|score| score.exp()).sum::<f64>().ln() - outputs[label as usize];
    }
    sum / SAMPLES as f64
}

fn check(model: &mut dyn Model, hidden: &[usize], activation: Activation) {
    let weights = weights(model);
    let rounded: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let exact: Vec<f64> = rounded.iter().map(|weight| f64::from(*weight)).collect();
    let features = features();
    let gradient = model.gradient(&rounded, Batch { features: &features, labels: &LABELS }).unwrap();
    let loss = reference_loss(hidden, activation, &exact);
    assert!((f64::from(gradient.loss) - loss).abs() < 1e-6, "loss {} against {loss}", gradient.loss);
    assert_eq!(gradient.values.len(), exact.len());
    let width = 1e-5;
    for (index, found) in gradient.values.iter().enumerate() {
        let at = |offset: f64| {
            let mut moved = exact.clone();
            moved[index] += offset;
            reference_loss(hidden, activation, &moved)
        };
        let expected = (at(width) - at(-width)) / (2.0 * width);
        assert!((f64::from(*found) - expected).abs() < 2e-6, "weight {index}: {found} against {expected}");
    }
}

#[test]
fn mlp_gradients_are_the_derivatives_of_the_loss() {
    for hidden in [&[][..], &[6], &[5, 3]] {
        for activation in [Activation::Relu, Activation::Tanh, Activation::Gelu] {
            check(&mut mlp(hidden, activation), hidden, activation);
        }
    }
}

#[test]
fn softmax_gradients_are_the_derivatives_of_the_loss() {
    check(&mut SoftmaxRegression::new(FEATURES, CLASSES).unwrap(), &[], Activation::Relu);
}

#[test]
fn softmax_regression_is_an_mlp_without_hidden_layers() {
    let (mut linear, mut softmax) = (mlp(&[], Activation::Relu), SoftmaxRegression::new(FEATURES, CLASSES).unwrap());
    assert_eq!(linear.manifest(), softmax.manifest());
    let weights = softmax.initialize(4);
    assert_eq!(weights, linear.initialize(4));
    let features = features();
    let batch = Batch { features: &features, labels: &LABELS };
    let (a, b) = (linear.gradient(&weights, batch).unwrap(), softmax.gradient(&weights, batch).unwrap());
    assert!((a.loss - b.loss).abs() < 1e-6);
    assert!(a.values.iter().zip(&b.values).all(|(a, b)| (a - b).abs() < 1e-6));
    let (a, b) = (linear.scores(&weights, batch).unwrap(), softmax.scores(&weights, batch).unwrap());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn a_gradient_does_not_depend_on_earlier_calls_or_other_threads() {
    let features = features();
    let batch = Batch { features: &features, labels: &LABELS };
    let compute = || {
        let mut model = mlp(&[33, 17], Activation::Gelu);
        let weights = model.initialize(8);
        let first = model.gradient(&weights, batch).unwrap();
        assert_eq!(model.gradient(&weights, batch).unwrap(), first);
        first
    };
    let alone = compute();
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(compute)).collect();
        for other in others {
            assert_eq!(other.join().unwrap(), alone);
        }
    });
}

/// Sizes beyond gemm's threshold for using threads. The process reads its own environment only
/// once per product, so each count of threads gets a process: this test, run again.
#[test]
fn gradient_bits_do_not_depend_on_candles_threads() {
    const NAME: &str = "model::finite_differences::gradient_bits_do_not_depend_on_candles_threads";
    const CHILD: &str = "HALFLIFE_TEST_PRINTS_GRADIENT";
    if std::env::var_os(CHILD).is_some() {
        let settings = MlpSettings { hidden: vec![509, 300], activation: Activation::Gelu };
        let mut model = Mlp::new(&settings, 800, 10).unwrap();
        let stream = Philox::new(2);
        let features: Vec<f32> = (0..100 * 800).map(|index| stream.uniform(index)).collect();
        let labels: Vec<u32> = (0..100).map(|sample| sample % 10).collect();
        let gradient = model.gradient(&model.initialize(1), Batch { features: &features, labels: &labels }).unwrap();
        let digest = crate::digest::weights_digest(model.manifest(), &gradient.values);
        std::fs::write(std::env::var_os(CHILD).unwrap(), digest).unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let digest = |threads: &str| {
        let path = directory.path().join(threads);
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", NAME]).env(CHILD, &path).env(crate::threads::VARIABLE, threads);
        assert!(child.output().unwrap().status.success());
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(digest("1"), digest("2"));
    assert_eq!(digest("1"), digest("7"));
}
