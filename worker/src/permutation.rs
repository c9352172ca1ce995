//! A permutation of 0..n that needs no table: position -> element in O(1) time and space.
//!
//! A generalized Feistel cipher on a x b >= n (J. Black, P. Rogaway, "Ciphers with arbitrary finite
//! domains", CT-RSA 2002, section 5) with Philox as its round function, walked until it lands below
//! n. With a = ceil(sqrt(n)) fewer than a positions lie outside, so a walk is almost always one
//! step. Ten rounds, as in NIST SP 800-38G's FF1: small domains need more than the three of the
//! theory. Not for secrets.

use crate::random::Philox;

const ROUNDS: u32 = 10;

/// A permutation of 0..n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permutation {
    stream: Philox,
    elements: u64,
    columns: u64,
    rows: u64,
}

impl Permutation {
    /// The permutation of 0..`elements` that `stream` keys; `elements` is at least 1.
    pub(crate) fn new(stream: Philox, elements: u64) -> Permutation {
        assert!(elements > 0, "a permutation of nothing");
        let root = elements.isqrt();
        let columns = if root * root == elements { root } else { root + 1 };
        Permutation { stream, elements, columns, rows: elements.div_ceil(columns) }
    }

    /// The element at a position below n.
    pub(crate) fn at(self, position: u64) -> u64 {
        assert!(position < self.elements, "position {position} of {}", self.elements);
        let mut value = self.encipher(position);
        // Ends: the walk stays on one cycle of a bijection, and that cycle holds `position` < n.
        while value >= self.elements {
            value = self.encipher(value);
        }
        value
    }

    /// A bijection of 0..columns x rows.
    fn encipher(self, value: u64) -> u64 {
        let (mut column, mut row) = (value % self.columns, value / self.columns);
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                column = (column + self.stream.word(row, round) % self.columns) % self.columns;
            } else {
                row = (row + self.stream.word(column, round) % self.rows) % self.rows;
            }
        }
        row * self.columns + column
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn elements_of(permutation: Permutation) -> Vec<u64> {
        (0..permutation.elements).map(|position| permutation.at(position)).collect()
    }

    proptest! {
        #[test]
        fn every_element_comes_exactly_once(key: u64, elements in 1u64..3000) {
            let mut found = elements_of(Permutation::new(Philox::new(key), elements));
            found.sort_unstable();
            prop_assert!(found.into_iter().eq(0..elements));
        }

        #[test]
        fn large_domains_stay_in_range(key: u64, elements in 1u64 << 40..1 << 60, position: u64) {
            let permutation = Permutation::new(Philox::new(key), elements);
            prop_assert!(permutation.at(position % elements) < elements);
        }
    }

    #[test]
    fn keys_give_different_orders() {
        let orders: Vec<_> = (0..20).map(|key| elements_of(Permutation::new(Philox::new(key), 50))).collect();
        for (i, a) in orders.iter().enumerate() {
            assert!(orders[i + 1..].iter().all(|b| a != b));
        }
    }

    /// Chi-square with 49 degrees of freedom, over keys, for the element at each of some positions:
    /// 99.9 % of fair permutations stay below 85.4.
    #[test]
    fn elements_are_spread_evenly_over_positions() {
        let keys = 20_000;
        for position in [0, 1, 24, 49] {
            let mut counts = [0f64; 50];
            for key in 0..keys {
                counts[Permutation::new(Philox::new(key), 50).at(position) as usize] += 1.0;
            }
            let expected = keys as f64 / 50.0;
            let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
            assert!(chi_square < 85.4, "position {position}: {chi_square}");
        }
    }

    /// All 24 orders of four elements occur, each about equally often.
    #[test]
    fn tiny_domains_reach_every_order() {
        let mut counts = std::collections::HashMap::new();
        for key in 0..24_000 {
            *counts.entry(elements_of(Permutation::new(Philox::new(key), 4))).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
