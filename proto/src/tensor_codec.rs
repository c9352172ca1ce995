//! Tensor data <-> f32 values: the one place that knows how each [`Dtype`] is laid out.
//!
//! Encoding rounds to nearest, ties to even, and never allocates; decoding is exact for bf16 and one
//! multiplication for i8. Each loop is compiled for AVX-512, AVX2 and the baseline and chosen at run
//! time; all builds give the same bits, since nothing is fused or reassociated. Bytes come from the
//! network at any alignment; reading them as little-endian words compiles to unaligned loads.
//!
//! NaN and infinity are encoded so that [`Encoded::magnitude_max`] shows them, whatever the dtype.

mod bf16;
mod i8_scaled;

use bytes::Bytes;
use multiversion::multiversion;

pub use crate::dtype::{Dtype, SCALED_GROUP_ELEMENTS};

/// Values of a block as they travel.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// How they are encoded.
    pub dtype: Dtype,
    /// Their bytes, [`Dtype::encoded_bytes`] many.
    pub bytes: Bytes,
}

impl Encoded {
    /// Little-endian f32.
    pub fn f32(bytes: impl Into<Bytes>) -> Encoded {
        Encoded { dtype: Dtype::F32, bytes: bytes.into() }
    }

    /// Largest magnitude among the values; infinity or NaN if decoding any value would give that.
    #[must_use]
    pub fn magnitude_max(&self) -> f32 {
        match self.dtype {
            Dtype::F32 => magnitude_max(&self.bytes),
            Dtype::Bf16 => bf16::magnitude_max(&self.bytes),
            Dtype::I8Scaled => i8_scaled::magnitude_max(&self.bytes),
        }
    }

    /// Decodes the elements from `begin` on into all of `target`.
    ///
    /// # Panics
    /// Beyond the last element.
    pub fn load(&self, begin: usize, target: &mut [f32]) {
        let end = begin + target.len();
        match self.dtype {
            Dtype::F32 => load(&self.bytes[4 * begin..4 * end], target),
            Dtype::Bf16 => bf16::load(&self.bytes[2 * begin..2 * end], target),
            Dtype::I8Scaled => i8_scaled::load(&self.bytes, begin, target),
        }
    }

    /// Adds the elements from `begin` on to `sum`: f32, sum + element.
    ///
    /// # Panics
    /// Beyond the last element.
    pub fn add(&self, begin: usize, sum: &mut [f32]) {
        let end = begin + sum.len();
        match self.dtype {
            Dtype::F32 => add(&self.bytes[4 * begin..4 * end], sum),
            Dtype::Bf16 => bf16::add(&self.bytes[2 * begin..2 * end], sum),
            Dtype::I8Scaled => i8_scaled::add(&self.bytes, begin, sum),
        }
    }
}

/// Encodes `values` into all of `target`.
///
/// # Panics
/// If `target` is not [`Dtype::encoded_bytes`] long.
pub fn encode(dtype: Dtype, values: &[f32], target: &mut [u8]) {
    assert_eq!(target.len(), dtype.encoded_bytes(values.len()), "bytes of {} {dtype} elements", values.len());
    match dtype {
        Dtype::F32 => store(values, target),
        Dtype::Bf16 => bf16::encode(values, target),
        Dtype::I8Scaled => i8_scaled::encode(values, target),
    }
}

/// Encodes `values` + `residual` as [`Dtype::I8Scaled`] and leaves in `residual` what the rounding
/// took off: error feedback, so that over many encodings nothing is lost (Seide et al. 2014,
/// "1-bit stochastic gradient descent"; Karimireddy et al. 2019, arXiv 1901.09847).
///
/// # Panics
/// If the lengths do not fit.
pub fn encode_with_feedback(values: &[f32], residual: &mut [f32], target: &mut [u8]) {
    assert_eq!(values.len(), residual.len(), "residual of a block");
    assert_eq!(target.len(), Dtype::I8Scaled.encoded_bytes(values.len()), "bytes of {} i8 elements", values.len());
    i8_scaled::encode_with_feedback(values, residual, target);
}

/// Rounds `values` to what `dtype` would carry, in place.
pub fn round(dtype: Dtype, values: &mut [f32]) {
    match dtype {
        Dtype::F32 => {}
        Dtype::Bf16 => bf16::round_all(values),
        Dtype::I8Scaled => i8_scaled::round_all(values),
    }
}

/// Decodes bf16 that comes in pieces, cut anywhere.
pub(crate) fn load_bf16_pieces(pieces: &[Bytes], target: &mut [f32]) {
    bf16::load_pieces(pieces, target);
}

/// Largest magnitude among little-endian f32 values; infinity or NaN if any value is that.
///
/// Compares the bits without their sign: for f32 that is the order of magnitudes, with infinity
/// above every number and NaN above infinity.
#[must_use]
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub fn magnitude_max(bytes: &[u8]) -> f32 {
    let (words, _) = bytes.as_chunks::<4>();
    let bits = words.iter().map(|word| u32::from_le_bytes(*word) & 0x7fff_ffff).fold(0, u32::max);
    f32::from_bits(bits)
}

/// A copy, on the machines that order bytes as the wire does.
#[cfg(target_endian = "little")]
fn load(bytes: &[u8], target: &mut [f32]) {
    bytemuck::cast_slice_mut::<f32, u8>(target).copy_from_slice(bytes);
}

#[cfg(target_endian = "big")]
fn load(bytes: &[u8], target: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<4>();
    target.iter_mut().zip(words).for_each(|(value, word)| *value = f32::from_le_bytes(*word));
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn add(bytes: &[u8], sum: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<4>();
    sum.iter_mut().zip(words).for_each(|(value, word)| *value += f32::from_le_bytes(*word));
}

fn store(values: &[f32], target: &mut [u8]) {
    let (words, _) = target.as_chunks_mut::<4>();
    words.iter_mut().zip(values).for_each(|(word, value)| *word = value.to_le_bytes());
}

#[cfg(test)]
mod tests;
