//! Each dtype against its definition, one element at a time.

use super::*;
use proptest::prelude::*;

const ALL: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::I8Scaled];

fn encoded(dtype: Dtype, values: &[f32]) -> Encoded {
    let mut bytes = vec![0xee; dtype.encoded_bytes(values.len())];
    encode(dtype, values, &mut bytes);
    Encoded { dtype, bytes: bytes.into() }
}

fn decoded(encoded: &Encoded, elements: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; elements];
    encoded.load(0, &mut values);
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Finite values of any magnitude a dtype carries, zeros and runs of denormals among them.
fn values(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    let magnitude = prop_oneof![
        4 => -2.0f32..2.0,
        1 => proptest::num::f32::NORMAL.prop_map(|value| value / 4.0),
        1 => proptest::num::f32::SUBNORMAL,
        1 => Just(0.0f32),
    ];
    proptest::collection::vec(magnitude, len)
}

/// The scale and values of one group by the definition, in f64, which holds every f32 quotient's
/// neighbourhood well enough to tell ties.
fn group_by_definition(group: &[f32]) -> (f32, Vec<i8>) {
    let largest = group.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    if scale < f32::MIN_POSITIVE {
        return (0.0, vec![0; group.len()]);
    }
    let scale = if 127.0 * scale > f32::MAX { scale.next_down() } else { scale };
    (scale, group.iter().map(|value| (value / scale).round_ties_even() as i8).collect())
}

proptest! {
    #[test]
    fn i8_is_encoded_as_defined(values in values(1..700)) {
        let found = encoded(Dtype::I8Scaled, &values);
        let groups: Vec<_> = values.chunks(256).map(group_by_definition).collect();
        let scales = groups.iter().flat_map(|(scale, _)| scale.to_le_bytes());
        let bytes = groups.iter().flat_map(|(_, values)| values.iter().map(|value| value.cast_unsigned()));
        prop_assert_eq!(&found.bytes[..], &scales.chain(bytes).collect::<Vec<u8>>()[..]);
        let expected: Vec<f32> =
            groups.iter().flat_map(|(scale, values)| values.iter().map(move |value| f32::from(*value) * scale)).collect();
        prop_assert_eq!(bits(&decoded(&found, values.len())), bits(&expected));
    }

    /// Within half a scale, a scale being 1/127 of the largest magnitude of its group.
    #[test]
    fn i8_is_off_by_at_most_half_a_scale(values in proptest::collection::vec(-1e3f32..1e3, 1..600)) {
        let found = decoded(&encoded(Dtype::I8Scaled, &values), values.len());
        for (values, found) in values.chunks(256).zip(found.chunks(256)) {
            let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (value, found) in values.iter().zip(found) {
                prop_assert!((value - found).abs() <= largest / 253.9, "{value} {found} of {largest}");
            }
        }
    }

    #[test]
    fn any_part_loads_and_adds_as_the_whole(values in values(1..1500), a in any::<usize>(), b in any::<usize>()) {
        let (a, b) = (a % (values.len() + 1), b % (values.len() + 1));
        let (begin, end) = (a.min(b), a.max(b));
        for dtype in ALL {
            let encoded = encoded(dtype, &values);
            let whole = decoded(&encoded, values.len());
            let mut part = vec![f32::NAN; end - begin];
            encoded.load(begin, &mut part);
            prop_assert_eq!(bits(&part), bits(&whole[begin..end]));
            let sum: Vec<f32> = values[begin..end].iter().zip(&whole[begin..end]).map(|(a, b)| a + b).collect();
            let mut found = values[begin..end].to_vec();
            encoded.add(begin, &mut found);
            prop_assert_eq!(bits(&found), bits(&sum));
        }
    }

    #[test]
    fn the_largest_magnitude_is_that_of_the_decoded_values(values in values(0..700)) {
        for dtype in ALL {
            let encoded = encoded(dtype, &values);
            let decoded = decoded(&encoded, values.len());
            let expected = decoded.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            prop_assert_eq!(encoded.magnitude_max().to_bits(), expected.to_bits(), "{}", dtype);
        }
    }

    #[test]
    fn rounding_in_place_is_encoding_and_decoding(values in values(1..700)) {
        for dtype in ALL {
            let mut rounded = values.clone();
            round(dtype, &mut rounded);
            prop_assert_eq!(bits(&rounded), bits(&decoded(&encoded(dtype, &values), values.len())));
        }
    }

    #[test]
    fn what_is_rounded_stays_when_rounded_again(values in values(1..300)) {
        let mut once = values;
        round(Dtype::Bf16, &mut once);
        let mut twice = once.clone();
        round(Dtype::Bf16, &mut twice);
        prop_assert_eq!(bits(&once), bits(&twice));
    }

    /// What is left is what was to be sent less what was sent.
    #[test]
    fn feedback_keeps_what_rounding_takes(
        values in proptest::collection::vec(-1e3f32..1e3, 1..600),
        before in proptest::collection::vec(-1e1f32..1e1, 600),
    ) {
        let mut residual = before[..values.len()].to_vec();
        let wanted: Vec<f32> = residual.iter().zip(&values).map(|(residual, value)| residual + value).collect();
        let mut bytes = vec![0; Dtype::I8Scaled.encoded_bytes(values.len())];
        encode_with_feedback(&values, &mut residual, &mut bytes);
        let found = Encoded { dtype: Dtype::I8Scaled, bytes: bytes.into() };
        prop_assert_eq!(&found, &encoded(Dtype::I8Scaled, &wanted));
        for ((wanted, sent), left) in wanted.iter().zip(decoded(&found, values.len())).zip(&residual) {
            prop_assert_eq!((wanted - sent).to_bits(), left.to_bits());
        }
    }

    /// Cut anywhere, also inside an element.
    #[test]
    fn bf16_in_pieces_is_bf16(values in values(1..200), cuts in proptest::collection::vec(1usize..9, 1..40)) {
        let whole = encoded(Dtype::Bf16, &values);
        let (mut rest, mut pieces, mut cuts) = (whole.bytes.clone(), Vec::new(), cuts.iter().cycle());
        while !rest.is_empty() {
            pieces.push(rest.split_to((*cuts.next().unwrap()).min(rest.len())));
        }
        let mut found = vec![f32::NAN; values.len()];
        load_bf16_pieces(&pieces, &mut found);
        prop_assert_eq!(bits(&found), bits(&decoded(&whole, values.len())));
    }
}

