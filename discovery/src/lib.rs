//! How the processes of a job find each other, and which server leads.
//!
//! | module | holds |
//! |---|---|
//! | `places` | where a worker looks for the lead: URLs, names of many addresses, etcd |
//! | `server_list` | the servers of a job in a fixed order, of which the first leads |
//! | `election` | who leads, decided without I/O; `campaign` carries it out |
//! | `etcd`, `record` | etcd's contract as far as we need it; what stands under which key |
//!
//! Knows nothing of generations, blocks or checkpoints: what being elected entitles to is the server's business.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may fail"))]

pub mod campaign;
pub mod election;
pub mod etcd;
pub mod places;
pub mod record;
pub mod server_list;

pub use campaign::{Campaign, Candidacy};
pub use election::Standing;
pub use etcd::{Etcd, EtcdError, EtcdPlace};
pub use places::{NobodyKnown, Places, PlacesError};
pub use record::{CandidateId, JobKeys, LeadRecord, PlacementRecord, ServerRecord};
pub use server_list::{ServerList, ServerListError};
