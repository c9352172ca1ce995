//! Identifiers. Different ids are different types, so that one cannot stand in for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $shown:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $shown, self.0)
            }
        }
    };
}

numeric_id!(
    /// Counts updates of the whole model. Weights of step t have seen t updates; step 0 is the
    /// initialization. A contribution to step t is a gradient at the weights of step t - 1.
    Step(u64),
    "step {}"
);
numeric_id!(
    /// Incarnation of the job's state; rises at each restore.
    Generation(u64),
    "generation {}"
);
numeric_id!(
    /// One start of one process, drawn at random by it.
    Incarnation(u64),
    "incarnation {:016x}"
);
numeric_id!(
    /// A server's place in the job, from 0; server 0 is the lead.
    ServerIndex(u32),
    "server {}"
);
numeric_id!(
    /// A tensor's place in the manifest.
    TensorIndex(u32),
    "tensor {}"
);

numeric_id!(
    /// What the lead gives to one push of the asynchronous modes: the number of the step whose slots it
    /// computes, from 1. A ticket belongs to one sequence number of one incarnation for ever.
    Ticket(u64),
    "ticket {}"
);

impl Ticket {
    /// The step whose data, lr and decay are the push's.
    #[must_use]
    pub fn step(self) -> Step {
        Step(self.0)
    }
}

impl Generation {
    /// The generation after this one. Saturates, as [`Step::next`] does.
    #[must_use]
    pub fn next(self) -> Generation {
        Generation(self.0.saturating_add(1))
    }
}

impl Step {
    /// The initialization.
    pub const ZERO: Step = Step(0);

    /// The step after this one. Saturates, so that no number from the wire can overflow it.
    #[must_use]
    pub fn next(self) -> Step {
        Step(self.0.saturating_add(1))
    }

    /// The step before this one, `None` before the initialization.
    #[must_use]
    pub fn previous(self) -> Option<Step> {
        self.0.checked_sub(1).map(Step)
    }
}

/// Names one job: two jobs of the same name on the same machines still differ in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {:?}", self.0)
    }
}
