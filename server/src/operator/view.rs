//! A job's status as text for people and as JSON for programs.

use std::fmt::Write as _;

use halflife_proto::v1::{self, JobStatus, ServerStatus, SlotRange, WorkerStatus};
use serde_json::{Value, json};

use super::{checkpoint_view, mode_view};

const MB: f64 = 1e6;

/// Several lines.
pub(super) fn text(status: &JobStatus) -> String {
    let mut text = head(status);
    workers(&mut text, &status.workers);
    servers(&mut text, &status.servers);
    text.push_str(&checkpoint_view::text(status));
    text.push_str(&mode_view::text(status));
    for promise in &status.promises {
        let standing = if promise.holds { "holds".to_owned() } else { format!("off: {}", promise.why) };
        _ = write!(text, "\n{}: {standing}", promise.name); // text in memory takes everything
    }
    text
}

fn head(status: &JobStatus) -> String {
    let (id, steps) = status.job.as_ref().map_or(("", 0), |job| (job.job_id.as_str(), job.steps));
    let JobStatus { step, lr, decay, note, .. } = status;
    let mut text = format!("{id}  {}  step {step} of {steps}  lr {lr:.3e}  decay {decay:.3e}", phase(status.phase()));
    if !note.is_empty() {
        _ = write!(text, "\n{note}");
    }
    if let Some(hold) = status.hold {
        _ = write!(text, "; it rests after step {hold}");
    }
    text
}

fn workers(text: &mut String, workers: &[WorkerStatus]) {
    if workers.is_empty() {
        return;
    }
    _ = write!(text, "\n\n{:>6}  {:<8} {:>8} {:>5}  {:>12}  slots", "worker", "state", "step", "lag", "heartbeat");
    for worker in workers {
        let WorkerStatus { number, step, lag, heartbeat_age_ms, .. } = worker;
        let state = worker_state(worker.state());
        let age = format!("{heartbeat_age_ms} ms ago");
        _ = write!(text, "\n{number:>6}  {state:<8} {step:>8} {lag:>5}  {age:>12}  {}", slots(&worker.nodes));
        if !worker.unreachable.is_empty() {
            _ = write!(text, "  cannot reach servers {:?}", worker.unreachable);
        }
    }
    text.push('\n');
}

fn servers(text: &mut String, servers: &[ServerStatus]) {
    _ = write!(
        text,
        "\n{:>6}  {:>8} {:>7} {:>9} {:>11} {:>10} {:>8}  {:>16}  url",
        "server", "step", "blocks", "MB", "waiting MB", "queued", "streams", "reserved / max MB"
    );
    for server in servers {
        let load = server.load.unwrap_or_default();
        let max = match server.memory_max {
            0 => "-".to_owned(),
            bytes => format!("{:.0}", bytes as f64 / MB),
        };
        let reserved = format!("{:.0} / {max}", server.memory_reserved as f64 / MB);
        _ = write!(
            text,
            "\n{:>6}  {:>8} {:>7} {:>9.1} {:>11.1} {:>10} {:>8}  {reserved:>16}  {}",
            server.index,
            server.step,
            server.blocks,
            server.bytes as f64 / MB,
            load.gathered_bytes as f64 / MB,
            load.queued_work,
            load.sessions,
            server.url
        );
    }
    text.push('\n');
}

fn slots(nodes: &[SlotRange]) -> String {
    if nodes.is_empty() {
        return "-".to_owned();
    }
    // Neighbours are one run for people.
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for node in nodes {
        match runs.last_mut() {
            Some((_, end)) if *end == node.begin => *end = node.end,
            _ => runs.push((node.begin, node.end)),
        }
    }
    let run =
        |(begin, end): &(u32, u32)| if end - begin == 1 { begin.to_string() } else { format!("{begin}-{}", end - 1) };
    runs.iter().map(run).collect::<Vec<_>>().join(" ")
}

fn phase(phase: v1::Phase) -> &'static str {
    match phase {
        v1::Phase::Unspecified => "unknown",
        v1::Phase::WaitingForServers => "waiting for servers",
        v1::Phase::WaitingForWorkers => "waiting for workers",
        v1::Phase::Initializing => "initializing",
        v1::Phase::Training => "training",
        v1::Phase::Paused => "paused",
        v1::Phase::Finished => "finished",
        v1::Phase::Stopped => "stopped",
        v1::Phase::Restoring => "restoring",
    }
}

fn worker_state(state: v1::WorkerState) -> &'static str {
    match state {
        v1::WorkerState::Unspecified => "unknown",
        v1::WorkerState::Active => "active",
        v1::WorkerState::Spare => "spare",
        v1::WorkerState::Behind => "behind",
        v1::WorkerState::Drained => "drained",
        v1::WorkerState::Arriving => "arriving",
    }
}

