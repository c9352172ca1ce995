//! What must hold between objects: an API server accepts all of it, and then nothing works.

use std::collections::BTreeSet;

use halflife_server::JobSpec;
use k8s_openapi::api::core::v1::Probe;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects::{Object, Objects, Pods, labels_of, selects};
use crate::render;

/// `--patience` unless it is given, in seconds.
/// Servers and workers end within so many seconds of SIGTERM; twice that for a busy node.
const END_WITHIN: i64 = 4;

/// Every overlay's workloads.
fn each_pods(check: impl Fn(&str, &Objects, Pods<'_>)) {
    for (overlay, objects) in render::all() {
        for pods in objects.pods() {
            check(&format!("{overlay}, {}", pods.name()), objects, pods);
        }
    }
}

fn job(objects: &Objects) -> JobSpec {
    JobSpec::parse("job.toml", objects.job_file(), &[]).expect("a job file")
}

#[test]
fn selectors_take_the_pods_they_are_meant_for() {
    each_pods(|name, _, pods| {
        if let Some(selector) = pods.selector {
            assert!(selects(selector, pods.labels()), "{name}: its own pods");
        }
    });
    for (overlay, objects) in render::all() {
        let wanted = objects.service().spec.as_ref().unwrap().selector.as_ref().unwrap();
        let is_taken = |pods: Pods<'_>| wanted.iter().all(|(key, value)| pods.labels().get(key) == Some(value));
        assert!(is_taken(objects.servers()) && !is_taken(objects.workers()), "{overlay}: the service");
        for object in &objects.0 {
            if let Object::DisruptionBudget(budget) = object {
                let selector = budget.spec.as_ref().unwrap().selector.as_ref().unwrap();
                let taken: Vec<_> = objects.pods().filter(|pods| selects(selector, pods.labels())).collect();
                let [taken] = taken.as_slice() else { panic!("{overlay}: a budget for {} kinds of pods", taken.len()) };
                // The pods of a Job have no scale that a share could be taken of.
                assert!(taken.kind != "Job", "{overlay}: a budget for a Job");
                assert_eq!(budget.metadata.name.as_deref(), Some(taken.name()), "{overlay}");
            }
        }
    }
}

#[test]
fn names_and_labels_hold_everything_together() {
    for (overlay, objects) in render::all() {
        let namespaces: BTreeSet<_> = objects
            .0
            .iter()
            .filter_map(|object| {
                match object {
                    Object::Namespace(_) => None,
                    Object::ConfigMap(map) => Some(&map.metadata),
                    Object::Claim(claim) => Some(&claim.metadata),
                    Object::Service(service) => Some(&service.metadata),
                    Object::Deployment(deployment) => Some(&deployment.metadata),
                    Object::StatefulSet(set) => Some(&set.metadata),
                    Object::Job(job) => Some(&job.metadata),
                    Object::NetworkPolicy(policy) => Some(&policy.metadata),
                    Object::DisruptionBudget(budget) => Some(&budget.metadata),
                }
                .map(|metadata| {
                    let part_of = labels_of(Some(metadata)).get("app.kubernetes.io/part-of");
                    assert_eq!(part_of.map(String::as_str), Some("halflife"), "{overlay}: {:?}", metadata.name);
                    metadata.namespace.clone()
                })
            })
            .collect();
        assert_eq!(namespaces.len(), 1, "{overlay}: one namespace, found {namespaces:?}");
        let named = objects.0.iter().find_map(|object| match object {
            Object::Namespace(namespace) => Some(namespace.metadata.name.clone()),
            _ => None,
        });
        if let Some(named) = named {
            assert!(namespaces.contains(&named), "{overlay}: the namespace it makes");
        }
    }
}

#[test]
fn ports_have_names_and_are_those_that_the_programs_listen_at() {
    each_pods(|name, objects, pods| {
        let port = |address: &str| address.rsplit(':').next().and_then(|port| port.parse::<i32>().ok());
        assert_eq!(pods.port("metrics"), pods.argument("metrics").and_then(port), "{name}: metrics");
        assert_eq!(pods.annotation("prometheus.io/port").and_then(port), pods.port("metrics"), "{name}: scraped");
        assert_eq!(pods.annotation("prometheus.io/scrape"), Some("true"), "{name}");
        assert_eq!(pods.annotation("prometheus.io/path"), Some("/metrics"), "{name}");
        if !pods.is_server() {
            return;
        }
        assert_eq!(pods.port("grpc"), pods.argument("listen").and_then(port), "{name}: grpc");
        for port in objects.service().spec.as_ref().unwrap().ports.as_ref().unwrap() {
            let Some(IntOrString::String(target)) = &port.target_port else { panic!("{name}: a target by name") };
            assert_eq!(pods.port(target), Some(port.port), "{name}: {target} of the service");
        }
    });
}

#[test]
fn servers_find_the_lead_by_the_name_of_the_first_pod() {
    for (overlay, objects) in render::all() {
        let (set, service, servers) = (objects.stateful_set(), objects.service(), objects.servers());
        let spec = service.spec.as_ref().unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("None"), "{overlay}: headless");
        assert_eq!(
            spec.publish_not_ready_addresses,
            Some(true),
            "{overlay}: the lead is looked for before it is ready"
        );
        let host = service.metadata.name.as_deref().unwrap();
        let set_spec = set.spec.as_ref().unwrap();
        assert_eq!(set_spec.service_name.as_deref(), Some(host), "{overlay}");
        assert_eq!(set_spec.pod_management_policy.as_deref(), Some("Parallel"), "{overlay}: none waits for another");
        assert_eq!(set_spec.update_strategy.as_ref().unwrap().type_.as_deref(), Some("OnDelete"), "{overlay}");
        let port = servers.port("grpc").unwrap();
        let by_name = format!("dns:{host}:{port}");
        assert_eq!(servers.argument("servers"), Some(by_name.as_str()), "{overlay}: servers");
        assert_eq!(objects.workers().argument("server"), Some(by_name.as_str()), "{overlay}: workers");
        let lead = format!("--lead=http://{}-0.{host}:{port}", servers.name());
        let pre_stop = servers.container().lifecycle.as_ref().and_then(|cycle| cycle.pre_stop.as_ref()).unwrap();
        let command = pre_stop.exec.as_ref().unwrap().command.as_ref().unwrap();
        assert!(command.contains(&lead), "{overlay}: {command:?}");
    }
}

