//! i8 with block-wise scales: the scales of all groups (f32), then all values (i8).
//!
//! A group is [`SCALED_GROUP_ELEMENTS`] elements of the block, the last one shorter. Its scale is
//! its largest magnitude / 127, an element its multiple of the scale, rounded to nearest, ties to
//! even. A group whose scale would not be a normal f32 (magnitudes below about 1.5e-36) is sent as
//! zeros with scale 0: dividing by a denormal has no precision left to keep.

use multiversion::multiversion;

use super::SCALED_GROUP_ELEMENTS as GROUP;

/// Largest value of an encoded element; -128 is never sent, so that the range is symmetric.
const LEVELS: f32 = 127.0;

/// 1.5 x 2^23: adding it rounds an f32 of magnitude below 2^22 to an integer, ties to even, which
/// then stands in the low bits. Two additions in every build, where `round_ties_even` is a call.
const TO_INTEGER: f32 = 12_582_912.0;

/// The scale of a group.
#[inline(always)]
fn scale_of(group: &[f32]) -> f32 {
    let bits = group.iter().map(|value| value.to_bits() & 0x7fff_ffff).fold(0, u32::max);
    let scale = f32::from_bits(bits) / LEVELS;
    if scale < f32::MIN_POSITIVE {
        return 0.0;
    }
    // The last step of f32's range: 127 x scale must not round beyond it.
    if scale.is_finite() && (LEVELS * scale).is_infinite() { scale.next_down() } else { scale }
}

/// What elements are divided by.
#[inline(always)]
fn divisor(scale: f32) -> f32 {
    if scale == 0.0 { 1.0 } else { scale }
}

#[inline(always)]
fn quantized(value: f32, divisor: f32) -> i8 {
    (value / divisor + TO_INTEGER).to_bits() as u8 as i8
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn encode(values: &[f32], target: &mut [u8]) {
    let (scales, bytes) = target.split_at_mut(4 * values.len().div_ceil(GROUP));
    let groups = values.chunks(GROUP).zip(scales.as_chunks_mut::<4>().0).zip(bytes.chunks_mut(GROUP));
    for ((group, scale_bytes), bytes) in groups {
        let scale = scale_of(group);
        *scale_bytes = scale.to_le_bytes();
        let divisor = divisor(scale);
        for (byte, value) in bytes.iter_mut().zip(group) {
            *byte = quantized(*value, divisor).cast_unsigned();
        }
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn encode_with_feedback(values: &[f32], residual: &mut [f32], target: &mut [u8]) {
    let (scales, bytes) = target.split_at_mut(4 * values.len().div_ceil(GROUP));
    let groups = values.chunks(GROUP).zip(residual.chunks_mut(GROUP));
    for (((values, wanted), scale_bytes), bytes) in
        groups.zip(scales.as_chunks_mut::<4>().0).zip(bytes.chunks_mut(GROUP))
    {
        wanted.iter_mut().zip(values).for_each(|(wanted, value)| *wanted += value);
        let scale = scale_of(wanted);
        *scale_bytes = scale.to_le_bytes();
        let divisor = divisor(scale);
        for (byte, wanted) in bytes.iter_mut().zip(wanted) {
            let sent = quantized(*wanted, divisor);
            *byte = sent.cast_unsigned();
            *wanted -= f32::from(sent) * scale;
        }
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn round_all(values: &mut [f32]) {
    for group in values.chunks_mut(GROUP) {
        let scale = scale_of(group);
        let divisor = divisor(scale);
        group.iter_mut().for_each(|value| *value = f32::from(quantized(*value, divisor)) * scale);
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn load(bytes: &[u8], begin: usize, target: &mut [f32]) {
    each_part(bytes, begin, target, |part, scale, values| {
        part.iter_mut().zip(values).for_each(|(value, byte)| *value = f32::from(byte.cast_signed()) * scale);
    });
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn add(bytes: &[u8], begin: usize, sum: &mut [f32]) {
    each_part(bytes, begin, sum, |part, scale, values| {
        part.iter_mut().zip(values).for_each(|(value, byte)| *value += f32::from(byte.cast_signed()) * scale);
    });
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn magnitude_max(bytes: &[u8]) -> f32 {
    let (scales, values) = split(bytes);
    let mut bits = 0;
    for (scale, group) in scales.iter().zip(values.chunks(GROUP)) {
        let largest = group.iter().map(|byte| byte.cast_signed().unsigned_abs()).fold(0, u8::max);
        bits = bits.max((f32::from_le_bytes(*scale) * f32::from(largest)).to_bits() & 0x7fff_ffff);
    }
    f32::from_bits(bits)
}

/// Scales and values. The length tells how many: 260 bytes a group, the last one shorter.
#[inline(always)]
fn split(bytes: &[u8]) -> (&[[u8; 4]], &[u8]) {
    let groups = bytes.len().div_ceil(4 + GROUP);
    let (scales, values) = bytes.split_at(4 * groups);
    (scales.as_chunks::<4>().0, values)
}

/// Cuts `target`, the elements from `begin` on, where the groups are cut.
#[inline(always)]
fn each_part(bytes: &[u8], begin: usize, target: &mut [f32], mut visit: impl FnMut(&mut [f32], f32, &[u8])) {
    let (scales, values) = split(bytes);
    let (mut at, mut rest) = (begin, target);
    while !rest.is_empty() {
        let len = (GROUP - at % GROUP).min(rest.len());
        let (part, after) = rest.split_at_mut(len);
        visit(part, f32::from_le_bytes(scales[at / GROUP]), &values[at..at + len]);
        (at, rest) = (at + len, after);
    }
}
