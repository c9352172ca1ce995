//! What `halflife-server plan` says of memory, held against servers and workers that run.

use std::process::Command;

use halflife_proto::{PROTOCOL_VERSION, v1};
use halflife_tests::process::{Process, binary, root};
use halflife_tests::tool::{ToolTensor, control, manifest};
use serde_json::Value;
use tonic::Code;

/// Elements of the model.
const PARAMETERS: u64 = 3_000_000;

fn planned(arguments: &[&str]) -> Value {
    let output = Command::new(binary("halflife-server")).arg("plan").args(arguments).arg("--json").output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Joins as a worker, waiting until the servers have placed their blocks.
async fn join(url: &str, incarnation: u64) -> Result<(), tonic::Status> {
    let mut control = control(url).await.expect("the lead listens");
    let job = control.describe(v1::DescribeRequest {}).await.expect("a job").into_inner();
    let hello = v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        job_id: job.job_id,
        generation: job.generation,
        incarnation,
        fingerprint: None,
    };
    let model = manifest(&[ToolTensor::trainable("a", &[PARAMETERS - 1000]), ToolTensor::trainable("b", &[1000])]);
    let request = v1::JoinRequest { hello: Some(hello), manifest: Some(model), join_as: v1::JoinAs::Worker.into() };
    loop {
        match control.join(request.clone()).await {
            Err(status) if status.code() == Code::Unavailable => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            answer => return answer.map(drop),
        }
    }
}

#[tokio::test]
async fn a_server_that_may_use_what_is_planned_takes_the_planned_workers_and_no_byte_less() {
    let job = root().join("deploy/examples/bench.toml");
    let job = job.to_str().expect("a path in UTF-8");
    let parameters = PARAMETERS.to_string();
    for set in [
        &["job.slots=3"][..],
        &["job.slots=5", "wire.gradients=i8", "wire.weights=bf16"],
        &["job.mode=async", "optimizer={ algorithm = \"sgd\", lr = 0.1 }"],
    ] {
        // These workers send no heartbeats.
        let set = set.iter().chain(&["membership.lease_ms=600000"]);
        let set: Vec<&str> = set.flat_map(|set| ["--set", *set]).collect();
        let of_job = ["--config", job];
        let plan =
            planned(&[&of_job[..], &set, &["--params", &parameters, "--workers", "3", "--servers", "1"]].concat());
        let reserved = plan["server_memory"]["reserved_bytes"].as_u64().expect("bytes");
        for (bound, taken) in [(reserved, 3), (reserved - 1, 2)] {
            let bound = bound.to_string();
            let (_server, url) = Process::server(&[&of_job[..], &set, &["--memory-max", &bound]].concat());
            let mut joined = 0;
            for incarnation in 1..=4 {
                match join(&url, incarnation).await {
                    Ok(()) => joined += 1,
                    Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{set:?}: {status}"),
                }
            }
            assert_eq!(joined, taken, "{set:?} with --memory-max {bound}");
        }
    }
}

#[test]
fn servers_and_workers_stay_below_what_is_planned() {
    let directory = tempfile::tempdir().expect("a directory");
    let report = directory.path().join("report.json");
    for (workers, servers, dtype) in [("1", "1", "f32"), ("4", "1", "f32"), ("2", "2", "bf16")] {
        let size = ["--params", "8000000", "--workers", workers, "--servers", servers];
        let mut bench = Command::new(binary("halflife-worker"));
        bench.arg("bench").args(size).args(["--steps", "12", "--warmup", "3", "--dtype", dtype]);
        let output = bench.arg("--json").arg(&report).output().expect("the program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let measured: Value = serde_json::from_slice(&std::fs::read(&report).expect("a report")).expect("JSON");
        let plan = planned(&[&size[..], &["--wire-dtype", dtype]].concat());
        for (kind, state) in [("server", "state_bytes"), ("worker", "weight_bytes")] {
            let of_plan = &plan[format!("{kind}_memory")];
            let most = of_plan["most_bytes"].as_u64().expect("bytes");
            let peaks = measured["memory"][format!("{kind}s")].as_array().expect("peaks");
            assert!(!peaks.is_empty());
            for peak in peaks.iter().map(|peak| peak.as_u64().expect("bytes")) {
                assert!(peak <= most, "{workers} workers, {servers} servers, {kind}: {peak} of {most} bytes");
                // And the plan is no wild guess: half of a server's state is there at the very least.
                let state = of_plan[state].as_u64().expect("bytes");
                assert!(kind == "worker" || peak >= state / 2, "{kind}: {peak}, planned state {state}");
            }
        }
    }
}
