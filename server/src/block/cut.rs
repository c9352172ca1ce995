//! A block's state of one step, set aside for a checkpoint while training goes on, and put back on restore.
//!
//! What is set aside are references: weights never change once made, and planes are copied by the next update if
//! they are still held then (copy-on-write). So a cut costs nothing where a block is written before its next update,
//! and at most one more copy of its planes and one more version of its weights where it is not; `aside.rs` uses their
//! memory again.

use std::sync::Arc;

use bytes::Bytes;
use halflife_optim::Plane;
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::Step;
use halflife_proto::refusal::{Refusal, RefusalCause};

use super::{Block, Change, Planes, State, Version};
use crate::planted::{Bug, planted};

/// The whole state of a block after one step.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Which block.
    pub block: BlockId,
    /// Its weights.
    pub weights: Version,
    /// Its planes, in the optimizer's order.
    pub planes: Planes,
    /// Updates that bias correction counts.
    pub updates: u64,
}

/// What becomes of a wish to cut.
#[derive(Debug)]
pub enum Cut {
    /// It is set aside.
    Taken(Captured),
    /// It will be, once the block is at the step: [`Block::take_cut`].
    Waits,
    /// The block is at, or on its way to, this later step.
    Passed(Step),
}

impl Block {
    /// Sets the state after `step` aside, now or later. In the asynchronous modes, whose versions are not steps: the
    /// newest, if no push is under way.
    #[must_use]
    pub fn cut(&self, step: Step) -> Cut {
        let mut state = self.lock();
        state.cut = None;
        let Some(current) = &state.current else {
            state.cut = Some(step);
            return Cut::Waits;
        };
        let newest = current.step;
        match state.planes {
            _ if !self.changes() => Cut::Taken(self.set_aside(&mut state, step)),
            None if newest >= step || self.rules.has_tickets() => Cut::Passed(newest.next()),
            Some(_) if newest == step || self.rules.has_tickets() => Cut::Taken(self.set_aside(&mut state, newest)),
            _ if newest > step => Cut::Passed(newest),
            _ => {
                state.cut = Some(step);
                Cut::Waits
            }
        }
    }

    /// What was to be set aside, if the block has just reached that step. Must be called between
    /// [`Block::install`] and the moment when others learn of the new version: then nothing can have changed it.
    #[must_use]
    pub fn take_cut(&self) -> Option<Captured> {
        let mut state = self.lock();
        let step = state.cut?;
        let due = if planted(Bug::CutTooLate) && step > Step::ZERO { step.next() } else { step };
        let there = state.current.as_ref().is_some_and(|current| current.step == due || !self.changes());
        if !there || state.planes.is_none() {
            return None;
        }
        state.cut = None;
        Some(self.set_aside(&mut state, step))
    }

    /// Nothing is to be set aside any more.
    pub fn forget_cut(&self) {
        self.lock().cut = None;
    }

    /// The state as it stands, unless it has none or an update has it: for whoever looks from outside.
    #[cfg(feature = "simulation")]
    pub(crate) fn capture(&self) -> Option<Captured> {
        let state = self.lock();
        let newest = state.current.as_ref()?.step;
        state.planes.is_some().then(|| self.captured(&state, newest))
    }

