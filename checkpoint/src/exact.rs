//! How numbers stand in JSON: f64 by their bits, ids as numbers, digests in hex.

/// f64 as `{"bits": "3fb999999999999a", "reads": "0.1"}`. The bits count, `reads` is for people:
/// decimals round-trip in most readers, but infinities and NaN have no JSON at all.
pub mod float {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Exact {
        bits: String,
        reads: String,
    }

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Exact { bits: format!("{:016x}", value.to_bits()), reads: format!("{value:?}") }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let exact = Exact::deserialize(deserializer)?;
        match u64::from_str_radix(&exact.bits, 16) {
            Ok(bits) if exact.bits.len() == 16 => Ok(f64::from_bits(bits)),
            _ => Err(D::Error::custom(format!("expected the bits of an f64 as 16 hex digits, found {:?}", exact.bits))),
        }
    }
}

macro_rules! as_number {
    ($(#[$doc:meta])* $module:ident, $id:ident, $number:ty) => {
        $(#[$doc])*
        pub mod $module {
            use halflife_proto::ids::$id;
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            pub fn serialize<S: Serializer>(id: &$id, serializer: S) -> Result<S::Ok, S::Error> {
                id.0.serialize(serializer)
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$id, D::Error> {
                <$number>::deserialize(deserializer).map($id)
            }
        }
    };
}

as_number!(
    /// A step as its number.
    step, Step, u64
);
as_number!(
    /// A generation as its number.
    generation, Generation, u64
);
as_number!(
    /// A server as its index.
    server, ServerIndex, u32
);

/// A BLAKE3 digest as 64 lower-case hex digits.
pub mod digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(digest: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&super::hex(digest))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        super::from_hex(&text)
            .ok_or_else(|| D::Error::custom(format!("expected 64 lower-case hex digits, found {text:?}")))
    }
}

/// A digest as 64 lower-case hex digits.
pub fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

/// The digest that [`hex`] spells so, and no other spelling of it.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digest = *blake3::Hash::from_hex(text).ok()?.as_bytes();
    (hex(&digest) == text).then_some(digest)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Exact(#[serde(with = "super::float")] f64);

    #[test]
    fn every_float_keeps_its_bits() {
        for value in [0.1, -0.0, 1.0 / 3.0, f64::NEG_INFINITY, f64::from_bits(0x7ff8_0000_0000_1234), 5e-324] {
            let text = serde_json::to_string(&Exact(value)).unwrap();
            let back: Exact = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), value.to_bits(), "{text}");
        }
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let text = super::hex(&[0xab; 32]);
        assert_eq!(super::from_hex(&text), Some([0xab; 32]));
        assert_eq!(super::from_hex(&text.to_uppercase()), None);
        assert_eq!(super::from_hex("ab"), None);
    }
}
