//! The objects of one overlay, and what runs pods among them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Namespace, PersistentVolumeClaim, PodSpec, PodTemplateSpec, Service, Volume,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

pub type Labels = BTreeMap<String, String>;

#[derive(Debug)]
pub enum Object {
    ConfigMap(ConfigMap),
    Namespace(Namespace),
    Claim(PersistentVolumeClaim),
    Service(Service),
    Deployment(Box<Deployment>),
    StatefulSet(Box<StatefulSet>),
    Job(Box<Job>),
    NetworkPolicy(NetworkPolicy),
    DisruptionBudget(PodDisruptionBudget),
}

#[derive(Debug)]
pub struct Objects(pub Vec<Object>);

/// What runs pods of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'a> {
    pub kind: &'static str,
    pub metadata: &'a ObjectMeta,
    /// `None`: the cluster makes it up, as of a Job.
    pub selector: Option<&'a LabelSelector>,
    pub template: &'a PodTemplateSpec,
    /// How many.
    pub count: i32,
}

impl<'a> Pods<'a> {
    pub fn name(&self) -> &'a str {
        self.metadata.name.as_deref().expect("a name")
    }

    pub fn is_server(&self) -> bool {
        self.labels().get("app.kubernetes.io/component").is_some_and(|component| component == "server")
    }

    pub fn labels(&self) -> &'a Labels {
        labels_of(self.template.metadata.as_ref())
    }

    pub fn annotation(&self, key: &str) -> Option<&'a str> {
        self.template.metadata.as_ref()?.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub fn spec(&self) -> &'a PodSpec {
        self.template.spec.as_ref().expect("a pod's spec")
    }

    pub fn container(&self) -> &'a Container {
        let [container] = self.spec().containers.as_slice() else { panic!("{}: expected one container", self.name()) };
        container
    }

    pub fn volumes(&self) -> &'a [Volume] {
        self.spec().volumes.as_deref().unwrap_or_default()
    }

    /// A port of the container, by its name.
    pub fn port(&self, name: &str) -> Option<i32> {
        self.ports().find(|(known, _)| *known == name).map(|(_, port)| port)
    }

    pub fn ports(&self) -> impl Iterator<Item = (&'a str, i32)> + use<'a> {
        let ports = self.container().ports.as_deref().unwrap_or_default();
        ports.iter().map(|port| (port.name.as_deref().expect("ports have names"), port.container_port))
    }

    /// The value of an argument `--name=value`.
    pub fn argument(&self, name: &str) -> Option<&'a str> {
        let arguments = self.container().args.as_deref().unwrap_or_default();
        arguments.iter().find_map(|argument| argument.strip_prefix(&format!("--{name}=")))
    }

    pub fn variable(&self, name: &str) -> Option<&'a str> {
        let variables = self.container().env.as_deref().unwrap_or_default();
        variables.iter().find(|variable| variable.name == name)?.value.as_deref()
    }
}

pub fn labels_of(metadata: Option<&ObjectMeta>) -> &Labels {
    static NONE: Labels = Labels::new();
    metadata.and_then(|metadata| metadata.labels.as_ref()).unwrap_or(&NONE)
}

/// Whether a selector takes pods with these labels. One without expressions: the tests know no others.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    assert!(selector.match_expressions.is_none(), "expressions in selectors are unknown to the tests");
    let wanted = selector.match_labels.as_ref();
    wanted.is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

impl Objects {
    pub fn pods(&self) -> impl Iterator<Item = Pods<'_>> {
        self.0.iter().filter_map(|object| match object {
            Object::StatefulSet(set) => {
                let spec = set.spec.as_ref()?;
                Some(Pods {
                    kind: "StatefulSet",
                    metadata: &set.metadata,
                    selector: Some(&spec.selector),
                    template: &spec.template,
                    count: spec.replicas.unwrap_or(1),
                })
            }
            Object::Deployment(deployment) => {
                let spec = deployment.spec.as_ref()?;
                Some(Pods {
                    kind: "Deployment",
                    metadata: &deployment.metadata,
                    selector: Some(&spec.selector),
                    template: &spec.template,
                    count: spec.replicas.unwrap_or(1),
                })
            }
            Object::Job(job) => {
                let spec = job.spec.as_ref()?;
                Some(Pods {
                    kind: "Job",
                    metadata: &job.metadata,
                    selector: spec.selector.as_ref(),
                    template: &spec.template,
                    count: spec.parallelism.unwrap_or(1),
                })
            }
            _ => None,
        })
    }

    pub fn servers(&self) -> Pods<'_> {
        self.pods().find(Pods::is_server).expect("servers")
    }

    pub fn workers(&self) -> Pods<'_> {
        self.pods().find(|pods| !pods.is_server()).expect("workers")
    }

    pub fn stateful_set(&self) -> &StatefulSet {
        self.find(|object| if let Object::StatefulSet(set) = object { Some(&**set) } else { None })
    }

    pub fn service(&self) -> &Service {
        self.find(|object| if let Object::Service(service) = object { Some(service) } else { None })
    }

    pub fn config_map(&self) -> &ConfigMap {
        self.find(|object| if let Object::ConfigMap(map) = object { Some(map) } else { None })
    }

    /// The job file that servers read.
    pub fn job_file(&self) -> &str {
        let data = self.config_map().data.as_ref().expect("data");
        data.get("job.toml").expect("job.toml")
    }

    pub fn policies(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.0.iter().filter_map(|object| if let Object::NetworkPolicy(policy) = object { Some(policy) } else { None })
    }

    fn find<'a, T: ?Sized>(&'a self, of_kind: impl Fn(&'a Object) -> Option<&'a T>) -> &'a T {
        let mut found = self.0.iter().filter_map(of_kind);
        let first = found.next().expect("one of the kind");
        assert!(found.next().is_none(), "expected one of the kind, found more");
        first
    }
}
