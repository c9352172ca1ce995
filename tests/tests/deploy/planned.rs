//! Resources are those that `halflife-server plan` prints: each workload names its command.

use std::process::Command;

use halflife_tests::process::{binary, root};
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::Value;

use crate::objects::Pods;
use crate::render::{self, directory};

struct Planned {
    arguments: Vec<String>,
    plan: Value,
}

impl Planned {
    fn of(pods: Pods<'_>) -> Planned {
        let command = pods.annotation("halflife/planned-by").expect("the command that planned it");
        let mut words = command.split_whitespace().map(str::to_owned);
        assert_eq!(words.next().as_deref(), Some("halflife-server"));
        let arguments: Vec<String> = words.collect();
        let output =
            Command::new(binary("halflife-server")).args(&arguments).arg("--json").current_dir(root()).output();
        let output = output.expect("the program runs");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        Planned { arguments, plan: serde_json::from_slice(&output.stdout).expect("JSON") }
    }

    fn argument(&self, name: &str) -> &str {
        let at = self.arguments.iter().position(|argument| argument == name);
        at.and_then(|at| self.arguments.get(at + 1)).unwrap_or_else(|| panic!("{name} in {:?}", self.arguments))
    }
}

fn quantity(resources: &ResourceRequirements, of: &str, what: &str) -> String {
    let of = if of == "limits" { &resources.limits } else { &resources.requests };
    of.as_ref().and_then(|known| known.get(what)).expect("both, of CPU and memory").0.clone()
}

/// Thousandths of a core.
fn millicores(quantity: &str) -> u64 {
    match quantity.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().expect("a number"),
        None => quantity.parse::<u64>().expect("whole cores") * 1000,
    }
}

#[test]
fn resources_are_what_the_plan_says() {
    for (overlay, objects) in render::all() {
        for pods in objects.pods() {
            let name = format!("{overlay}, {}", pods.name());
            let planned = Planned::of(pods);
            let kind = if pods.is_server() { "server" } else { "worker" };
            let expected = |key: &str| planned.plan["containers"][kind][key].as_str().unwrap().to_owned();
            let resources = pods.container().resources.as_ref().unwrap();
            for of in ["requests", "limits"] {
                assert_eq!(quantity(resources, of, "memory"), expected("memory"), "{name}: {of}.memory");
            }
            assert_eq!(quantity(resources, "limits", "cpu"), expected("cpu_limit"), "{name}: limits.cpu");
            let (asked, planned_for) = (quantity(resources, "requests", "cpu"), expected("cpu_request"));
            if pods.is_server() {
                assert_eq!(asked, planned_for, "{name}: requests.cpu");
                let reserved = planned.plan["server_memory"]["reserved_bytes"].to_string();
                assert_eq!(pods.variable("HALFLIFE_MEMORY_MAX"), Some(reserved.as_str()), "{name}");
            } else {
                // A worker may be content with less: it is only slower.
                assert!(millicores(&asked) <= millicores(&planned_for), "{name}: requests.cpu");
            }
        }
    }
}

#[test]
fn the_plan_is_for_what_is_deployed() {
    for (overlay, objects) in render::all() {
        for pods in objects.pods() {
            let planned = Planned::of(pods);
            assert_eq!(planned.argument("--workers"), objects.workers().count.to_string(), "{overlay}: workers");
            assert_eq!(planned.argument("--servers"), objects.servers().count.to_string(), "{overlay}: servers");
            let config = std::fs::read_to_string(root().join(planned.argument("--config"))).expect("the job file");
            assert_eq!(config, objects.job_file(), "{overlay}: {} is not {:?}", pods.name(), directory(overlay));
        }
    }
}
