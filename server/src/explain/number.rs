//! Numbers for people, the same on every machine.

/// 1234567 as 1,234,567.
pub(crate) fn count(number: u64) -> String {
    grouped(&number.to_string())
}

/// Four significant digits, for reading: `0.02`, `1.5e-6`, `100,500`.
pub(crate) fn short(number: f64) -> String {
    let text = significant(number, 4);
    match text.split_once('.') {
        Some((whole, rest)) => format!("{}.{rest}", grouped(whole)),
        None if text.contains('e') => text,
        None => grouped(&text),
    }
}

/// Six significant digits, for copying into a job file: no thousands separators.
pub(super) fn value(number: f64) -> String {
    significant(number, 6)
}

/// Without trailing zeros; with an exponent below 1e-4 and from 1e7 on.
fn significant(number: f64, digits: usize) -> String {
    if number == 0.0 || !number.is_finite() {
        return format!("{number}");
    }
    let scientific = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let power: i32 = exponent.parse().expect("{:e} writes a whole exponent");
    if !(-4..7).contains(&power) {
        return format!("{}e{exponent}", without_zeros(mantissa));
    }
    let decimals = (digits as i32 - 1 - power).max(0);
    without_zeros(&format!("{number:.*}", decimals.unsigned_abs() as usize)).to_owned()
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn grouped(whole: &str) -> String {
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut text = String::from(sign);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_lose_their_size() {
        for (number, shown, copied) in [
            (0.0, "0", "0"),
            (0.02, "0.02", "0.02"),
            (1e-5, "1e-5", "1e-5"),
            (1.000_04e-5, "1e-5", "1.00004e-5"),
            (-0.994_987, "-0.995", "-0.994987"),
            (100_500.4, "100,500", "100500"),
            (999_999.6, "1,000,000", "1000000"),
            (12_345_678.0, "1.235e7", "1.23457e7"),
            (1.0, "1", "1"),
            (1200.0, "1,200", "1200"),
            (f64::NEG_INFINITY, "-inf", "-inf"),
        ] {
            assert_eq!((short(number).as_str(), value(number).as_str()), (shown, copied), "{number}");
        }
        assert_eq!((count(999), count(1_000), count(1_234_567)), ("999".into(), "1,000".into(), "1,234,567".into()));
    }
}
