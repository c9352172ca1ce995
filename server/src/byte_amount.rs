//! Amounts of memory on the command line: 8G, 500M.

/// Bytes, as a number with K, M or G: powers of 1,024.
///
/// # Errors
/// What was expected and what came.
pub fn parse(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a number of bytes such as 8G or 500M, found {text:?}");
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(expected()),
    };
    let number: u64 = digits.parse().map_err(|_| expected())?;
    number.checked_mul(1 << shift).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_whole_and_fit() {
        for (text, bytes) in [("0", 0), ("500", 500), ("2K", 2048), ("8G", 8 << 30)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "G", "1.5G", "8GB", "-1", "99999999999999999999", "99999999999G"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
