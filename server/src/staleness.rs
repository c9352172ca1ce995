//! How stale gradients are: a count of values from which maximum, mean and percentiles can be told.
//!
//! Fixed in size: values up to 31 have a bucket each, above that every power of two has sixteen, so a
//! percentile is told exactly or rounded up by at most a sixteenth. Maximum and mean are exact.

use halflife_proto::v1;

/// Values below have a bucket each.
const EXACT: u64 = 32;
/// Buckets of each power of two above.
const PER_OCTAVE: u64 = 16;
/// Enough for every u64: 32 exact ones, then 16 for each of the 59 powers of two from 32 on.
const BUCKETS: usize = (EXACT + PER_OCTAVE * 59) as usize;

/// Counts of values.
#[derive(Clone, Debug)]
pub struct Distribution {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max: u64,
    /// Wide enough for any number of values.
    sum: u128,
}

impl Default for Distribution {
    fn default() -> Distribution {
        Distribution { buckets: Box::new([0; BUCKETS]), count: 0, max: 0, sum: 0 }
    }
}

impl Distribution {
    /// Counts a value `times` times.
    pub fn add(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        self.buckets[bucket(value)] += times;
        self.count += times;
        self.max = self.max.max(value);
        self.sum += u128::from(value) * u128::from(times);
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum as f64
    }

    /// How many are at most `bound`, where that is the largest value of a bucket; elsewhere, fewer.
    #[must_use]
    pub fn count_at_most(&self, bound: u64) -> u64 {
        let counts = self.buckets.iter().enumerate();
        counts.take_while(|(index, _)| largest(*index) <= bound).map(|(_, count)| count).sum()
    }

    /// The largest; 0 without any.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean; 0 without any.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// The smallest value that at least `percent` of all values do not exceed; 0 without any.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> u64 {
        let wanted = (u128::from(self.count) * u128::from(percent)).div_ceil(100);
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            below += u128::from(*count);
            if below >= wanted && below > 0 {
                return largest(index).min(self.max);
            }
        }
        self.max
    }
}

impl From<&Distribution> for v1::Distribution {
    fn from(values: &Distribution) -> v1::Distribution {
        v1::Distribution {
            count: values.count(),
            max: values.max(),
            mean: values.mean(),
            p50: values.percentile(50),
            p95: values.percentile(95),
            p99: values.percentile(99),
        }
    }
}

fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let octave = u64::from(value.ilog2()) - 5;
    // The four bits behind the leading one.
    let within = (value >> (octave + 1)) - PER_OCTAVE;
    (EXACT + PER_OCTAVE * octave + within) as usize
}

/// The largest value of a bucket.
fn largest(index: usize) -> u64 {
    let index = index as u64;
    if index < EXACT {
        return index;
    }
    let (octave, within) = ((index - EXACT) / PER_OCTAVE, (index - EXACT) % PER_OCTAVE);
    let width = 1 << (octave + 1);
    (PER_OCTAVE + within) * width + (width - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_values_are_told_exactly() {
        let mut values = Distribution::default();
        assert_eq!((values.max(), values.mean(), values.percentile(50)), (0, 0.0, 0));
        for value in 0..=20 {
            values.add(value, 1);
        }
        let told = [0, 5, 50, 95, 100].map(|percent| values.percentile(percent));
        assert_eq!(told, [0, 1, 10, 19, 20]);
        assert_eq!((values.count(), values.max(), values.mean()), (21, 20, 10.0));
    }

    proptest! {
        #[test]
        fn every_value_has_a_bucket_whose_largest_is_at_most_a_sixteenth_more(value: u64) {
            let largest = largest(bucket(value));
            prop_assert!(largest >= value && largest - value <= value / 16, "{}", largest);
            prop_assert!(value == u64::MAX || bucket(value + 1) - bucket(value) <= 1);
        }

        #[test]
        fn percentiles_are_those_of_the_sorted_values(mut values in proptest::collection::vec(0u64..32, 1..200), percent in 1u64..=100) {
            let mut counted = Distribution::default();
            values.iter().for_each(|value| counted.add(*value, 1));
            values.sort_unstable();
            let rank = (values.len() * percent as usize).div_ceil(100);
            prop_assert_eq!(counted.percentile(percent), values[rank - 1]);
        }
    }
}
