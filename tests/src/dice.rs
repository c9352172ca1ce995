//! What faults a test makes, and when: seeded, so that it can be run again.

/// Pseudo-random numbers that are the same everywhere (splitmix64).
#[derive(Debug)]
pub struct Dice(u64);

#[allow(clippy::print_stdout, reason = "tests tell what they do")]
impl Dice {
    /// Seeded with `FAULTS_SEED`, or 1; says so, so that a run can be repeated.
    #[must_use]
    pub fn from_environment() -> Dice {
        let seed = std::env::var("FAULTS_SEED").map_or(1, |seed| seed.parse().expect("FAULTS_SEED is a number"));
        println!("FAULTS_SEED={seed}");
        Dice(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// One of several.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
