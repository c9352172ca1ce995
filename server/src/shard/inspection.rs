//! What a simulation looks at after every event: the state of one block, as it stands.

use bytes::Bytes;
use halflife_proto::blocks::BlockId;
use halflife_proto::ids::Step;

use super::Shard;
use crate::block::Captured;

/// A block as it stands.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq)]
pub struct BlockInspection {
    /// Newest step, `None` before the initialization.
    pub step: Option<Step>,
    /// Its weights: f32 masters.
    pub weights: Bytes,
    /// Bytes gathered for the step to come.
    pub gathered_bytes: usize,
}

impl Shard {
    /// Looks at a block; `None` when it is not here.
    #[doc(hidden)]
    #[must_use]
    pub fn inspect(&self, id: BlockId) -> Option<BlockInspection> {
        let block = self.blocks.get(id)?;
        let current = block.current();
        Some(BlockInspection {
            step: current.as_ref().map(|version| version.step),
            weights: current.map_or(Bytes::new(), |version| version.bytes()),
            gathered_bytes: block.gathered_bytes(),
        })
    }

    /// The whole state of a block as it stands; `None` when it is not here, has no weights, or is being updated.
    #[doc(hidden)]
    #[must_use]
    pub fn capture(&self, id: BlockId) -> Option<Captured> {
        self.blocks.get(id)?.capture()
    }

    /// Sessions that are open.
    #[doc(hidden)]
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.sessions.all().len()
    }
}
