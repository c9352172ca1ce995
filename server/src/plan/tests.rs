//! What plans say, and that they agree with what was measured.

use clap::Parser;

use super::{Plan, PlanArguments, PlanError, run};
use crate::explain::layout::WIDTH;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    plan: PlanArguments,
}

fn arguments(line: &str) -> PlanArguments {
    Line::try_parse_from(format!("plan {line}").split_whitespace()).unwrap_or_else(|error| panic!("{error}")).plan
}

fn plan(line: &str) -> Plan {
    Plan::new(arguments(line).question().unwrap()).unwrap()
}

#[test]
fn memory_of_adamw_is_two_versions_two_moments_and_a_gradient_of_every_slot() {
    let memory = plan("--params 1000000 --workers 4 --servers 1").server_memory;
    assert_eq!(memory.state_bytes, 16_000_000);
    assert_eq!(memory.gradient_bytes, 16_000_000);
    assert_eq!(memory.connection_bytes, 4 * (36 << 20));
    assert_eq!(memory.reserved_bytes, 32_000_000 + 4 * (36 << 20));
    let saved = plan("--params 1000000 --workers 4 --servers 1 --checkpoint");
    assert_eq!(saved.server_memory.state_bytes, 28_000_000);
    assert_eq!(saved.checkpoint.unwrap().bytes, 12_000_000);
    let sgd = plan("--params 1000000 --workers 4 --servers 1 --preset pytorch-sgd");
    assert!(sgd.server_memory.state_bytes < 16_000_000);
}

#[test]
fn the_built_in_model_has_copies_of_its_own() {
    let own = plan("--params 1000000 --workers 1").worker_memory;
    let job = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/digits.toml");
    let built_in = plan(&format!("--params 1000000 --workers 1 --config {job}")).worker_memory;
    assert_eq!((own.model_bytes, built_in.model_bytes), (0, 12_000_000));
    assert_eq!(plan(&format!("--workers 1 --config {job}")).question.parameters, 19_210);
}

#[test]
fn more_servers_share_the_elements_but_for_one_block() {
    let memory = plan("--params 100M --workers 4 --servers 4").server_memory;
    assert_eq!(memory.elements, 25_000_000 + 262_144);
    assert_eq!(plan("--params 1000 --workers 4 --servers 4").server_memory.elements, 1000);
}

#[test]
fn a_wire_that_rounds_sends_every_slot_alone() {
    for (line, gradients, worker_out) in [
        ("--slots 4", 4, 4e6),
        ("--slots 8", 4, 4e6),
        ("--slots 8 --wire-dtype bf16", 8, 4e6),
        ("--slots 4 --wire-dtype bf16", 4, 2e6),
        ("--slots 4 --wire-dtype i8", 4, 1_015_625.0),
        ("--slots 4 --set job.quorum=3", 4, 4e6),
        ("--set job.mode=async", 1, 4e6),
    ] {
        let traffic = plan(&format!("--params 1000000 --workers 4 --servers 1 {line}")).traffic;
        assert_eq!((traffic.gradients_per_step, traffic.worker_out_bytes), (gradients, worker_out), "{line}");
    }
}

/// docs/performance.md: 25.6M parameters, one server, one worker, two cores, over limited links.
#[test]
fn steps_over_limited_links_take_what_was_measured() {
    for (gbit, dtype, measured_ms) in [(10, "f32", 119.0), (10, "bf16", 79.1), (2, "f32", 343.0), (2, "bf16", 185.2)] {
        let gbit = if gbit == 2 { 2.5 } else { 10.0 };
        let line =
            format!("--params 25.6M --workers 1 --servers 1 --cores 2 --network-gbit {gbit} --wire-dtype {dtype}");
        let pace = plan(&line).pace;
        let (best, step, worst) = (pace.best_s * 1e3, pace.step_s * 1e3, pace.worst_s * 1e3);
        assert!(best <= measured_ms && measured_ms <= worst, "{line}: {best} to {worst} ms, measured {measured_ms}");
        assert!((step / measured_ms - 1.0).abs() < 0.25, "{line}: {step} ms, measured {measured_ms}");
    }
}

