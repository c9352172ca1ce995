//! Whether a contribution is one that a block may take, whatever the block holds: its encoding, its place in the tree
//! over slots, its weight, its mode. Changes nothing.

use halflife_proto::contribution::Contribution;
use halflife_proto::ids::Step;
use halflife_proto::job::Combine;
use halflife_proto::manifest::Role;
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::tensor_codec::{Dtype, Encoded};

use super::{Block, Change};

impl Block {
    /// Dtype and size, and that nothing was rounded after it was summed.
    pub(super) fn check_encoding(&self, data: &Encoded, contribution: &Contribution) -> Result<(), Refusal> {
        let dtype = self.contribution_dtype(contribution);
        let what = || format!("data of {}", self.id);
        if data.dtype != dtype {
            return Err(Refusal::mismatch(RefusalCause::WrongDtype, what(), dtype, data.dtype));
        }
        let bytes = dtype.encoded_bytes(self.elements);
        if data.bytes.len() != bytes {
            let expected = format!("{bytes} bytes ({} {dtype})", self.elements);
            let found = format!("{} bytes", data.bytes.len());
            return Err(Refusal::mismatch(RefusalCause::WrongSize, what(), expected, found));
        }
        // A push is all slots at once: where order decides the bits, there are none to keep by encoding
        // each slot alone.
        if dtype.is_lossy() && contribution.slots.count() > 1 && contribution.push.is_none() {
            let what = format!("slots of a dense {dtype} contribution");
            return Err(Refusal::mismatch(RefusalCause::MisalignedSlots, what, "a single slot", contribution.slots));
        }
        Ok(())
    }

    /// The dtype in which data for this block comes. Initial weights are the f32 masters themselves.
    pub(super) fn contribution_dtype(&self, contribution: &Contribution) -> Dtype {
        match (is_initial(contribution), &self.change) {
            (true, _) => Dtype::F32,
            (_, Change::Averaged) => self.rules.wire.contributions(&Role::Buffer),
            (_, Change::Optimized(_) | Change::Never) => self.rules.wire.contributions(&Role::Trainable),
        }
    }

    pub(super) fn check_node(&self, contribution: &Contribution) -> Result<(), Refusal> {
        let Contribution { slots, weight, .. } = *contribution;
        self.check_mode(contribution)?;
        if !self.rules.slots.is_node(slots) {
            let expected = format!("a node of the tree over {} slots", self.rules.slots.slots());
            return Err(Refusal::mismatch(RefusalCause::MisalignedSlots, "slot range", expected, slots));
        }
        let count = f64::from(slots.count());
        #[expect(clippy::float_cmp, reason = "slot counts are exact in f64")]
        if self.rules.combine != Combine::WeightedMean && weight != count {
            let what = format!("sample weight of {slots}");
            return Err(Refusal::mismatch(RefusalCause::InvalidWeight, what, count, weight));
        }
        Ok(())
    }

    /// That the contribution is of the job's mode, and of the slots that the mode takes at once.
    fn check_mode(&self, contribution: &Contribution) -> Result<(), Refusal> {
        let (rules, slots) = (&self.rules, contribution.slots);
        let mode = rules.consistency.mode.name();
        let what = || format!("contribution to {} (job.mode = {mode:?})", self.id);
        match contribution.push {
            Some(push) if !rules.has_tickets() => {
                Err(Refusal::mismatch(RefusalCause::Malformed, what(), "no ticket", push.ticket))
            }
            None if rules.has_tickets() => Err(Refusal::mismatch(RefusalCause::Malformed, what(), "a ticket", "none")),
            Some(_) if slots != rules.slots.root() => {
                Err(Refusal::mismatch(RefusalCause::MisalignedSlots, what(), rules.slots.root(), slots))
            }
            None if rules.has_quorum() && slots.count() > 1 => {
                let expected = "a single slot, since a quorum chooses among slots";
                Err(Refusal::mismatch(RefusalCause::MisalignedSlots, what(), expected, slots))
            }
            _ => Ok(()),
        }
    }
}

/// Whether it sets the block's first weights.
pub(super) fn is_initial(contribution: &Contribution) -> bool {
    contribution.step == Step::ZERO && contribution.push.is_none()
}
