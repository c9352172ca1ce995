//! Retention: which checkpoints and leftovers may go.

/// Which checkpoints of the surviving history are kept, besides the newest, which always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The last so many.
    pub keep_last: usize,
    /// Also those whose step is a multiple of this; 0 keeps none of them.
    pub keep_every: u64,
}
