//! The settings of what a process tells of itself.

use std::net::SocketAddr;

use clap::Args;
use thiserror::Error;

use super::{Telemetry, endpoint};

/// How a process is observed.
#[derive(Clone, Debug, Default, Args)]
pub struct TelemetryArguments {
    /// Serve metrics for Prometheus at http://ADDR/metrics, and http://ADDR/healthz for health checks. Port 0 takes a free
    /// one, which the log names. Off by default.
    #[arg(long, value_name = "ADDR", env = "HALFLIFE_METRICS")]
    pub metrics: Option<SocketAddr>,
}

/// Why a process cannot be observed as was asked.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The address cannot be listened on.
    #[error("cannot serve metrics at {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl TelemetryArguments {
    /// Begins to serve what is asked for, until the process ends. Needs a runtime.
    ///
    /// # Errors
    /// [`TelemetryError`].
    pub async fn begin(&self) -> Result<Telemetry, TelemetryError> {
        let telemetry = Telemetry::default();
        if let Some(listen) = self.metrics {
            let serving = endpoint::serve(listen, telemetry.clone()).await;
            serving.map_err(|source| TelemetryError::Listen { listen, source })?;
        }
        Ok(telemetry)
    }
}