/// docs/performance.md, on two cores that servers and workers share and fill.
#[test]
fn cpu_time_is_that_of_the_steps_that_were_measured() {
    for (params, servers, workers, measured_ms) in
        [("25.6M", 1, 1, 73.5), ("124.4M", 1, 1, 364.6), ("25.6M", 1, 2, 157.8), ("25.6M", 2, 2, 151.0)]
    {
        let plan = plan(&format!("--params {params} --workers {workers} --servers {servers}"));
        let cpu_s = plan.pace.server_cpu_s * f64::from(servers) + plan.pace.worker_s * f64::from(workers);
        let step_ms = cpu_s / 2.0 * 1e3;
        assert!(
            (step_ms / measured_ms - 1.0).abs() < 0.14,
            "{params}, {servers} x {workers}: {step_ms}, {measured_ms}"
        );
    }
}

#[test]
fn servers_are_recommended_until_a_workers_own_link_is_the_narrowest() {
    let of = |line: &str| plan(line).fleet.recommended.unwrap();
    assert_eq!(of("--params 100M --workers 1"), 1);
    let eight = of("--params 100M --workers 8");
    assert!((4..=8).contains(&eight), "{eight}");
    // Whoever computes for a minute does not notice the rest.
    assert_eq!(of("--params 100M --workers 8 --gradient-ms 60000"), 1);
    // A model of one block has room on one server only.
    assert_eq!(of("--params 1000 --workers 8"), 1);
    let memory = plan("--params 1G --workers 1 --memory-max 8G");
    assert!(memory.fleet.servers > 1 && memory.server_memory.reserved_bytes <= 8 << 30);
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let refused = |line: &str| {
        let error = arguments(line).question().and_then(Plan::new).unwrap_err();
        assert!(matches!(
            error,
            PlanError::DoesNotFit { .. } | PlanError::OutOfRange { .. } | PlanError::NoParameters | PlanError::Job(_)
        ));
        error.to_string()
    };
    for (line, part) in [
        ("--workers 2 --preset pytorch-adamw", "expected --params"),
        ("--workers 2 --params 1M --network-gbit 0", "--network-gbit: expected a number above 0, found 0"),
        ("--workers 2 --params 1M --network-gbit nan", "--network-gbit"),
        ("--workers 2 --params 1M --gradient-ms=-1", "--gradient-ms"),
        ("--workers 2 --params 1M --memory-max 1M", "--memory-max: expected at least"),
        ("--workers 2 --params 100000G", "the model's blocks"),
        ("--workers 2 --params 1M --preset adamw", "unknown preset"),
        ("--workers 2 --params 1M --set job.stepz=1", "stepz"),
    ] {
        let error = refused(line);
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn the_text_is_narrow_and_says_where_everything_comes_from() {
    for line in [
        "--params 25.6M --workers 4",
        "--params 25.6M --workers 4 --checkpoint --wire-dtype i8 --memory-max 16G",
        "--params 7G --workers 64 --set job.mode=async --gradient-ms 900",
        "--params 25.6M --workers 4 --preset optax-lamb",
        "--params 25.6M --workers 4 --servers 1 --memory-max 1M",
    ] {
        let text = run(&arguments(line)).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH + 30), "{text}");
        for part in ["reserved", "recommended", "docs/performance.md", "--memory-max"] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}

#[test]
fn json_has_every_part() {
    let text = run(&arguments("--params 25.6M --workers 4 --checkpoint --json")).unwrap();
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in ["parameters", "fleet", "server_memory", "worker_memory", "traffic", "pace", "checkpoint", "containers"]
    {
        assert!(plan.get(key).is_some(), "{key} in {text}");
    }
    assert_eq!(plan["containers"]["server"]["cpu_limit"], "4");
}
