//! Renders a kustomization and decodes every object strictly.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use halflife_tests::needed;
use halflife_tests::process::root;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::objects::{Object, Objects};

/// What is rendered: every directory that a person may apply.
pub const OVERLAYS: [&str; 3] = ["base", "overlays/local", "overlays/production"];

pub fn directory(overlay: &str) -> PathBuf {
    root().join("deploy/kubernetes").join(overlay)
}

/// Every overlay with its objects, rendered once.
pub fn all() -> &'static [(&'static str, Objects)] {
    static RENDERED: OnceLock<Vec<(&'static str, Objects)>> = OnceLock::new();
    RENDERED.get_or_init(|| {
        let Some(kubectl) =
            needed::program("kubectl", "the manifests of deploy/kubernetes, with kubectl 1.27 or newer")
        else {
            return Vec::new();
        };
        OVERLAYS.map(|overlay| (overlay, decoded(overlay, &text(&kubectl, overlay)))).into()
    })
}

fn text(kubectl: &Command, overlay: &str) -> String {
    let rendered =
        Command::new(kubectl.get_program()).arg("kustomize").arg(directory(overlay)).output().expect("kubectl runs");
    let said = String::from_utf8_lossy(&rendered.stderr);
    assert!(rendered.status.success(), "{overlay}: {said}");
    assert_eq!(said, "", "{overlay}: kustomize warns");
    String::from_utf8(rendered.stdout).expect("manifests are text")
}

fn decoded(overlay: &str, text: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("kustomize writes YAML");
    let objects = documents.iter().map(|document| {
        object(document).unwrap_or_else(|error| panic!("{overlay}, {}: {error}\n{document:#}", name(document)))
    });
    Objects(objects.collect())
}

fn name(document: &Value) -> String {
    format!("{} {}", document["kind"], document["metadata"]["name"])
}

fn object(document: &Value) -> Result<Object, String> {
    let kind = (document["apiVersion"].as_str().unwrap_or(""), document["kind"].as_str().unwrap_or(""));
    Ok(match kind {
        ("v1", "ConfigMap") => Object::ConfigMap(strict(document)?),
        ("v1", "Namespace") => Object::Namespace(strict(document)?),
        ("v1", "PersistentVolumeClaim") => Object::Claim(strict(document)?),
        ("v1", "Service") => Object::Service(strict(document)?),
        ("apps/v1", "Deployment") => Object::Deployment(Box::new(strict(document)?)),
        ("apps/v1", "StatefulSet") => Object::StatefulSet(Box::new(strict(document)?)),
        ("batch/v1", "Job") => Object::Job(Box::new(strict(document)?)),
        ("networking.k8s.io/v1", "NetworkPolicy") => Object::NetworkPolicy(strict(document)?),
        ("policy/v1", "PodDisruptionBudget") => Object::DisruptionBudget(strict(document)?),
        other => return Err(format!("expected a kind that the tests know, found {other:?}")),
    })
}

/// Decoded, with every field taken and none made up: a required field that is missing is decoded as an empty one.
fn strict<T: DeserializeOwned + Serialize>(document: &Value) -> Result<T, String> {
    let mut unknown = Vec::new();
    // In a path, `?` is where a field is optional.
    let mut ignored = |path: serde_ignored::Path<'_>| unknown.push(path.to_string().replace(".?", ""));
    let decoded: Result<T, _> = serde_ignored::deserialize(document, &mut ignored);
    let decoded = decoded.map_err(|error| error.to_string())?;
    if !unknown.is_empty() {
        return Err(format!("unknown fields: {}", unknown.join(", ")));
    }
    let written = serde_json::to_value(&decoded).map_err(|error| error.to_string())?;
    if written != *document {
        return Err(format!("written again it is another, as where a required field is missing: {written:#}"));
    }
    Ok(decoded)
}

#[test]
fn what_an_api_server_would_drop_or_refuse_is_found() {
    let text = "apiVersion: apps/v1
kind: StatefulSet
metadata: { name: a }
spec:
  selector: { matchLabels: { a: b } }
  serviceName: a
  template:
    metadata: { labels: { a: b } }
    spec:
      containers:
        - { name: c, image: i, livenessProbe: { grpc: { port: 1 } } }
";
    let of = |text: &str| object(&serde_saphyr::from_str::<Value>(text).unwrap()).map(drop);
    assert_eq!(of(text), Ok(()));
    for (right, wrong, said) in [
        ("serviceName", "servicename", "spec.servicename"),
        ("livenessProbe", "livenesProbe", "containers.0.livenesProbe"),
        ("port: 1", "port: http", "invalid type"),
        ("apps/v1", "apps/v1beta1", "a kind that the tests know"),
        ("name: c, ", "", "a required field is missing"),
    ] {
        let error = of(&text.replace(right, wrong)).unwrap_err();
        assert!(error.contains(said), "{wrong}: {error}");
    }
}

#[test]
fn every_overlay_renders_and_decodes_without_a_field_to_spare() {
    for (overlay, objects) in all() {
        assert!(objects.pods().count() >= 2, "{overlay}: servers and workers");
    }
    // Whoever adds an overlay adds it to the list.
    let overlays = std::fs::read_dir(directory("overlays")).unwrap().count();
    assert_eq!(overlays + 1, OVERLAYS.len());
}
