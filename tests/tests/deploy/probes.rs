//! What the probes ask, a server answers.

use std::collections::BTreeSet;

use halflife_tests::process::{Process, root};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::render;

#[tokio::test]
async fn a_server_answers_every_probe() {
    let mut services = BTreeSet::new();
    for (overlay, objects) in render::all() {
        let servers = objects.servers();
        let container = servers.container();
        for probe in [&container.startup_probe, &container.readiness_probe, &container.liveness_probe] {
            let asked = probe.as_ref().and_then(|probe| probe.grpc.as_ref()).expect("a gRPC probe");
            assert_eq!(Some(asked.port), servers.port("grpc"), "{overlay}");
            services.insert(asked.service.clone().unwrap_or_default());
        }
    }
    let job = root().join("deploy/examples/digits.toml");
    let (_server, url) = Process::server(&["--config", job.to_str().expect("a path in UTF-8")]);
    let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("a connection");
    let mut health = HealthClient::new(channel);
    for service in services {
        let request = HealthCheckRequest { service: service.clone() };
        let answer = health.check(request).await.unwrap_or_else(|status| panic!("{service:?}: {status}"));
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
}
