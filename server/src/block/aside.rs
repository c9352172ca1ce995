//! Memory of a block that a checkpoint holds: it comes back once that is written, and the next checkpoint allocates
//! nothing. For the first one it is there when the job begins, or comes back.
//!
//! Memory that the system gives anew costs more than writing it: the step in which every block is copied would take
//! several hundred milliseconds longer with a large model.

use std::sync::Arc;

use halflife_optim::Plane;
use halflife_proto::ids::Step;

use super::weights::WeightsBuffer;
use super::{Planes, Version};

/// What was set aside last, as far as the block has moved on from it.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// The version that was set aside.
    version: Option<Step>,
    weights: Option<Version>,
    planes: Option<Planes>,
}

impl Aside {
    /// Gets the memory that the first checkpoint needs, once, and writes to it: while nobody trains yet.
    pub(super) fn prepare(&mut self, planes: &Planes, current: &Version, buffer: impl FnOnce() -> WeightsBuffer) {
        if self.version.is_some() || self.planes.is_some() {
            return;
        }
        self.planes = Some(Arc::new(planes.to_vec()));
        let mut buffer = buffer();
        buffer.write(0..current.values().len(), |values| values.copy_from_slice(current.values()));
        self.weights = Some(Version::new(current.step, 0.0, 0.0, buffer));
    }

    /// This version is set aside.
    pub(super) fn note(&mut self, version: Step) {
        self.version = Some(version);
    }

    /// The planes of it, which an update has left.
    pub(super) fn keep_planes(&mut self, left: Planes) {
        self.planes = Some(left);
    }

    /// Planes that nobody reads any more, whatever they hold.
    pub(super) fn spare_planes(&mut self) -> Option<Planes> {
        self.planes.take().filter(|planes| Arc::strong_count(planes) == 1)
    }

    /// A buffer for weights to come: that of `previous`, which is no longer needed, or else a spare one.
    pub(super) fn buffer_after(&mut self, previous: Option<Version>) -> Option<WeightsBuffer> {
        let previous = match previous?.reclaim() {
            Ok(buffer) => return Some(buffer),
            Err(previous) => previous,
        };
        let spare = self.weights.take().and_then(|weights| weights.reclaim().ok());
        // Whoever else still reads it is slow, and bounded elsewhere.
        if self.version == Some(previous.step) {
            self.weights = Some(previous);
        }
        spare
    }
}

/// Planes in an update's hands. Where somebody else reads them, others are written in their place.
#[derive(Debug)]
pub(super) struct PlanesInUse {
    planes: Planes,
    /// To write to, if need be: nobody else has them.
    spare: Option<Planes>,
    left: Option<Planes>,
}

impl PlanesInUse {
    /// `spare` is of the same lengths, if there is one.
    pub(super) fn new(planes: Planes, spare: impl FnOnce() -> Option<Planes>) -> PlanesInUse {
        let spare = if Arc::strong_count(&planes) > 1 { spare() } else { None };
        PlanesInUse { planes, spare, left: None }
    }

    /// To read.
    pub(super) fn values(&self) -> &[Plane] {
        &self.planes
    }

    /// To update in place.
    pub(super) fn writable(&mut self) -> &mut [Plane] {
        let (before, planes) = self.writable_after();
        for (plane, before) in planes.iter_mut().zip(before.iter().flat_map(|before| before.iter())) {
            plane.view_mut().copy_from(before.view());
        }
        planes
    }

    /// The same where the caller copies what it is about to update from what is given first, if something is: a piece
    /// at a time, which then is in cache.
    pub(super) fn writable_after(&mut self) -> (Option<Planes>, &mut [Plane]) {
        let mut before = None;
        if Arc::get_mut(&mut self.planes).is_none() {
            let others =
                self.spare.take().unwrap_or_else(|| Arc::new(self.planes.iter().map(Plane::zeros_like).collect()));
            let read = std::mem::replace(&mut self.planes, others);
            self.left = Some(read.clone());
            before = Some(read);
        }
        (before, Arc::get_mut(&mut self.planes).expect("nobody else has seen them"))
    }

    /// The planes, and those that are left: others that somebody else reads, or a spare that was not needed after all.
    pub(super) fn into_parts(self) -> (Planes, Option<Planes>) {
        (self.planes, self.left.or(self.spare))
    }
}

