//! What the built-in worker trains: the `[model]`, `[data]` and `[training]` tables of a job file.
