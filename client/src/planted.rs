//! Bugs planted on purpose, one at a time, so that the simulator in `tests` can prove that it would find them.
//!
//! Promises: without the feature `planted-bugs`, which only those tests switch on, [`planted`] is the constant
//! `false` and nothing of this is in the program. A bug is planted for one thread, so that tests run side by side.

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// A version is published while one block of it is still of the step before.
    TornVersion,
    /// The weights that a push is computed at are read once the mark is back from one server.
    MarkOfOneServer,
    /// What was sent to a server before its stream broke counts as sent.
    SentNotForgotten,
}

halflife_proto::planted_bugs!(Bug);
