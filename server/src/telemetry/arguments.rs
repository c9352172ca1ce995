//! The settings of what a process tells of itself.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use clap::Args;
use halflife_proto::trace::Spans;
use thiserror::Error;
use tracing::info;

use super::{Exporter, Telemetry, endpoint};
use crate::{socket_address, whole_number};

/// A trace now and then costs nothing, and shows what a step is made of.
const EVERY_DEFAULT: NonZeroU64 = NonZeroU64::MIN.saturating_add(99);

/// How a process is observed.
#[derive(Clone, Debug, Args)]
pub struct TelemetryArguments {
    /// Serve metrics for Prometheus at http://ADDR/metrics, and http://ADDR/healthz for health checks. Port 0 takes a free
    /// one, which the log names. Off by default.
    #[arg(long, value_name = "ADDR", env = "HALFLIFE_METRICS", value_parser = socket_address::parse)]
    pub metrics: Option<SocketAddr>,
    /// Send traces to the OpenTelemetry collector at this URL, by OTLP over gRPC, such as http://localhost:4317. Off by default.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp: Option<String>,
    /// Trace every N-th step. To be the same for all processes of a job: each adds its part to the trace of a step.
    #[arg(long, value_name = "N", default_value_t = EVERY_DEFAULT, requires = "otlp", env = "HALFLIFE_TRACE_SAMPLE", value_parser = whole_number::within::<NonZeroU64>(1..=u64::MAX))]
    pub trace_sample: NonZeroU64,
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
    /// Spans cannot be sent there.
    #[error("cannot send traces to {url:?}: expected a URL such as http://localhost:4317: {reason}")]
    Collector {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl TelemetryArguments {
    /// Begins to serve and to send what is asked for, until the process ends, as `service`. Needs a runtime.
    ///
    /// # Errors
    /// [`TelemetryError`].
    pub async fn begin(&self, service: &str) -> Result<Telemetry, TelemetryError> {
        let mut telemetry = Telemetry::default();
        if let Some(url) = &self.otlp {
            let exporter = start_exporter(url, service, &telemetry)?;
            telemetry.spans = Spans::new(exporter.clone(), self.trace_sample.get());
            telemetry.exporter = Some(exporter);
            info!(url, every = self.trace_sample.get(), "sending traces");
        }
        if let Some(listen) = self.metrics {
            let serving = endpoint::serve(listen, telemetry.clone()).await;
            serving.map_err(|source| TelemetryError::Listen { listen, source })?;
        }
        Ok(telemetry)
    }
}

fn start_exporter(url: &str, service: &str, telemetry: &Telemetry) -> Result<Arc<Exporter>, TelemetryError> {
    let unusable = |reason: String| TelemetryError::Collector { url: url.to_owned(), reason };
    if !url.starts_with("http://") {
        return Err(unusable("only http is spoken".to_owned()));
    }
    let exporter = Exporter::start(url, service, telemetry.span_counts.clone());
    exporter.map(Arc::new).map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_to_trace_means_nothing_without_a_collector() {
        let parse = |line: &str| {
            let command = TelemetryArguments::augment_args(clap::Command::new("x"));
            command.try_get_matches_from(line.split_whitespace()).map_err(|error| error.to_string())
        };
        assert!(parse("x --trace-sample 5").unwrap_err().contains("--otlp"));
        parse("x --trace-sample 5 --otlp http://c:4317").unwrap();
        parse("x").unwrap();
        assert!(parse("x --otlp http://c:4317 --trace-sample 0").unwrap_err().contains("expected at least 1, found 0"));
        assert!(parse("x --metrics localhost:9090").unwrap_err().contains("0.0.0.0:7070"));
    }
}
