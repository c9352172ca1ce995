//! What ends a server besides its job. Whole jobs are in `tests/`.

use super::*;

async fn started() -> RunningServer {
    let job = "[job]\nname = \"test\"\nsteps = 9\n[optimizer]\nalgorithm = \"sgd\"\nlr = 0.5";
    let spec = Box::new(JobSpec::parse("the test", job, &[]).unwrap());
    let options = ServerOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        unix_socket: None,
        part: Part::Lead { spec, latest_valid: false },
        compute_threads: 1,
        memory_max: None,
        patience: Duration::from_secs(1),
        telemetry: Telemetry::default(),
    };
    start(options).await.unwrap()
}

/// Of a run that nobody asks to stop.
async fn error_of(server: RunningServer) -> String {
    let run = tokio::time::timeout(Duration::from_secs(10), server.run(std::future::pending()));
    run.await.expect("it ends").unwrap_err().to_string()
}

#[tokio::test]
async fn a_panic_of_a_servers_part_ends_it_with_an_error() {
    let mut server = started().await;
    server.life.node = tokio::spawn(async { panic!("planted") });
    let error = error_of(server).await;
    assert!(error.starts_with("a bug: its part in the job ended") && error.contains("planted"), "{error}");
}

#[tokio::test]
async fn a_panic_of_what_leads_ends_the_server_with_an_error() {
    let mut server = started().await;
    server.life.tasks.spawn(async { panic!("planted") });
    let error = error_of(server).await;
    assert!(error.starts_with("a bug: its part in the job ended") && error.contains("planted"), "{error}");
}

#[tokio::test]
async fn a_panic_of_what_serves_connections_ends_the_server_with_an_error() {
    let mut server = started().await;
    server.serving = tokio::spawn(async { panic!("planted") });
    let error = error_of(server).await;
    assert!(error.starts_with("a bug: what serves connections ended") && error.contains("planted"), "{error}");
}
