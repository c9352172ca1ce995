//! Half a cosine, the shape most schedules share.

/// `(1 + cos(pi * fraction)) / 2`: 1 at 0, 0 at 1.
pub(super) fn half_cosine(fraction: f64) -> f64 {
    0.5 * (1.0 + libm::cos(std::f64::consts::PI * fraction))
}
