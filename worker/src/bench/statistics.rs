//! Medians, their uncertainty, and percentiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 2000;
/// Decimal digits that a histogram keeps.
const DIGITS: u8 = 3;
/// Longest step a histogram tells from longer ones: an hour.
const NANOSECONDS_MAX: u64 = 3_600_000_000_000;

/// A median with its 95 % bootstrap interval (percentile method: B. Efron, 1979).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// 2.5th percentile of the medians of resamples.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
    /// Values it was made from.
    pub count: usize,
}

impl Estimate {
    /// Of some values, resampled from a fixed seed; `None` without any.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Estimate> {
        let whole = median(values.to_vec())?;
        let mut state = 0x5DEE_CE66_D1CE_4E5B_u64;
        let mut pick = || {
            // Xorshift64 (G. Marsaglia, 2003): enough to pick indices.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            values[(state % values.len() as u64) as usize]
        };
        let mut medians: Vec<f64> =
            (0..RESAMPLES).filter_map(|_| median(values.iter().map(|_| pick()).collect())).collect();
        medians.sort_by(f64::total_cmp);
        let at = |part: f64| medians[((RESAMPLES - 1) as f64 * part).round() as usize];
        Some(Estimate { median: whole, low: at(0.025), high: at(0.975), count: values.len() })
    }
}

/// The middle value, or the mean of the two middle ones.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Percentiles of step times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Steps.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Half of the steps took no longer.
    pub p50: f64,
    /// 95 % of the steps took no longer.
    pub p95: f64,
    /// 99 % of the steps took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl StepTimes {
    /// Of some durations in nanoseconds.
    #[must_use]
    pub fn of(nanoseconds: &[u64]) -> StepTimes {
        let mut histogram =
            Histogram::<u64>::new_with_bounds(1, NANOSECONDS_MAX, DIGITS).expect("the bounds are those of a histogram");
        for duration in nanoseconds {
            histogram.saturating_record((*duration).max(1));
        }
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let at = |part: f64| ms(histogram.value_at_quantile(part));
        let exact_max = nanoseconds.iter().copied().max().unwrap_or(0);
        StepTimes {
            count: histogram.len(),
            mean: histogram.mean() / 1e6,
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: ms(exact_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn an_interval_surrounds_its_median_and_is_the_same_each_time() {
        let values: Vec<f64> = (0..40).map(|index| 1.0 + f64::from(index % 10) / 10.0).collect();
        let estimate = Estimate::of(&values).unwrap();
        assert!(estimate.low < estimate.median && estimate.median < estimate.high, "{estimate:?}");
        assert!(estimate.low >= 1.0 && estimate.high <= 1.9, "{estimate:?}");
        assert_eq!(Estimate::of(&values), Some(estimate));
    }

    #[test]
    fn equal_values_leave_no_doubt() {
        let expected = Estimate { median: 2.0, low: 2.0, high: 2.0, count: 5 };
        assert_eq!(Estimate::of(&[2.0; 5]), Some(expected));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn percentiles_are_those_of_the_steps() {
        let durations: Vec<u64> = (1..=100).map(|step| step * 1_000_000).collect();
        let times = StepTimes::of(&durations);
        let near = |found: f64, expected: f64| (found - expected).abs() < 0.002 * expected;
        assert!(near(times.p50, 50.0) && near(times.p95, 95.0) && near(times.p99, 99.0), "{times:?}");
        assert_eq!((times.count, times.max), (100, 100.0));
        assert_eq!(StepTimes::of(&[]), StepTimes::default());
    }
}
