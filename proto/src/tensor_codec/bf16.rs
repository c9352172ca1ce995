//! bf16 on the wire: the upper half of each f32, rounded to nearest, ties to even.
//!
//! The same rounding as `halflife_optim::bf16` (a test crate holds them against each other); NaN
//! becomes the quiet NaN, magnitudes from half a step beyond the largest bf16 on become infinity.

use bytes::Bytes;
use multiversion::multiversion;

const NAN: u16 = 0x7fc0;

#[inline(always)]
fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let even = (bits >> 16) & 1;
    let rounded = (bits.wrapping_add(0x7fff + even) >> 16) as u16;
    if value.is_nan() { NAN } else { rounded }
}

#[inline(always)]
fn widen(word: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16)
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn encode(values: &[f32], target: &mut [u8]) {
    let (words, _) = target.as_chunks_mut::<2>();
    words.iter_mut().zip(values).for_each(|(word, value)| *word = round(*value).to_le_bytes());
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn load(bytes: &[u8], target: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<2>();
    target.iter_mut().zip(words).for_each(|(value, word)| *value = widen(*word));
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn add(bytes: &[u8], sum: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<2>();
    sum.iter_mut().zip(words).for_each(|(value, word)| *value += widen(*word));
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn round_all(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = widen(round(*value).to_le_bytes()));
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn magnitude_max(bytes: &[u8]) -> f32 {
    let (words, _) = bytes.as_chunks::<2>();
    let bits = words.iter().map(|word| u16::from_le_bytes(*word) & 0x7fff).fold(0, u16::max);
    widen(bits.to_le_bytes())
}

/// Decodes pieces that may be cut inside an element.
pub(super) fn load_pieces(pieces: &[Bytes], mut target: &mut [f32]) {
    let mut carried: Option<u8> = None;
    for piece in pieces {
        let mut bytes = &piece[..];
        if let (Some(low), Some((high, after))) = (carried, bytes.split_first()) {
            let (value, rest) = target.split_first_mut().expect("as many elements as bytes say");
            *value = widen([low, *high]);
            (carried, bytes, target) = (None, after, rest);
        }
        let (part, rest) = target.split_at_mut(bytes.len() / 2);
        load(&bytes[..2 * part.len()], part);
        carried = bytes.get(2 * part.len()).copied().or(carried);
        target = rest;
    }
}
