//! Who may reach whom, as network policies are evaluated: a connection passes if the policies of both ends let it.

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects::{Labels, Objects, labels_of, selects};
use crate::render;

/// One end of a connection.
struct End<'a> {
    namespace: &'a str,
    labels: Labels,
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn is_peer(peers: Option<&Vec<NetworkPolicyPeer>>, other: &End<'_>, own_namespace: &str) -> bool {
    let Some(peers) = peers else { return true };
    peers.iter().any(|peer| {
        let namespace = labels(&[("kubernetes.io/metadata.name", other.namespace)]);
        let namespace_fits = match &peer.namespace_selector {
            Some(selector) => selects(selector, &namespace),
            None => other.namespace == own_namespace,
        };
        let pod_fits = peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &other.labels));
        peer.ip_block.is_none() && namespace_fits && pod_fits
    })
}

fn has_port(ports: Option<&Vec<NetworkPolicyPort>>, port: i32) -> bool {
    ports.is_none_or(|ports| ports.iter().any(|known| known.port == Some(IntOrString::Int(port))))
}

/// Whether the policies let `from` connect to `to`.
fn passes(objects: &Objects, namespace: &str, from: &End<'_>, to: &End<'_>, port: i32) -> bool {
    let of = |end: &End<'_>, direction: &str| {
        let policies = objects.policies().filter_map(|policy| policy.spec.as_ref());
        let is_policy = |types: &Option<Vec<String>>| types.iter().flatten().any(|known| known == direction);
        let selected: Vec<_> = policies
            .filter(|spec| is_policy(&spec.policy_types))
            .filter(|spec| {
                end.namespace == namespace && spec.pod_selector.as_ref().is_none_or(|s| selects(s, &end.labels))
            })
            .collect();
        selected
    };
    let out = of(from, "Egress");
    let may_leave = out.is_empty()
        || out
            .iter()
            .flat_map(|spec| spec.egress.iter().flatten())
            .any(|rule| is_peer(rule.to.as_ref(), to, namespace) && has_port(rule.ports.as_ref(), port));
    let into = of(to, "Ingress");
    let may_enter = into.is_empty()
        || into
            .iter()
            .flat_map(|spec| spec.ingress.iter().flatten())
            .any(|rule| is_peer(rule.from.as_ref(), from, namespace) && has_port(rule.ports.as_ref(), port));
    may_leave && may_enter
}

#[test]
fn in_production_only_those_who_must_reach_each_other() {
    let Some((_, objects)) = render::all().iter().find(|(overlay, _)| *overlay == "overlays/production") else {
        return;
    };
    let (servers, workers) = (objects.servers(), objects.workers());
    let namespace = servers.metadata.namespace.as_deref().unwrap();
    let server = End { namespace, labels: servers.labels().clone() };
    let worker = End { namespace, labels: workers.labels().clone() };
    let stranger = End { namespace, labels: labels(&[("app", "stranger")]) };
    let prometheus = End { namespace: "monitoring", labels: labels(&[("app", "prometheus")]) };
    let outsider = End { namespace: "default", labels: worker.labels.clone() };
    let dns = End { namespace: "kube-system", labels: labels(&[("k8s-app", "kube-dns")]) };
    let (grpc, metrics) = (servers.port("grpc").unwrap(), servers.port("metrics").unwrap());
    for (from, to, port, expected, name) in [
        (&worker, &server, grpc, true, "a worker to a server"),
        (&server, &server, grpc, true, "a server to another"),
        (&prometheus, &server, metrics, true, "Prometheus to a server"),
        (&prometheus, &worker, metrics, true, "Prometheus to a worker"),
        (&server, &dns, 53, true, "a server to DNS"),
        (&worker, &dns, 53, true, "a worker to DNS"),
        (&worker, &worker, grpc, false, "a worker to another"),
        (&server, &worker, metrics, false, "a server to a worker"),
        (&stranger, &server, grpc, false, "a stranger to a server"),
        (&stranger, &worker, metrics, false, "a stranger to a worker"),
        (&outsider, &server, grpc, false, "another namespace to a server"),
        (&prometheus, &server, grpc, false, "Prometheus to a server's data"),
        (&worker, &dns, 443, false, "a worker to anything else"),
    ] {
        assert_eq!(passes(objects, namespace, from, to, port), expected, "{name}");
    }
    let to_the_world = |component: &str| {
        objects.policies().any(|policy| {
            let spec = policy.spec.as_ref().unwrap();
            let own = labels(&[("app.kubernetes.io/name", "halflife"), ("app.kubernetes.io/component", component)]);
            let selected = spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, &own));
            let mut rules = spec.egress.iter().flatten();
            selected && rules.any(|rule| rule.to.iter().flatten().any(|peer| peer.ip_block.is_some()))
        })
    };
    assert!(to_the_world("server") && !to_the_world("worker"), "only servers reach S3");
}

#[test]
fn every_policy_selects_pods() {
    for (overlay, objects) in render::all() {
        for policy in objects.policies() {
            let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref()).unwrap();
            let taken = objects.pods().any(|pods| selects(selector, labels_of(pods.template.metadata.as_ref())));
            assert!(taken, "{overlay}: {:?}", policy.metadata.name);
        }
    }
}