/// One line.
pub(super) fn json(status: &JobStatus) -> String {
    let (id, steps) = status.job.as_ref().map_or(("", 0), |job| (job.job_id.as_str(), job.steps));
    let generation = status.job.as_ref().map_or(0, |job| job.generation);
    json!({
        "job_id": id,
        "generation": generation,
        "phase": phase(status.phase()).replace(' ', "_"),
        "step": status.step,
        "steps": steps,
        "lr": status.lr,
        "decay": status.decay,
        "hold": status.hold,
        "note": status.note,
        "checkpoint": checkpoint_view::json(status),
        "quorum": mode_view::quorum_json(status),
        "tickets": mode_view::tickets_json(status),
        "workers": status.workers.iter().map(worker_json).collect::<Vec<_>>(),
        "servers": status.servers.iter().map(server_json).collect::<Vec<_>>(),
        "promises": status.promises.iter().map(|promise| json!({
            "name": promise.name, "holds": promise.holds, "why": promise.why,
        })).collect::<Vec<_>>(),
    })
    .to_string()
}

fn worker_json(worker: &WorkerStatus) -> Value {
    json!({
        "number": worker.number,
        // As text: it takes all 64 bits, which JSON numbers do not carry everywhere.
        "incarnation": format!("{:016x}", worker.incarnation),
        "state": worker_state(worker.state()),
        "step": worker.step,
        "lag": worker.lag,
        "slots": worker.nodes.iter().map(|node| [node.begin, node.end]).collect::<Vec<_>>(),
        "heartbeat_age_ms": worker.heartbeat_age_ms,
        "unreachable": worker.unreachable,
    })
}

fn server_json(server: &ServerStatus) -> Value {
    let load = server.load.unwrap_or_default();
    json!({
        "index": server.index,
        "url": server.url,
        "step": server.step,
        "blocks": server.blocks,
        "bytes": server.bytes,
        "gathered_bytes": load.gathered_bytes,
        "queued_work": load.queued_work,
        "sessions": load.sessions,
        "memory_max": server.memory_max,
        "memory_reserved": server.memory_reserved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> JobStatus {
        let nodes =
            vec![SlotRange { begin: 0, end: 4 }, SlotRange { begin: 4, end: 5 }, SlotRange { begin: 7, end: 8 }];
        let worker = WorkerStatus {
            number: 2,
            incarnation: u64::MAX,
            step: 41,
            nodes,
            heartbeat_age_ms: 120,
            state: v1::WorkerState::Behind.into(),
            lag: 3,
            unreachable: vec![1],
            ..WorkerStatus::default()
        };
        let load = v1::ServerLoad { gathered_bytes: 2_000_000, queued_work: 7, sessions: 4 };
        let server = ServerStatus {
            url: "http://s0".to_owned(),
            step: 43,
            blocks: 9,
            load: Some(load),
            memory_reserved: 3_000_000,
            ..ServerStatus::default()
        };
        JobStatus {
            job: Some(v1::JobDescription { job_id: "j-1".to_owned(), steps: 100, ..v1::JobDescription::default() }),
            phase: v1::Phase::Paused.into(),
            step: 43,
            lr: 0.001,
            decay: 0.0001,
            workers: vec![worker],
            servers: vec![server],
            promises: vec![v1::PromiseStatus { name: "P2".to_owned(), holds: false, why: "because".to_owned() }],
            note: "paused by the operator".to_owned(),
            hold: Some(44),
            checkpoint: None,
            quorum: None,
            tickets: None,
        }
    }

    #[test]
    fn text_tells_what_a_person_looks_for() {
        let text = text(&status());
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "j-1 paused step 43 of 100 lr 1.000e-3 decay 1.000e-4 paused by the operator; it rests after step 44",
            "2 behind 41 3 120 ms ago 0-4 7 cannot reach servers [1]",
            "0 43 9 0.0 2.0 7 4 3 / - http://s0",
            "P2: off: because",
        ] {
            assert!(words.contains(part), "expected {part:?} in {words}");
        }
    }

    #[test]
    fn json_is_one_line_with_every_field() {
        let line = json(&status());
        assert!(!line.contains('\n'));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["phase"].as_str(), value["hold"].as_u64()), (Some("paused"), Some(44)));
        assert_eq!(value["workers"][0]["slots"], json!([[0, 4], [4, 5], [7, 8]]));
        assert_eq!(value["workers"][0]["incarnation"], "ffffffffffffffff");
        assert_eq!(value["servers"][0]["gathered_bytes"], 2_000_000);
    }
}
