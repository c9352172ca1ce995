//! A server of the benchmark in a process of its own: the real one, and the bound beside it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use halflife_server::telemetry::Telemetry;
use halflife_server::{JobSpec, Part, ServerOptions, start};

use super::bound;
use super::machine;
use super::process::{Answer, Order};
use super::role::{Orders, RoleError, answer};

/// How long a follower tries to reach a lead that has said where it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until its orders end, or its server fails.
///
/// # Errors
/// [`RoleError`].
pub(super) async fn serve(part: Part, compute_threads: usize, mut orders: Orders) -> Result<(), RoleError> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = ServerOptions {
        listen,
        advertise: None,
        unix_socket: None,
        part,
        compute_threads,
        memory_max: None,
        patience: PATIENCE,
        telemetry: Telemetry::default(),
    };
    let server = start(options).await?;
    answer(&Answer::Listening { url: server.url().to_owned() })?;
    let mut server = tokio::spawn(server.run(std::future::pending()));
    let mut runs = true;
    loop {
        let order = tokio::select! {
            end = &mut server, if runs => {
                // A finished job's server may still be asked what it used.
                runs = false;
                end.map_err(RoleError::Panicked)??;
                continue;
            }
            order = orders.recv() => order,
        };
        let Some(order) = order else { return Ok(()) };
        match order {
            Order::Usage => answer(&Answer::Usage(machine::usage()))?,
            Order::ListenBound { plan, server } => {
                answer(&Answer::BoundListening { address: bound::server::listen(&plan, server)? })?;
            }
            other => return Err(RoleError::unexpected("a server", &other)),
        }
    }
}

/// The part that leads a job.
pub(super) fn lead(job_toml: &str) -> Result<Part, RoleError> {
    let spec = Box::new(JobSpec::parse("the benchmark's job", job_toml, &[])?);
    Ok(Part::Lead { spec, latest_valid: false })
}
