//! The wire's bf16 and the optimizer's are one rounding: a gradient or weight that travels is rounded
//! as a moment that is stored. Two crates hold it, since neither may depend on the other.

use halflife_optim::bf16::{round, widen};
use halflife_proto::tensor_codec::{Dtype, Encoded, encode};

#[test]
fn the_wire_rounds_as_the_optimizer_does_at_and_around_every_bf16_and_every_midpoint() {
    let lowers = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    for lower in lowers {
        let values: Vec<f32> = (0..=u32::from(u16::MAX)).map(|upper| f32::from_bits(upper << 16 | lower)).collect();
        let mut bytes = vec![0; Dtype::Bf16.encoded_bytes(values.len())];
        encode(Dtype::Bf16, &values, &mut bytes);
        let encoded = Encoded { dtype: Dtype::Bf16, bytes: bytes.into() };
        let mut decoded = vec![0.0; values.len()];
        encoded.load(0, &mut decoded);
        for ((value, word), decoded) in values.iter().zip(encoded.bytes.as_chunks::<2>().0).zip(decoded) {
            assert_eq!(u16::from_le_bytes(*word), round(*value), "{value:e} {:#x}", value.to_bits());
            assert_eq!(decoded.to_bits(), widen(round(*value)).to_bits(), "{value:e}");
        }
    }
}