#[test]
fn job_files_are_valid_and_fit_the_servers() {
    for (overlay, objects) in render::all() {
        let (job, servers) = (job(objects), objects.servers());
        assert_eq!(i64::from(job.job.servers), i64::from(servers.count), "{overlay}: job.servers");
        assert!(i64::from(objects.workers().count) <= i64::from(job.job.slots), "{overlay}: each worker has a slot");
        let checkpoint = job.checkpoint.as_ref().expect("servers come and go, so the job keeps checkpoints");
        let mounts = servers.container().volume_mounts.as_deref().unwrap_or_default();
        let mount = mounts.iter().find(|mount| mount.mount_path == checkpoint.location);
        assert_eq!(mount.is_some(), checkpoint.is_directory(), "{overlay}: a volume where the store is");
        assert!(mount.is_none_or(|mount| mount.read_only != Some(true)), "{overlay}: the store is written");
        let config = servers.argument("config").and_then(|path| path.strip_suffix("/job.toml"));
        assert!(mounts.iter().any(|mount| Some(mount.mount_path.as_str()) == config), "{overlay}: the job file");
    }
}

#[test]
fn what_is_mounted_exists() {
    each_pods(|name, objects, pods| {
        let mounts = pods.container().volume_mounts.as_deref().unwrap_or_default();
        let mounted: BTreeSet<_> = mounts.iter().map(|mount| mount.name.as_str()).collect();
        let volumes: BTreeSet<_> = pods.volumes().iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(mounted, volumes, "{name}");
        for volume in pods.volumes() {
            let exists = match (&volume.config_map, &volume.persistent_volume_claim) {
                (Some(map), None) => objects.config_map().metadata.name.as_deref() == Some(map.name.as_str()),
                (None, Some(claim)) => objects.0.iter().any(|object| {
                    matches!(object, Object::Claim(known) if known.metadata.name.as_ref() == Some(&claim.claim_name))
                }),
                _ => false,
            };
            assert!(exists, "{name}: volume {}", volume.name);
        }
        for source in pods.container().env_from.iter().flatten() {
            let secret = source.secret_ref.as_ref().expect("variables from a secret");
            assert_eq!(secret.optional, Some(true), "{name}: nobody here makes secret {}", secret.name);
        }
    });
    for (overlay, objects) in render::all() {
        let claims = objects.0.iter().filter(|object| matches!(object, Object::Claim(_))).count();
        let used = objects.servers().volumes().iter().filter(|volume| volume.persistent_volume_claim.is_some()).count();
        assert_eq!(claims, used, "{overlay}: no claim that nobody uses");
    }
}

