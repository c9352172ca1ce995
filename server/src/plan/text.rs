//! A plan for people: every figure with its formula, at most 100 columns wide.

use super::constants::{
    ALL, GRADIENT_ARENAS, NEAR_ENOUGH, NOT_OVERLAPPED, PROGRAM_SOURCE, SERVER_TRANSFER_NS, THREAD_BYTES_PER_S,
    UPDATE_NS, WEIGHT_ARENAS,
};
use super::containers::Resources;
use super::{Plan, Question};
use crate::explain::cost::bytes_for_people;
use crate::explain::layout::{columns, hanging, section};
use crate::explain::number::{count, short};

pub(super) fn of(plan: &Plan) -> String {
    let sections = [
        section("1. Servers", servers(plan)),
        section("2. Memory of a server, the fullest", server_memory(plan)),
        section("3. Memory of a worker, without data and activations", worker_memory(plan)),
        section(&format!("4. Network, per {}", step(plan)), traffic(plan)),
        section("5. Speed, an estimate", pace(plan)),
        section("6. Checkpoints", checkpoint(plan)),
        section("7. Containers", containers(plan)),
        section("8. What the figures rest on", constants()),
    ];
    sections.join("\n")
}

/// What is counted.
fn step(plan: &Plan) -> &'static str {
    if plan.question.job.job.mode.has_tickets() { "push" } else { "step" }
}

