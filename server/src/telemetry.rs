//! What a process tells of itself while it runs: metrics that Prometheus reads, and spans for a collector of traces.
//!
//! - `catalogue` names every metric of a server, `exposition` writes them as text, `endpoint` serves that.
//! - `meter` is what is counted on the way of a contribution: atomics, nothing else. Everything that is known elsewhere is
//!   read when somebody asks: `server_readings`, `job_readings` (on the lead), `process_readings`.
//! - `otlp` sends spans; `server_spans` and `lead_spans` make a server's and a lead's. Their ids are `halflife_proto::trace`.
//! - `arguments` are the settings on the command line.
//!
//! A handle goes to whoever has something to tell; without an endpoint nobody asks, and counting goes on. docs/metrics.md is
//! for people, and a test holds it against what a cluster serves.

mod arguments;
mod catalogue;
mod endpoint;
mod exposition;
mod job_readings;
mod lead_spans;
mod meter;
mod otlp;
mod process_readings;
#[cfg(test)]
mod recorded;
mod server_readings;
mod server_spans;

use std::sync::{Arc, Mutex, PoisonError};

use halflife_proto::trace::Spans;

pub use arguments::{TelemetryArguments, TelemetryError};
pub use catalogue::{Family, Kind};
pub use exposition::{Exposition, Histogram};
pub(crate) use lead_spans::LeadSpans;
pub use meter::{Meter, Times};
use otlp::{Exporter, SpanCounts};
pub(crate) use server_readings::ServerReadings;
pub(crate) use server_spans::{SendSpans, ServerTrace, ShardSpans};

/// Somebody who has metrics to tell.
pub trait Source: Send + Sync {
    /// Tells them.
    fn tell(&self, exposition: &mut Exposition);
}

/// What a process is observed through. Clones share it.
#[derive(Clone, Default)]
pub struct Telemetry {
    sources: Arc<Mutex<Vec<Arc<dyn Source>>>>,
    spans: Spans,
    span_counts: Arc<SpanCounts>,
    exporter: Option<Arc<Exporter>>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Asks `source`, too, from now on.
    pub fn add(&self, source: Arc<dyn Source>) {
        // A list whose writer panicked is still a list, here and below.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Where spans go.
    #[must_use]
    pub fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Sends the spans that wait, for a moment at most: to be called before the process ends.
    pub async fn flush(&self) {
        if let Some(exporter) = &self.exporter {
            exporter.flush().await;
        }
    }

    /// All metrics as Prometheus reads them.
    ///
    /// # Errors
    /// When one of them has no value to write.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut exposition = Exposition::default();
        process_readings::tell(&mut exposition);
        for (result, count) in self.span_counts.told() {
            exposition.counter(&catalogue::SPANS, &[result], count as f64);
        }
        sources.iter().for_each(|source| source.tell(&mut exposition));
        exposition.text()
    }
}
