//! First weights from a seed.
//!
//! Promises: element i of tensor t is a function of (seed, t, i), made of integer arithmetic, one
//! square root and exact or correctly rounded operations: the same bits on every machine. Does
//! not: use any transcendental function (that is why the distribution is uniform).

use crate::random::{Philox, Purpose};

/// `elements` weights of tensor number `tensor`, uniform in \[-bound, bound) with
/// bound = sqrt(3 `gain` / `inputs`), so that their variance is `gain` / `inputs`.
///
/// Gain 2 suits layers before a rectifier (K. He et al., "Delving deep into rectifiers", 2015,
/// equation 10), gain 1 the others (Y. LeCun et al., "Efficient backprop", 1998, section 4.6).
pub(super) fn uniform(
    seed: u64,
    tensor: usize,
    elements: usize,
    inputs: usize,
    gain: f32,
) -> impl Iterator<Item = f32> {
    let stream = Philox::derive(seed, Purpose::Weights, tensor as u64);
    let bound = (3.0 * gain / inputs as f32).sqrt();
    (0..elements as u64).map(move |index| (2.0 * stream.uniform(index) - 1.0) * bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_wanted_mean_and_variance() {
        let weights: Vec<f64> = uniform(1, 0, 100_000, 50, 2.0).map(f64::from).collect();
        let mean = weights.iter().sum::<f64>() / 1e5;
        let variance = weights.iter().map(|weight| weight * weight).sum::<f64>() / 1e5;
        assert!(mean.abs() < 3e-3 && (variance - 0.04).abs() < 1e-3, "mean {mean}, variance {variance}");
    }

    #[test]
    fn tensors_and_seeds_differ() {
        let weights = |seed, tensor| uniform(seed, tensor, 10, 3, 1.0).collect::<Vec<_>>();
        assert_eq!(weights(1, 0), weights(1, 0));
        assert_ne!(weights(1, 0), weights(1, 1));
        assert_ne!(weights(1, 0), weights(2, 0));
    }

    /// These bits are part of every published digest: they may never change.
    #[test]
    fn the_bits_are_pinned() {
        let bits: Vec<u32> = uniform(1, 0, 4, 64, 2.0).map(f32::to_bits).collect();
        assert_eq!(bits, [3197185984, 3165632777, 3194532111, 3175265206]);
    }
}
