//! Random numbers without state: Philox 4x32-10.
//!
//! Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011. A number is a function of (key, counter), so anyone can compute any of them in any
//! order. Integer arithmetic only: the same bits on every machine. Not for secrets.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// What numbers are drawn for; each purpose has streams of its own. The discriminants are part of
/// every trained bit: never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Order of the samples; the index is the epoch.
    Epoch = 1,
    /// Parts of the data; the index is the part that is drawn.
    Split = 2,
    /// Initial weights; the index is the tensor.
    Weights = 3,
}

/// A stream of random blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The stream of a key.
    pub(crate) fn new(key: u64) -> Philox {
        Philox { key: halves(key) }
    }

    /// The stream of (seed, purpose, index).
    pub(crate) fn derive(seed: u64, purpose: Purpose, index: u64) -> Philox {
        let [low, high] = halves(index);
        let [a, b, ..] = Philox::new(seed).block([low, high, purpose as u32, 0]);
        Philox { key: [a, b] }
    }

    /// Block number `counter` of the stream: 128 random bits.
    pub(crate) fn block(self, counter: [u32; 4]) -> [u32; 4] {
        let (mut counter, mut key) = (counter, self.key);
        for _ in 0..ROUNDS {
            let [low_a, high_a] = halves(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
            let [low_b, high_b] = halves(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
            counter = [high_b ^ counter[1] ^ key[0], low_b, high_a ^ counter[3] ^ key[1], low_a];
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        counter
    }

    /// 64 random bits for a value and a round.
    pub(crate) fn word(self, value: u64, round: u32) -> u64 {
        let [low, high] = halves(value);
        let [a, b, ..] = self.block([low, high, round, 0]);
        u64::from(a) | u64::from(b) << 32
    }

    /// Number `index` of a sequence of f32 spread evenly over the multiples of 2^-24 in \[0, 1).
    pub(crate) fn uniform(self, index: u64) -> f32 {
        let [low, high] = halves(index / 4);
        let bits = self.block([low, high, 0, 0])[(index % 4) as usize];
        (bits >> 8) as f32 / (1u32 << 24) as f32
    }
}

/// Low half first.
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with Random123, the authors' implementation.
    #[test]
    fn blocks_are_the_published_ones() {
        let cases = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(Philox { key }.block(counter), expected);
        }
    }

    #[test]
    fn purposes_and_indices_have_streams_of_their_own() {
        let streams = [
            Philox::derive(1, Purpose::Epoch, 0),
            Philox::derive(1, Purpose::Epoch, 1),
            Philox::derive(1, Purpose::Epoch, 1 << 32),
            Philox::derive(1, Purpose::Split, 0),
            Philox::derive(2, Purpose::Epoch, 0),
        ];
        for (i, a) in streams.iter().enumerate() {
            assert!(streams[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        let stream = Philox::new(7);
        let mut counts = [0u32; 10];
        for index in 0..100_000 {
            let value = stream.uniform(index);
            assert!((0.0..1.0).contains(&value));
            counts[(value * 10.0) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
