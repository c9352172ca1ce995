//! Servers of one job in this process, on ephemeral ports of loopback.

use std::time::Duration;

use halflife_server::telemetry::Telemetry;
use halflife_server::{JobSpec, Part, ServerEnd, ServerError, ServerOptions, start};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The servers of a job; they stop when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    lead_url: String,
    servers: Vec<Running>,
    telemetry: Telemetry,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<ServerEnd, ServerError>>,
}

fn options(part: Part, telemetry: Telemetry) -> ServerOptions {
    ServerOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        unix_socket: None,
        part,
        memory_max: None,
        compute_threads: 2,
        patience: Duration::from_secs(10),
        telemetry,
    }
}

impl Cluster {
    /// Starts as many servers as the job says.
    pub async fn start(spec: JobSpec) -> Cluster {
        let count = spec.job.servers;
        let mut cluster = Cluster { lead_url: String::new(), servers: Vec::new(), telemetry: Telemetry::default() };
        cluster.lead_url = cluster.add(Part::Lead { spec: Box::new(spec), latest_valid: false }).await;
        for _ in 1..count {
            let lead = cluster.lead_url.clone();
            cluster.add(Part::Follower { lead, expected: None }).await;
        }
        cluster
    }

    async fn add(&mut self, part: Part) -> String {
        let server = start(options(part, self.telemetry.clone())).await.expect("the server starts");
        let url = server.url().to_owned();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(async { drop(stopped.await) }));
        self.servers.push(Running { stop, task });
        url
    }

    /// The lead's URL.
    #[must_use]
    pub fn lead_url(&self) -> &str {
        &self.lead_url
    }

    /// What all servers tell Prometheus.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.telemetry.text().expect("metrics")
    }

    /// Stops every server at once. Whoever sees another go first says so; none fails otherwise.
    pub async fn stop(self) {
        let mut tasks = Vec::new();
        for Running { stop, task } in self.servers {
            let _ = stop.send(());
            tasks.push(task);
        }
        for task in tasks {
            let end = task.await.expect("the server does not panic");
            let expected = matches!(
                end,
                Ok(ServerEnd::Stopped { .. }) | Err(ServerError::JobStopped { .. } | ServerError::LeadLost { .. })
            );
            assert!(expected, "{end:?}");
        }
    }
}
