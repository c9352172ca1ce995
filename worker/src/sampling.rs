//! Which samples make up a slot.
//!
//! Promises: slot s of step t is a function of (seed, t, s) and the job's shape alone, so it is the
//! same whoever computes it, in whatever order, after any restart. Each epoch visits every training
//! sample exactly once, in an order of its own. Does not: hold any state or touch the data.

use halflife_proto::ids::Step;

use crate::permutation::Permutation;
use crate::random::{Philox, Purpose};

/// Cuts the endless sequence of epochs into slots: the slots of step 1 in order, then those of
/// step 2, and so on, each taking the next `samples_per_slot` positions. A slot may run over the
/// end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    seed: u64,
    samples: u64,
    slots: u32,
    samples_per_slot: u32,
}

impl Sampler {
    /// For a training set of `samples` samples; all counts are at least 1.
    ///
    /// # Panics
    /// If a count is zero.
    #[must_use]
    pub fn new(seed: u64, samples: usize, slots: u32, samples_per_slot: u32) -> Sampler {
        assert!(samples > 0 && slots > 0 && samples_per_slot > 0, "a sampler over nothing");
        Sampler { seed, samples: samples as u64, slots, samples_per_slot }
    }

    /// Indices into the training set of slot `slot` of `step`.
    ///
    /// # Panics
    /// At step 0, which takes no samples, and for a slot that is not in the job.
    #[must_use]
    pub fn slot(&self, step: Step, slot: u32) -> Vec<usize> {
        assert!(step > Step::ZERO && slot < self.slots, "{step} has no slot {slot}");
        let slots_before = u128::from(step.0 - 1) * u128::from(self.slots) + u128::from(slot);
        let begin = slots_before * u128::from(self.samples_per_slot);
        (begin..begin + u128::from(self.samples_per_slot)).map(|position| self.sample(position)).collect()
    }

    fn sample(&self, position: u128) -> usize {
        let samples = u128::from(self.samples);
        // Beyond 2^64 epochs the orders repeat.
        let epoch = Philox::derive(self.seed, Purpose::Epoch, (position / samples) as u64);
        Permutation::new(epoch, self.samples).at((position % samples) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The samples of steps 1..=steps, in slot order.
    fn sequence(sampler: &Sampler, steps: u64) -> Vec<usize> {
        (1..=steps).flat_map(|step| (0..sampler.slots).flat_map(move |slot| sampler.slot(Step(step), slot))).collect()
    }

    proptest! {
        #[test]
        fn each_epoch_visits_every_sample_once(
            seed: u64, samples in 1usize..200, slots in 1u32..9, samples_per_slot in 1u32..20,
        ) {
            let sampler = Sampler::new(seed, samples, slots, samples_per_slot);
            let steps = (3 * samples as u64).div_ceil(u64::from(slots * samples_per_slot));
            for epoch in sequence(&sampler, steps).chunks_exact(samples) {
                let mut visited = epoch.to_vec();
                visited.sort_unstable();
                prop_assert!(visited.into_iter().eq(0..samples));
            }
        }

        #[test]
        fn any_slot_is_in_range(seed: u64, step in 1u64.., slot in 0u32..8, samples in 1usize..5000) {
            let slot = Sampler::new(seed, samples, 8, 3).slot(Step(step), slot);
            prop_assert!(slot.len() == 3 && slot.iter().all(|sample| *sample < samples));
        }
    }

    #[test]
    fn epochs_and_seeds_differ_in_their_order() {
        let epochs = sequence(&Sampler::new(1, 100, 4, 25), 2);
        assert_ne!(epochs[..100], epochs[100..]);
        assert_ne!(epochs[..100], sequence(&Sampler::new(2, 100, 4, 25), 1)[..]);
    }

    #[test]
    fn slots_are_the_same_in_any_order_of_asking() {
        let sampler = Sampler::new(9, 1437, 8, 16);
        let forwards: Vec<_> = (0..8).map(|slot| sampler.slot(Step(77), slot)).collect();
        let backwards: Vec<_> = (0..8).rev().map(|slot| Sampler::new(9, 1437, 8, 16).slot(Step(77), slot)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
    }

    #[test]
    fn the_samples_of_a_step_do_not_depend_on_how_it_is_cut_into_slots() {
        assert_eq!(sequence(&Sampler::new(3, 50, 8, 4), 10), sequence(&Sampler::new(3, 50, 1, 32), 10));
    }

    /// These indices are part of every published digest: they may never change.
    #[test]
    fn the_bits_are_pinned() {
        assert_eq!(Sampler::new(1, 1437, 8, 4).slot(Step(1), 0), [988, 935, 709, 676]);
        assert_eq!(Sampler::new(1, 1437, 8, 4).slot(Step(1000), 7), [535, 1007, 646, 447]);
    }
}
