//! Whole numbers on the command line, within bounds: so that no number of seconds overflows a clock and none of threads is
//! started that no machine has.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// Longest that anything may be told to wait for, in seconds: a year, which every clock can add to now.
pub const SECONDS_MAX: u64 = 365 * 24 * 60 * 60;
/// Most threads of one kind that a process may be told to start.
pub const THREADS_MAX: u64 = 1024;

/// Reads a number of `range`; one up to `u64::MAX` has no upper end. What it says otherwise is what was expected and what
/// came.
pub fn within<T>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: TryFrom<u64> + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| expected(&range, text))
    }
}

/// The same for a number of things: from 1 to `max`.
pub fn count(max: u32) -> impl Fn(&str) -> Result<NonZeroU32, String> + Clone + Send + Sync + 'static {
    let range = 1..=u64::from(max);
    let parse = within::<u32>(range.clone());
    move |text| NonZeroU32::new(parse(text)?).ok_or_else(|| expected(&range, text))
}

fn expected(range: &RangeInclusive<u64>, text: &str) -> String {
    let found = if text.parse::<u64>().is_ok() { text.to_owned() } else { format!("{text:?}") };
    match (range.start(), range.end()) {
        (start, &u64::MAX) => format!("expected at least {start}, found {found}"),
        (start, end) => format!("expected {start} to {end}, found {found}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;
    use std::time::{Duration, Instant};

    #[test]
    fn a_number_outside_its_bounds_is_refused_with_both() {
        assert_eq!(within::<u64>(0..=9)("9"), Ok(9));
        assert_eq!(within::<usize>(0..=9)("0"), Ok(0));
        assert_eq!(within::<NonZeroU64>(1..=u64::MAX)("18446744073709551615"), Ok(NonZeroU64::MAX));
        assert_eq!(count(7)("7").map(NonZeroU32::get), Ok(7));
        for (refused, said) in [
            (within::<u64>(1..=9)("10").err(), "expected 1 to 9, found 10"),
            (within::<u64>(1..=9)("99999999999999999999").err(), "expected 1 to 9, found \"99999999999999999999\""),
            (within::<NonZeroU64>(1..=u64::MAX)("0").err(), "expected at least 1, found 0"),
            (count(7)("0").err(), "expected 1 to 7, found 0"),
            (count(7)("-1").err(), "expected 1 to 7, found \"-1\""),
            (count(7)("").err(), "expected 1 to 7, found \"\""),
        ] {
            assert_eq!(refused.as_deref(), Some(said));
        }
    }

    #[test]
    fn the_longest_wait_has_an_end() {
        assert!(Instant::now().checked_add(Duration::from_secs(SECONDS_MAX)).is_some());
    }
}
