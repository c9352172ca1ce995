//! History: which checkpoints survive.