fn bytes(bytes: u64) -> String {
    bytes_for_people(usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // never negative, and for reading
fn estimated(bytes: f64) -> String {
    bytes_for_people(bytes as usize)
}

fn milliseconds(seconds: f64) -> String {
    format!("{} ms", short(seconds * 1e3))
}

fn row<const N: usize>(cells: [String; N]) -> Vec<String> {
    cells.into()
}

fn servers(plan: &Plan) -> Vec<String> {
    let Question { parameters, workers, network_gbit, cores, gradient_ms, job, .. } = &plan.question;
    let slots = match job.job.mode.has_tickets() {
        true => "each push applied at once".to_owned(),
        false => format!("{} slots", job.job.slots),
    };
    let recommended = match plan.fleet.recommended {
        Some(number) => format!("{number} recommended"),
        None => "none recommended: no number fits".to_owned(),
    };
    let mut lines = columns(
        "  ",
        &[
            row([
                "model".into(),
                format!("{} parameters, blocks of {}", count(*parameters), count(job.job.block_elements)),
            ]),
            row([
                "job".into(),
                format!(
                    "{} workers, mode {}, {slots}; gradients {}, weights {} on the wire",
                    count((*workers).into()),
                    job.job.mode.name(),
                    job.wire.gradients,
                    job.wire.weights
                ),
            ]),
            row([
                "machines".into(),
                format!(
                    "links of {} Gbit/s, {cores} cores a server; gradients take {} ms",
                    short(*network_gbit),
                    short(*gradient_ms)
                ),
            ]),
            row(["servers".into(), format!("{} planned, {recommended}", plan.fleet.servers)]),
        ],
    );
    let rule = format!(
        "Recommended is the smallest number whose memory fits (--memory-max) and whose estimated step is within {} of that \
         with as many servers as workers: beyond that a worker's own link is the narrowest.",
        short(NEAR_ENOUGH)
    );
    lines.extend(hanging("  ", "  ", &rule));
    lines
}

fn server_memory(plan: &Plan) -> Vec<String> {
    let memory = &plan.server_memory;
    let workers = count(plan.question.workers.into());
    let elements = count(memory.elements);
    let gradients = memory.gradient_bytes / memory.elements.max(1);
    let kept = if plan.checkpoint.is_some() { ", a checkpoint's copy" } else { "" };
    let mut lines = columns(
        "  ",
        &[
            row([
                "state".into(),
                bytes(memory.state_bytes),
                format!("{} bytes x {elements} elements", memory.state_bytes_per_element),
                format!("weights twice, the optimizer's planes{kept}"),
            ]),
            row([
                "gradients".into(),
                bytes(memory.gradient_bytes),
                format!("{gradients} bytes x {elements}"),
                "all that may wait for the last of their step".into(),
            ]),
            row([
                "connections".into(),
                bytes(memory.connection_bytes),
                format!("{} x {workers} workers", bytes(memory.connection_bytes / u64::from(plan.question.workers))),
                "a window and a send buffer each".into(),
            ]),
            row([
                "reserved".into(),
                bytes(memory.reserved_bytes),
                "the sum".into(),
                "what --memory-max is compared with".into(),
            ]),
            row(["program".into(), bytes(memory.program_bytes), String::new(), PROGRAM_SOURCE.into()]),
            row(["at most".into(), bytes(memory.most_bytes), String::new(), String::new()]),
        ],
    );
    let note = match plan.question.keeps_tensors_whole() {
        true => {
            "The rule keeps tensors whole, so a server may hold more than its even share, which is shown: by as much as \
             the largest tensor."
        }
        false => {
            "Reserved is exact for one server and at most a block too much for more: it is computed by the code that \
             refuses what does not fit. A job holds less most of the time (docs/performance.md)."
        }
    };
    lines.extend(hanging("  ", "  ", note));
    let over = plan.question.memory_max.filter(|bound| memory.reserved_bytes > bound.get());
    if let Some(bound) = over {
        let warning =
            format!("More than --memory-max {bound}: the lead would refuse the model or the last of these workers.");
        lines.extend(hanging("  WARNING: ", "  ", &warning));
    }
    lines
}

fn worker_memory(plan: &Plan) -> Vec<String> {
    let memory = &plan.worker_memory;
    let parameters = count(plan.question.parameters);
    let rest = memory.gradient_bytes.saturating_sub(GRADIENT_ARENAS * 4 * plan.question.parameters) > 0;
    let kept = if rest { ", and what i8 has rounded off" } else { "" };
    let model = match memory.model_bytes {
        0 => "your own: add the framework's copies",
        _ => "weights and gradients as its own tensors, one while it computes",
    };
    let model_arenas = memory.model_bytes / (4 * plan.question.parameters);
    columns(
        "  ",
        &[
            row([
                "weights".into(),
                bytes(memory.weight_bytes),
                format!("4 bytes x {parameters} x {WEIGHT_ARENAS}"),
                "current, next, two that are still read".into(),
            ]),
            row([
                "gradients".into(),
                bytes(memory.gradient_bytes),
                format!("4 bytes x {parameters} x {GRADIENT_ARENAS}"),
                format!("arenas that go round{kept}"),
            ]),
            row([
                "connections".into(),
                bytes(memory.connection_bytes),
                format!("{} servers", plan.fleet.servers),
                "a window and a send buffer, or all there is to move".into(),
            ]),
            row([
                "model".into(),
                bytes(memory.model_bytes),
                format!("4 bytes x {parameters} x {model_arenas}"),
                model.into(),
            ]),
            row(["program".into(), bytes(memory.program_bytes), String::new(), PROGRAM_SOURCE.into()]),
            row(["at most".into(), bytes(memory.most_bytes), String::new(), "add data and activations".into()]),
        ],
    )
}

fn traffic(plan: &Plan) -> Vec<String> {
    let traffic = &plan.traffic;
    let wire = plan.question.job.wire;
    let (elements, parameters) = (count(plan.server_memory.elements), count(plan.question.parameters));
    let gradients = traffic.gradients_per_step;
    let each = plan.question.gradients_per_worker();
    let workers = plan.question.workers;
    let mut lines = columns(
        "  ",
        &[
            row([
                "into a server".into(),
                estimated(traffic.server_in_bytes),
                format!("{elements} elements x {} x {gradients} gradients", wire.gradients),
            ]),
            row([
                "out of a server".into(),
                estimated(traffic.server_out_bytes),
                format!("{elements} elements x {} x {workers} workers", wire.weights),
            ]),
            row([
                "into a worker".into(),
                estimated(traffic.worker_in_bytes),
                format!("{parameters} elements x {}", wire.weights),
            ]),
            row([
                "out of a worker".into(),
                estimated(traffic.worker_out_bytes),
                format!("{parameters} elements x {} x {each} gradients", wire.gradients),
            ]),
            row([
                "narrowest".into(),
                milliseconds(traffic.narrowest_s),
                format!("{}, at {} Gbit/s", traffic.narrowest, short(plan.question.network_gbit)),
            ]),
        ],
    );
    if plan.question.job.job.mode.has_tickets() {
        let note = "Out of a server: at most. Versions that a slow worker has not read yet are replaced, not queued.";
        lines.extend(hanging("  ", "  ", note));
    }
    lines
}

fn pace(plan: &Plan) -> Vec<String> {
    let pace = &plan.pace;
    let rate = |seconds: f64| format!("{} /s", short(1.0 / seconds));
    let step = step(plan);
    let part = NOT_OVERLAPPED.value;
    let mut lines = columns(
        "  ",
        &[
            row(["gradients".into(), milliseconds(pace.gradient_s), String::new(), "--gradient-ms".into()]),
            row(["link".into(), milliseconds(pace.link_s), String::new(), "the narrowest, above".into()]),
            row([
                "server".into(),
                milliseconds(pace.server_s),
                String::new(),
                format!(
                    "the longer of bytes / ({} GB/s a thread) and elements x ({} + {} a worker) ns / cores",
                    short(THREAD_BYTES_PER_S.value / 1e9),
                    short(UPDATE_NS.value),
                    short(SERVER_TRANSFER_NS.value)
                ),
            ]),
            row(["worker".into(), milliseconds(pace.worker_s), String::new(), "its side of moving data".into()]),
            row([
                format!("a {step}, best"),
                milliseconds(pace.best_s),
                rate(pace.best_s),
                "gradients + the longest of the other three".into(),
            ]),
            row([
                format!("a {step}"),
                milliseconds(pace.step_s),
                rate(pace.step_s),
                format!("gradients + the longest + {} of the other two", short(part)),
            ]),
            row([
                format!("a {step}, worst"),
                milliseconds(pace.worst_s),
                rate(pace.worst_s),
                "gradients + all three, one after the other".into(),
            ]),
        ],
    );
    if plan.question.job.job.mode.has_tickets() {
        let note =
            "Workers push by turns: the time of one is divided by their number, until links and servers are the limit.";
        lines.extend(hanging("  ", "  ", note));
    }
    lines
}

fn checkpoint(plan: &Plan) -> Vec<String> {
    let Some(saving) = &plan.checkpoint else {
        return vec!["  None: the loss of a server ends the job. --checkpoint plans for them.".to_owned()];
    };
    let mut lines = columns(
        "  ",
        &[
            row([
                "a checkpoint".into(),
                bytes(saving.bytes),
                format!("{} bytes x {} parameters", saving.bytes_per_element, count(plan.question.parameters)),
            ]),
            row([
                "a server's part".into(),
                bytes(saving.server_bytes),
                format!(
                    "{} to a local disk; over the network at least {}",
                    milliseconds(saving.to_disk_s),
                    milliseconds(saving.over_network_s)
                ),
            ]),
            row([
                "the store".into(),
                bytes(saving.store_bytes),
                format!("the newest {} and one being written; more with keep_every", saving.kept),
            ]),
        ],
    );
    let note = "Written while training goes on; a store that is slower than checkpoint.every makes them rarer. A lost server \
                costs reading the last one back, and the steps since.";
    lines.extend(hanging("  ", "  ", note));
    lines
}

fn containers(plan: &Plan) -> Vec<String> {
    let line = |name: &str, count_: u32, resources: &Resources| {
        let Resources { memory, cpu_request, cpu_limit } = resources;
        row([
            format!("{count_} x {name}"),
            format!("requests cpu {cpu_request} memory {memory}"),
            format!("limits cpu {cpu_limit} memory {memory}"),
        ])
    };
    let mut lines = columns(
        "  ",
        &[
            line("server", plan.fleet.servers, &plan.containers.server),
            line("worker", plan.question.workers, &plan.containers.worker),
        ],
    );
    let server = plan.server_memory.reserved_bytes;
    lines.push(format!("  servers with --memory-max {server}"));
    let note = "Memory: what there is at most, up to the next 64 MiB, requested in full. CPU of a server: what the estimated \
                pace takes, up to the next quarter; the limit, in whole cores, is also its number of compute threads. A \
                worker's is one thread for gradients and one for data.";
    lines.extend(hanging("  ", "  ", note));
    lines
}

fn constants() -> Vec<String> {
    let mut lines = Vec::new();
    for constant in ALL {
        let text = format!("{} {}: {}.", short(constant.value), constant.what, constant.source);
        lines.extend(hanging("  ", "    ", &text));
    }
    let note = "Measured on 2-core virtual machines; on yours, `halflife-worker bench` measures. Sizes follow from the code, \
                speeds are within a factor of two of what we have seen elsewhere.";
    lines.extend(hanging("  ", "  ", note));
    lines
}
