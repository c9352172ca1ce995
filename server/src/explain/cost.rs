//! Section 5: memory, what a rule must wait for, and what travels.

use halflife_optim::Reduction;

use super::layout::{columns, hanging};
use super::number;
use super::run::Run;
use super::wire;

/// Bytes of an f32 weight or gradient.
const F32_BYTES: usize = 4;

pub(super) fn lines(run: &Run) -> Vec<String> {
    let mut lines = columns("  ", &memory(run));
    lines.push(String::new());
    for wait in waits(run) {
        lines.extend(hanging("  ", "    ", &wait));
    }
    lines.push(String::new());
    lines.extend(wire::lines(run));
    lines
}

/// Bytes per parameter, and of the model where its size is known.
fn memory(run: &Run) -> Vec<Vec<String>> {
    let planes: Vec<&str> = run.optimizer.planes().iter().map(|plane| plane.name).collect();
    let state = if planes.is_empty() { "none".to_owned() } else { planes.join(", ") };
    let state = if run.optimizer.needs_whole_tensors() {
        format!("{state}: rows and columns of matrices; vectors 4 bytes")
    } else {
        state
    };
    let held = if run.optimizer.reductions().iter().any(|reduction| reduction.is_global()) { F32_BYTES } else { 0 };
    let weights = run.job.wire.weights;
    let coded = if weights.is_lossy() { 2 * weights.encoded_bytes(1) } else { 0 };
    let as_sent = format!("the same in {weights}");
    let parts = [
        ("optimizer state", run.optimizer.state_bytes_per_parameter(), state.as_str()),
        ("weights", 2 * F32_BYTES, "the current version and the next"),
        ("weights as sent", coded, as_sent.as_str()),
        ("gradient held back", held, "until the global norm is known"),
    ];
    let total = parts.iter().map(|part| part.1).sum();
    let parts = parts.into_iter().chain([("together", total, "on all servers, gradients under way apart")]);
    parts.filter(|part| part.1 > 0 || part.0 == "optimizer state").map(|part| row(run, part)).collect()
}

fn row(run: &Run, (name, bytes, what): (&str, usize, &str)) -> Vec<String> {
    let model = run.tensors.parameters().map(|parameters| bytes_for_people(bytes * parameters));
    let cells = [Some(name.to_owned()), Some(format!("{bytes} bytes per parameter")), model, Some(what.to_owned())];
    cells.into_iter().flatten().collect()
}

#[allow(clippy::cast_precision_loss)] // for reading
pub(crate) fn bytes_for_people(bytes: usize) -> String {
    let (mut size, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size >= 1024.0 {
            (size, unit) = (size / 1024.0, larger);
        }
    }
    format!("{} {unit}", number::short(size))
}

/// What keeps a block from being applied as soon as its own gradient is complete.
fn waits(run: &Run) -> Vec<String> {
    let mut waits: Vec<String> =
        run.optimizer.reductions().iter().map(|reduction| wait(*reduction).to_owned()).collect();
    if run.optimizer.needs_whole_tensors() {
        waits.push(
            "Whole tensors: row and column means need all of a tensor. It stays on one server, and is applied when all \
             of its gradient is in."
                .to_owned(),
        );
    }
    if waits.is_empty() {
        waits.push(
            "No reductions: each block is applied, and its weights are sent back, as soon as its own gradient is complete."
                .to_owned(),
        );
    }
    waits
}

fn wait(reduction: Reduction) -> &'static str {
    match reduction {
        Reduction::GlobalNorm => {
            "A global norm: sums cross servers through the lead. A full gradient is held until the last block is in; no \
             block is applied early, so updates do not overlap with pushes."
        }
        Reduction::TensorNorm => {
            "A norm per tensor: a tensor stays on one server, and is applied when all of its gradient is in."
        }
        Reduction::TrustRatio => {
            "A trust ratio per tensor (norms of weights and update): a tensor stays on one server, and is applied when \
             all of its gradient is in."
        }
    }
}