#[cfg(test)]
mod tests {
    use halflife_proto::tensor_codec::Dtype;

    use super::*;

    fn planes(values: &[f32]) -> Planes {
        Arc::new(vec![Plane::F32(values.to_vec())])
    }

    fn address(planes: &[Plane]) -> *const f32 {
        planes[0].to_f32().as_ptr()
    }

    #[test]
    fn planes_that_nobody_else_reads_are_updated_where_they_are() {
        let planes = planes(&[1.0, 2.0]);
        let before = address(&planes);
        let mut used = PlanesInUse::new(planes, || panic!("no other is needed"));
        assert_eq!(address(used.writable()), before);
        assert!(used.into_parts().1.is_none());
    }

    #[test]
    fn planes_that_a_checkpoint_holds_stay_as_they_are_and_come_back_later() {
        let mut aside = Aside::default();
        let first = planes(&[1.0, 2.0]);
        let held = first.clone();
        let mut used = PlanesInUse::new(first, || aside.spare_planes());
        used.writable()[0].slice_mut(0..1).copy_from(Plane::F32(vec![5.0]).view());
        let (second, left) = used.into_parts();
        aside.keep_planes(left.unwrap());
        assert_eq!((&held[0], &second[0]), (&Plane::F32(vec![1.0, 2.0]), &Plane::F32(vec![5.0, 2.0])));

        // It is written; the next one holds the second.
        let first = address(&held);
        drop(held);
        let held = second.clone();
        let mut used = PlanesInUse::new(second, || aside.spare_planes());
        let written = used.writable();
        assert_eq!((address(written), &written[0]), (first, &held[0]), "the memory goes round");
    }

    #[test]
    fn a_spare_that_is_not_needed_after_all_is_kept() {
        let (first, spare) = (planes(&[1.0]), planes(&[0.0]));
        let (held, at) = (first.clone(), address(&spare));
        let mut used = PlanesInUse::new(first, || Some(spare));
        drop(held);
        used.writable();
        assert_eq!(used.into_parts().1.map(|left| address(&left)), Some(at));
    }

    #[test]
    fn the_first_checkpoint_finds_its_memory_ready() {
        let mut aside = Aside::default();
        let (planes, current) = (planes(&[1.0, 2.0]), version(0));
        let buffer = || WeightsBuffer::new(3, Dtype::F32);
        aside.prepare(&planes, &current, buffer);
        aside.prepare(&planes, &current, || panic!("once"));
        assert_ne!(aside.planes.as_deref().map(|spare| address(spare)), Some(address(&planes)));
        let held = current.clone();
        aside.note(Step(0));
        aside.prepare(&planes, &current, || panic!("once"));
        assert!(aside.buffer_after(Some(current)).is_some());
        assert!(aside.spare_planes().is_some_and(|spare| spare[0].len() == 2));
        drop(held);
        assert!(aside.buffer_after(Some(version(1))).is_some());
    }

    #[test]
    fn memory_that_is_still_read_is_left_to_whoever_reads_it() {
        let mut aside = Aside::default();
        let held = planes(&[1.0]);
        aside.keep_planes(held.clone());
        assert!(aside.spare_planes().is_none());
        assert_eq!(held[0], Plane::F32(vec![1.0]));
    }

    fn version(step: u64) -> Version {
        Version::new(Step(step), 0.0, 0.0, WeightsBuffer::new(3, Dtype::F32))
    }

    #[test]
    fn the_buffer_of_a_version_that_was_set_aside_comes_back_when_it_is_written() {
        let mut aside = Aside::default();
        let set_aside = version(7);
        let (held, at) = (set_aside.clone(), set_aside.values().as_ptr());
        aside.note(Step(7));
        assert!(aside.buffer_after(Some(set_aside)).is_none());
        drop(held);
        assert!(aside.buffer_after(Some(version(8))).is_some_and(|mut buffer| buffer.values_mut().as_ptr() != at));
        // Another is held by a slow reader: the spare one takes its place, and is not kept in its turn.
        let (slow, reader) = (version(9), version(9));
        let read = slow.clone();
        assert!(aside.buffer_after(Some(slow)).is_some_and(|mut buffer| buffer.values_mut().as_ptr() == at));
        drop((read, reader));
        assert!(aside.buffer_after(None).is_none());
    }
}
