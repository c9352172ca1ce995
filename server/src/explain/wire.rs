//! Section 5, below the memory: what travels in a step, in which dtype, and what that leaves of the
//! promise P2 (the trained bits do not depend on who computed what).

use halflife_proto::dtype::SCALED_GROUP_ELEMENTS;
use halflife_proto::job::Wire;
use halflife_proto::tensor_codec::Dtype;

use super::cost::bytes_for_people;
use super::layout::{columns, hanging};
use super::number;
use super::run::Run;

pub(super) fn lines(run: &Run) -> Vec<String> {
    let Wire { gradients, weights } = run.job.wire;
    let up = match gradients.is_lossy() {
        true => "each slot, encoded alone",
        false => "each node of slots that a worker sums",
    };
    let mut lines =
        columns("  ", &[row(run, "gradients up", gradients, up), row(run, "weights down", weights, "each worker")]);
    for paragraph in meaning(run.job.wire) {
        lines.extend(hanging("  ", "    ", &paragraph));
    }
    lines
}

fn row(run: &Run, name: &str, dtype: Dtype, of_what: &str) -> Vec<String> {
    #[allow(clippy::cast_precision_loss)] // small numbers
    let per_parameter = dtype.encoded_bytes(SCALED_GROUP_ELEMENTS) as f64 / SCALED_GROUP_ELEMENTS as f64;
    let model = run.tensors.parameters().map(|parameters| bytes_for_people(dtype.encoded_bytes(parameters)));
    let per_parameter = format!("{} bytes per parameter", number::short(per_parameter));
    let cells = [Some(name.to_owned()), Some(dtype.to_string()), Some(per_parameter), model, Some(of_what.to_owned())];
    cells.into_iter().flatten().collect()
}

fn meaning(wire: Wire) -> Vec<String> {
    let mut paragraphs = Vec::new();
    match wire.gradients {
        Dtype::F32 => {}
        Dtype::Bf16 => paragraphs.push(
            "Gradients keep 8 significant bits. Each slot is rounded alone and the servers sum in f32, so any split of \
             the slots gives the same sum."
                .to_owned(),
        ),
        Dtype::I8Scaled => paragraphs.push(format!(
            "Gradients keep 8 bits and a scale per {SCALED_GROUP_ELEMENTS} elements. Each slot is rounded alone and the \
             servers sum in f32; what rounding takes off, a worker adds to the next slot it sends (error feedback)."
        )),
    }
    if wire.weights.is_lossy() {
        paragraphs.push(format!(
            "Workers compute at weights rounded to {}; servers keep, update and give out f32 masters.",
            wire.weights
        ));
    }
    paragraphs.push(match wire.why_not_reproducible() {
        None => "P2 holds: the trained bits do not depend on how many workers and servers there are.".to_owned(),
        Some(why) => format!("P2 is off, the trained bits depend on which worker computed what: {why}."),
    });
    paragraphs
}
