//! What the probes ask, a server answers.

use std::collections::BTreeSet;
use std::time::Duration;

use halflife_tests::port::free_port;
use halflife_tests::process::{Process, root};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::render;

/// What a server says of itself, by the service that a probe asks for; empty: the process.
async fn asked(channel: Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await;
    answer.unwrap_or_else(|status| panic!("{service:?}: {status}")).into_inner().status()
}

#[tokio::test]
async fn a_server_that_waits_for_its_part_lives_and_is_not_ready() {
    let listen = format!("127.0.0.1:{}", free_port());
    let _server = Process::start("halflife-server", &["--listen", &listen, "--lead", "http://127.0.0.1:1"]);
    let endpoint = Endpoint::from_shared(format!("http://{listen}")).expect("a URL");
    let mut attempts = 0;
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(error) => assert!(attempts < 3_000, "it never listens: {error}"),
        }
        attempts += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(asked(channel.clone(), "").await, ServingStatus::Serving);
    assert_eq!(asked(channel, "halflife.v1.Data").await, ServingStatus::NotServing);
}

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
    for service in services {
        assert_eq!(asked(channel.clone(), &service).await, ServingStatus::Serving, "{service:?}");
    }
}