#[test]
fn sizes_are_those_of_the_layout() {
    let sizes = |dtype: Dtype| [0, 1, 256, 257, 4096].map(|elements| dtype.encoded_bytes(elements));
    assert_eq!(sizes(Dtype::F32), [0, 4, 1024, 1028, 16384]);
    assert_eq!(sizes(Dtype::Bf16), [0, 2, 512, 514, 8192]);
    assert_eq!(sizes(Dtype::I8Scaled), [0, 5, 260, 265, 4160]);
}

#[test]
fn what_a_dtype_carries_stays_finite_and_what_is_beyond_does_not() {
    for dtype in ALL {
        let largest = dtype.magnitude_max();
        assert!(encoded(dtype, &[1.0, -largest]).magnitude_max().is_finite(), "{dtype}");
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            assert!(!encoded(dtype, &[1.0, bad]).magnitude_max().is_finite(), "{dtype} {bad}");
        }
    }
    assert!(encoded(Dtype::Bf16, &[Dtype::Bf16.magnitude_max().next_up()]).magnitude_max().is_infinite());
    assert!(encoded(Dtype::I8Scaled, &[f32::MAX, -f32::MAX]).magnitude_max().is_finite());
}

#[test]
fn a_scale_that_is_not_a_number_shows_even_over_zeros() {
    for scale in [f32::INFINITY, f32::NAN] {
        let bytes = [&scale.to_le_bytes()[..], &[0, 0]].concat();
        let encoded = Encoded { dtype: Dtype::I8Scaled, bytes: bytes.into() };
        assert!(!encoded.magnitude_max().is_finite(), "{scale}");
    }
}

#[test]
fn groups_of_zeros_and_denormals_are_zeros_and_their_values_wait() {
    let values = [vec![0.0; 256], vec![1e-40; 256], vec![-1e-37, 1.4e-36]].concat();
    let found = encoded(Dtype::I8Scaled, &values);
    assert!(found.bytes.iter().all(|byte| *byte == 0));
    let mut residual = vec![0.0; values.len()];
    let mut bytes = vec![0; found.bytes.len()];
    encode_with_feedback(&values, &mut residual, &mut bytes);
    assert_eq!((residual, &bytes[..]), (values, &found.bytes[..]));
}

#[test]
fn over_many_encodings_nothing_is_lost_but_what_is_still_owed() {
    let (mut residual, mut bytes) = (vec![0.0f32; 2], vec![0; Dtype::I8Scaled.encoded_bytes(2)]);
    let mut received = 0.0f64;
    for _ in 0..1000 {
        // 1e-3 of the largest: alone it would be rounded to zero every time.
        encode_with_feedback(&[1.0, 1e-3], &mut residual, &mut bytes);
        let sent = Encoded { dtype: Dtype::I8Scaled, bytes: bytes.clone().into() };
        received += f64::from(decoded(&sent, 2)[1]);
    }
    assert!((received - 1.0).abs() < 0.5 / 127.0 + 1e-4, "{received}");
}
