//! bfloat16: the upper half of an f32, rounded to nearest, ties to even.
//!
//! Conversions only; all arithmetic is f32's. Exponents and denormals are f32's, so only the
//! mantissa loses: 8 significant bits, a relative error of at most 2^-9. Integer operations, hence
//! the same bits in every build of the loops.

/// What every NaN becomes: its payload is the machine's affair, a stored plane is not.
const NAN: u16 = 0x7fc0;

/// The nearest bf16 of `x`, as its bits; of two equally near ones the even one. Beyond the largest
/// bf16 by half a step or more: infinity. NaN stays NaN.
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation)] // the upper half of 32 bits
pub fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let even = (bits >> 16) & 1;
    let rounded = (bits.wrapping_add(0x7fff + even) >> 16) as u16;
    if x.is_nan() { NAN } else { rounded }
}

/// The f32 of a bf16's bits; exact.
#[inline(always)]
#[must_use]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, in exact arithmetic: f64 holds f32s, bf16s and their differences.
    fn by_definition(x: f32) -> u16 {
        if x.is_nan() {
            return NAN;
        }
        let below = (x.abs().to_bits() >> 16) as u16; // towards zero
        let above = below + 1;
        let value = |bits: u16| if bits == 0x7f80 { f64::powi(2.0, 128) } else { f64::from(widen(bits)) };
        let (down, up) = (f64::from(x.abs()) - value(below), value(above) - f64::from(x.abs()));
        let magnitude =
            if x.is_infinite() || down < up || (down == up && below.is_multiple_of(2)) { below } else { above };
        magnitude | if x.is_sign_negative() { 0x8000 } else { 0 }
    }

    #[test]
    fn every_bf16_and_the_neighbourhood_of_every_midpoint_round_as_defined() {
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(upper) << 16 | lower);
                assert_eq!(round(x), by_definition(x), "{x:e} {:#x}", x.to_bits());
            }
        }
    }

    #[test]
    fn rounding_what_was_widened_changes_nothing_but_nan_payloads() {
        for bits in 0..=u16::MAX {
            let x = widen(bits);
            assert_eq!(round(x), if x.is_nan() { NAN } else { bits });
        }
    }

    proptest! {
        #[test]
        fn any_f32_rounds_as_defined(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            prop_assert_eq!(round(x), by_definition(x));
        }

        #[test]
        fn rounding_keeps_the_order(a in any::<f32>(), b in any::<f32>()) {
            prop_assert!(a.is_nan() || b.is_nan() || (a <= b) == (a <= b && widen(round(a)) <= widen(round(b))));
        }
    }
}
