//! What stands in `deploy/`: manifests of Kubernetes and units of systemd, read strictly and held against each other and
//! against the programs they start.
//!
//! Nothing is deployed: what an API server would refuse is found by decoding into its types without a field to spare;
//! what it would accept though it can never work, by the facts in the modules. Needs `kubectl` and `systemd-analyze`, and says so
//! loudly where they are missing.

// What fails here is a test that fails; clippy sees tests only inside #[test] functions.
#![allow(clippy::unwrap_used)]

mod command_line;
mod facts;
mod network;
mod objects;
mod planned;
mod probes;
mod render;
mod systemd;
