//! What the explanation says.