#[test]
fn pods_may_do_nothing_that_they_need_not() {
    each_pods(|name, _, pods| {
        let (pod, container) = (pods.spec(), pods.container());
        let of_pod = pod.security_context.as_ref().unwrap();
        assert_eq!(of_pod.run_as_non_root, Some(true), "{name}");
        assert!(of_pod.run_as_user.is_some_and(|user| user > 0), "{name}");
        assert_eq!(of_pod.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault", "{name}");
        let of_container = container.security_context.as_ref().unwrap();
        assert_eq!(of_container.allow_privilege_escalation, Some(false), "{name}");
        assert_eq!(of_container.read_only_root_filesystem, Some(true), "{name}");
        let dropped = of_container.capabilities.as_ref().and_then(|capabilities| capabilities.drop.as_ref());
        assert_eq!(dropped.unwrap(), &["ALL"], "{name}");
        assert_eq!(pod.automount_service_account_token, Some(false), "{name}");
        assert_eq!(pod.enable_service_links, Some(false), "{name}: no variables like ours");
    });
}

#[test]
fn images_have_names_and_tags() {
    each_pods(|name, _, pods| {
        let image = pods.container().image.as_deref().unwrap();
        let expected = if pods.is_server() { "halflife-server" } else { "halflife-worker" };
        let tag = image.strip_prefix(expected).and_then(|rest| rest.strip_prefix(':'));
        assert!(tag.is_some_and(|tag| !tag.is_empty() && tag != "latest"), "{name}: {image}");
    });
}

#[test]
fn there_is_time_to_end_in_good_order() {
    each_pods(|name, _, pods| {
        let grace = pods.spec().termination_grace_period_seconds.unwrap();
        let hook = pods.container().lifecycle.as_ref().and_then(|cycle| cycle.pre_stop.as_ref());
        let command = hook.and_then(|hook| hook.exec.as_ref()?.command.clone()).unwrap_or_default();
        let timeout = command.iter().find_map(|argument| argument.strip_prefix("--timeout="));
        assert_eq!(timeout.is_some(), pods.is_server(), "{name}: only servers have something to keep");
        let hook_s: i64 = timeout.map_or(0, |timeout| timeout.parse().unwrap());
        assert!(hook_s + END_WITHIN < grace, "{name}: {grace} s");
    });
}

/// How long a probe must fail before something happens, in seconds.
fn failing_for(probe: &Probe) -> i32 {
    probe.failure_threshold.unwrap_or(3) * probe.period_seconds.unwrap_or(10)
}

#[test]
fn no_probe_kills_a_server_that_waits_or_restores() {
    for (overlay, objects) in render::all() {
        let container = objects.servers().container();
        for probe in [&container.startup_probe, &container.liveness_probe].map(|probe| probe.as_ref().unwrap()) {
            // Whether it has its part is another question: that can take for ever.
            assert_eq!(probe.grpc.as_ref().unwrap().service, None, "{overlay}");
            assert!(failing_for(probe) >= 120, "{overlay}: the loss of a server costs everybody a recovery");
            assert!(probe.timeout_seconds.unwrap_or(1) >= 5, "{overlay}: a busy server is not a dead one");
        }
    }
}
