//! Placement: which servers own which block, as the lead decided it.

use thiserror::Error;

use crate::blocks::{BlockId, block_count};
use crate::ids::ServerIndex;
use crate::manifest::Manifest;

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerAddress {
    /// From anywhere in the job. Empty when the server does not know it.
    pub url: String,
    /// From its own host: the path of a Unix socket; empty without one.
    pub unix_socket: String,
}

impl From<String> for ServerAddress {
    fn from(url: String) -> ServerAddress {
        ServerAddress { url, unix_socket: String::new() }
    }
}

impl From<&str> for ServerAddress {
    fn from(url: &str) -> ServerAddress {
        ServerAddress::from(url.to_owned())
    }
}

/// Block -> servers; complete for its manifest by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    version: u64,
    block_elements: u64,
    servers: Vec<ServerAddress>,
    owners: Vec<Vec<Vec<ServerIndex>>>,
}

/// Why a placement does not fit its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// Not one entry per tensor.
    #[error("placement: expected {expected} tensors, found {found}")]
    TensorCount {
        /// Tensors in the manifest.
        expected: usize,
        /// Tensors in the placement.
        found: usize,
    },
    /// Not one entry per block of a tensor.
    #[error("placement of tensor {name:?}: expected {expected} blocks, found {found}")]
    BlockCount {
        /// The tensor.
        name: String,
        /// Blocks it is cut into.
        expected: u64,
        /// Blocks in the placement.
        found: usize,
    },
    /// A block without owner, or owned by a server that is not in the list.
    #[error("placement of {block}: expected servers below {servers}, found {found:?}")]
    BadOwner {
        /// The block.
        block: BlockId,
        /// Number of servers.
        servers: usize,
        /// Its owners.
        found: Vec<ServerIndex>,
    },
    /// A block size that is not a power of two in range.
    #[error("placement: expected block_elements to be a power of two, found {found}")]
    BlockElements {
        /// What came.
        found: u64,
    },
}

impl Placement {
    /// Checks that `owners[tensor][block]` names at least one known server for every block.
    ///
    /// # Errors
    /// [`PlacementError`] names the first place where it does not fit.
    pub fn new(
        manifest: &Manifest,
        version: u64,
        block_elements: u64,
        servers: Vec<ServerAddress>,
        owners: Vec<Vec<Vec<ServerIndex>>>,
    ) -> Result<Placement, PlacementError> {
        if !block_elements.is_power_of_two() || block_elements > crate::blocks::BLOCK_ELEMENTS_MAX {
            return Err(PlacementError::BlockElements { found: block_elements });
        }
        if owners.len() != manifest.tensors().len() {
            return Err(PlacementError::TensorCount { expected: manifest.tensors().len(), found: owners.len() });
        }
        for (index, (tensor, blocks)) in manifest.tensors().iter().zip(&owners).enumerate() {
            let expected = block_count(tensor, block_elements);
            if blocks.len() as u64 != expected {
                return Err(PlacementError::BlockCount { name: tensor.name.clone(), expected, found: blocks.len() });
            }
            for (block, list) in blocks.iter().enumerate() {
                if list.is_empty() || list.iter().any(|server| server.0 as usize >= servers.len()) {
                    let block = BlockId { tensor: crate::ids::TensorIndex(index as u32), index: block as u32 };
                    return Err(PlacementError::BadOwner { block, servers: servers.len(), found: list.clone() });
                }
            }
        }
        Ok(Placement { version, block_elements, servers, owners })
    }

    /// Rises with every new placement.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Elements per block, a power of two.
    #[must_use]
    pub fn block_elements(&self) -> u64 {
        self.block_elements
    }

    /// Where the servers are reached, by index.
    #[must_use]
    pub fn servers(&self) -> &[ServerAddress] {
        &self.servers
    }

    /// Owners per tensor and block.
    #[must_use]
    pub fn owners(&self) -> &[Vec<Vec<ServerIndex>>] {
        &self.owners
    }

    /// The server that serves a block, `None` when there is no such block.
    #[must_use]
    pub fn server_of(&self, block: BlockId) -> Option<ServerIndex> {
        self.owners.get(block.tensor.0 as usize)?.get(block.index as usize)?.first().copied()
    }
}