    /// Its planes as they are now, unless an update has them.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn planes_now(&self) -> Option<Planes> {
        self.lock().planes.clone()
    }

    fn set_aside(&self, state: &mut State, step: Step) -> Captured {
        let captured = self.captured(state, step);
        if self.changes() {
            self.prepare(state, &captured);
            state.aside.note(state.current.as_ref().expect("it has just been captured").step);
        }
        captured
    }

    fn prepare(&self, state: &mut State, captured: &Captured) {
        let buffer = || self.rules.weights_buffer(self.elements);
        state.aside.prepare(&captured.planes, &captured.weights, buffer);
    }

    fn captured(&self, state: &State, step: Step) -> Captured {
        let weights = state.current.clone().expect("looked at by the caller").carried_to(step);
        let planes = state.planes.clone().expect("looked at by the caller");
        Captured { block: self.id, weights, planes, updates: state.updates }
    }

    /// Puts a state back that was set aside after `step`, into a block that has none. `weights` are little-endian f32,
    /// `planes` are named.
    ///
    /// # Errors
    /// `WRONG_SIZE` or `UNKNOWN_BLOCK` when that is not the state of such a block; nothing has changed.
    pub fn restore(
        &self,
        step: Step,
        weights: &Bytes,
        planes: Vec<(String, Plane)>,
        updates: u64,
    ) -> Result<(), Refusal> {
        let expected = size_of::<f32>() * self.elements;
        if weights.len() != expected {
            let what = format!("stored weights of {}", self.id);
            return Err(Refusal::mismatch(RefusalCause::WrongSize, what, format!("{expected} bytes"), weights.len()));
        }
        let mut state = self.lock();
        let known = state.planes.clone().unwrap_or_default();
        let planes = self.in_order(&known, planes)?;
        let mut buffer = self.rules.weights_buffer(self.elements);
        buffer.write(0..self.elements, |values| bytemuck::cast_slice_mut(values).copy_from_slice(weights));
        let (lr, decay) = match &self.change {
            Change::Optimized(rule) if step > Step::ZERO => {
                let factors = self.rules.optimizer.factors(rule, step.0, updates.max(1));
                (factors.lr(), factors.decay())
            }
            _ => (0.0, 0.0),
        };
        state.current = Some(Version::new(step, lr, decay, buffer));
        let updates = if planted(Bug::UpdatesNotRestored) { 0 } else { updates };
        (state.previous, state.planes, state.updates) = (None, Some(planes), updates);
        state.pushes.resume(step);
        if self.changes() {
            let captured = self.captured(&state, step);
            self.prepare(&mut state, &captured);
        }
        Ok(())
    }

    /// The planes in the optimizer's order, each as long and of the dtype as in `known`.
    fn in_order(&self, known: &[Plane], mut planes: Vec<(String, Plane)>) -> Result<Planes, Refusal> {
        let specs = match self.change {
            Change::Optimized(_) => self.rules.optimizer.planes(),
            Change::Averaged | Change::Never => &[],
        };
        let mut ordered = Vec::with_capacity(specs.len());
        for (spec, own) in specs.iter().zip(known) {
            let what = format!("stored plane {:?} of {}", spec.name, self.id);
            let shown = |plane: &Plane| format!("{} values of {:?}", plane.len(), plane.dtype());
            let Some(at) = planes.iter().position(|(name, _)| name == spec.name) else {
                return Err(Refusal::mismatch(RefusalCause::UnknownBlock, what, shown(own), "none"));
            };
            let (_, plane) = planes.swap_remove(at);
            if plane.len() != own.len() || plane.dtype() != own.dtype() {
                return Err(Refusal::mismatch(RefusalCause::WrongSize, what, shown(own), shown(&plane)));
            }
            ordered.push(plane);
        }
        match planes.first() {
            None => Ok(Arc::new(ordered)),
            Some((name, _)) => {
                let what = format!("stored planes of {}", self.id);
                let expected = specs.iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ");
                Err(Refusal::mismatch(RefusalCause::UnknownBlock, what, format!("[{expected}]"), name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bytes, contribution, initialized, rules_of};
    use super::super::{Contributed, Rules, Summer};
    use super::*;
    use crate::config::NonfinitePolicy;
    use halflife_proto::job::Combine;

    const ADAM: &str = "algorithm = \"adam\"\nlr = 0.5\nweight_decay = { mode = \"decoupled\", value = 0.1 }";

    fn rules() -> Arc<Rules> {
        rules_of(ADAM, Combine::Mean, NonfinitePolicy::Stop)
    }

    fn step(block: &Block, step: u64) {
        let gradient = bytes(&[step as f32, -0.5]);
        let Ok(Contributed::Ready(_, update)) = block.contribute(contribution(step, (0, 4), gradient)) else {
            panic!("{step} is not whole")
        };
        block.install(update.run(&mut Summer::default()));
    }

    fn state_of(captured: &Captured) -> (Vec<f32>, Vec<Plane>, u64) {
        (captured.weights.values().to_vec(), captured.planes.to_vec(), captured.updates)
    }

    #[test]
    fn a_block_is_set_aside_as_it_passes_the_step_and_later_updates_leave_that_alone() {
        let block = initialized(&rules());
        assert!(matches!(block.cut(Step(2)), Cut::Waits));
        step(&block, 1);
        assert!(block.take_cut().is_none());
        step(&block, 2);
        let captured = block.take_cut().expect("the block is at step 2");
        assert!(block.take_cut().is_none(), "once");
        let before = state_of(&captured);
        let planes = captured.planes.clone();
        step(&block, 3);
        step(&block, 4);
        assert_eq!(state_of(&captured), before);
        assert_eq!(captured.weights.step, Step(2));
        assert_ne!(block.current().unwrap().values(), captured.weights.values());
        drop(captured);
        assert_eq!(Arc::strong_count(&planes), 2, "the block keeps their memory, and changes others");
    }

    #[test]
    fn a_step_can_be_cut_until_the_block_leaves_it() {
        let block = initialized(&rules());
        assert!(matches!(block.cut(Step(0)), Cut::Taken(captured) if captured.weights.step == Step(0)));
        let Ok(Contributed::Ready(_, update)) = block.contribute(contribution(1, (0, 4), bytes(&[1.0, 1.0]))) else {
            panic!("the step is whole")
        };
        assert!(matches!(block.cut(Step(0)), Cut::Passed(Step(1))), "its planes are changing");
        assert!(matches!(block.cut(Step(1)), Cut::Waits));
        block.forget_cut();
        block.install(update.run(&mut Summer::default()));
        assert!(block.take_cut().is_none());
        assert!(matches!(block.cut(Step(0)), Cut::Passed(Step(1))));
        assert!(matches!(block.cut(Step(1)), Cut::Taken(_)));
    }

    fn named(captured: &Captured, rules: &Rules) -> Vec<(String, Plane)> {
        let names = rules.optimizer.planes().iter().map(|spec| spec.name.to_owned());
        names.zip(captured.planes.iter().cloned()).collect()
    }

    #[test]
    fn what_was_set_aside_goes_on_in_another_block_bit_for_bit() {
        let rules = rules();
        let block = initialized(&rules);
        step(&block, 1);
        step(&block, 2);
        let Cut::Taken(captured) = block.cut(Step(2)) else { panic!("the block is at step 2") };
        let other = super::super::tests::block(&rules);
        other.restore(Step(2), &captured.weights.bytes(), named(&captured, &rules), captured.updates).unwrap();
        for number in 3..6 {
            step(&block, number);
            step(&other, number);
            let (Cut::Taken(a), Cut::Taken(b)) = (block.cut(Step(number)), other.cut(Step(number))) else {
                panic!("both are at step {number}")
            };
            assert_eq!(state_of(&a), state_of(&b));
        }
        let again = other.contribute(contribution(0, (0, 1), bytes(&[9.0, 9.0])));
        assert!(matches!(again, Ok(Contributed::Noted(_))), "it has been initialized, in an earlier generation");
    }

    #[test]
    fn a_state_of_another_kind_is_refused_and_changes_nothing() {
        let rules = rules();
        let Cut::Taken(captured) = initialized(&rules).cut(Step(0)) else { panic!("it is at step 0") };
        let other = super::super::tests::block(&rules);
        let (weights, planes) = (captured.weights.bytes(), named(&captured, &rules));
        let refused = |weights: &Bytes, planes: &[(String, Plane)]| {
            other.restore(Step(0), weights, planes.to_vec(), 0).unwrap_err().to_string()
        };
        assert!(refused(&weights.slice(4..), &planes).contains("expected 8 bytes, found 4"));
        assert!(refused(&weights, &planes[1..]).contains("expected 2 values of F32, found none"));
        let short = [("m".to_owned(), Plane::F32(vec![0.0])), planes[1].clone()];
        assert!(refused(&weights, &short).contains("expected 2 values of F32, found 1 values of F32"));
        let more = [&planes[..], &[("x".to_owned(), Plane::F32(vec![0.0; 2]))]].concat();
        assert!(refused(&weights, &more).contains("found x"));
        assert!(other.current().is_none());
    }
}
