//! Spans to a collector, by OTLP over gRPC.
//!
//! Whoever records a span never waits: the queue is bounded, and what finds no room is dropped and counted. A task sends
//! batches; a collector that is slow, gone or refuses costs spans and nothing else. At the end what is queued is sent, for
//! a moment at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use halflife_proto::trace::{Attribute, Span, SpanSink};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

/// Spans that may wait to be sent.
const QUEUED_MAX: usize = 4096;
/// Spans sent at once.
const BATCH_MAX: usize = 512;
/// Time between two batches, where the first is not full.
const BATCH_EVERY: Duration = Duration::from_secs(1);
/// How long a collector may take for a batch.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// How long the end of the process may wait for the last batch: it has to end within 2 s of a signal.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct SpanCounts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl SpanCounts {
    pub(super) fn told(&self) -> [(&'static str, u64); 3] {
        [("exported", &self.exported), ("dropped", &self.dropped), ("failed", &self.failed)]
            .map(|(result, count)| (result, count.load(Relaxed)))
    }
}

/// Where spans are queued.
#[derive(Debug)]
pub(super) struct Exporter {
    queue: mpsc::Sender<Queued>,
    counts: Arc<SpanCounts>,
}

#[derive(Debug)]
enum Queued {
    Span(Box<SpanData>),
    /// Everything before it is to be sent now.
    Flush(oneshot::Sender<()>),
}

impl Exporter {
    /// Sends to the collector at `url`, as `service`. Needs a runtime.
    ///
    /// # Errors
    /// When `url` is none that can be sent to.
    pub(super) fn start(url: &str, service: &str, counts: Arc<SpanCounts>) -> Result<Exporter, ExporterBuildError> {
        let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(url).with_timeout(SEND_WITHIN).build()?;
        let resource = Resource::builder_empty().with_service_name(service.to_owned());
        let about = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ];
        exporter.set_resource(&resource.with_attributes(about).build());
        let (queue, queued) = mpsc::channel(QUEUED_MAX);
        tokio::spawn(send(exporter, queued, counts.clone()));
        Ok(Exporter { queue, counts })
    }

    /// Sends what is queued, or gives up after a moment.
    pub(super) async fn flush(&self) {
        let flushing = async {
            let (done, flushed) = oneshot::channel();
            if self.queue.send(Queued::Flush(done)).await.is_ok() {
                // A task that is gone has sent all it will.
                let _ = flushed.await;
            }
        };
        if tokio::time::timeout(FLUSH_WITHIN, flushing).await.is_err() {
            warn!("the collector of traces does not answer; the last spans are lost");
        }
    }
}

impl SpanSink for Exporter {
    fn record(&self, span: Span) {
        if self.queue.try_send(Queued::Span(Box::new(data(span)))).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

async fn send(exporter: SpanExporter, mut queued: mpsc::Receiver<Queued>, counts: Arc<SpanCounts>) {
    let mut tick = tokio::time::interval(BATCH_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    let mut warned = false;
    loop {
        let mut flushed = None;
        tokio::select! {
            next = queued.recv() => match next {
                Some(Queued::Span(span)) => {
                    batch.push(*span);
                    if batch.len() < BATCH_MAX {
                        continue;
                    }
                }
                Some(Queued::Flush(done)) => flushed = Some(done),
                None => return,
            },
            _ = tick.tick() => {}
        }
        if !batch.is_empty() {
            let spans = batch.len() as u64;
            match exporter.export(std::mem::take(&mut batch)).await {
                Ok(()) => _ = counts.exported.fetch_add(spans, Relaxed),
                Err(error) => {
                    counts.failed.fetch_add(spans, Relaxed);
                    // Once: a collector that is gone would fill the log.
                    match std::mem::replace(&mut warned, true) {
                        false => {
                            warn!(%error, spans, "the collector of traces did not take spans; training goes on without")
                        }
                        true => debug!(%error, spans, "the collector of traces did not take spans"),
                    }
                }
            }
        }
        if let Some(done) = flushed {
            let _ = done.send(()); // nobody may wait any more
        }
    }
}

/// As the library has it.
fn data(span: Span) -> SpanData {
    let Span { trace, id, parent, name, begin, end, attributes } = span;
    let id = id.map_or_else(rand::random, |id| id.0);
    let attribute = |(name, value): (&'static str, Attribute)| match value {
        Attribute::Number(number) => KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX)),
        Attribute::Text(text) => KeyValue::new(name, text),
    };
    let (trace, id) = (TraceId::from_bytes(trace.0), SpanId::from_bytes(id));
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.0)),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: begin,
        end_time: end,
        attributes: attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("halflife").build(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;

    fn span() -> Span {
        let (trace, now) = (halflife_proto::trace::TraceId([1; 16]), SystemTime::now());
        let attributes = vec![("halflife.step", 7.into()), ("halflife.job", "j".into())];
        Span { trace, id: None, parent: None, name: "step", begin: now, end: now, attributes }
    }

    #[test]
    fn a_span_without_an_id_gets_one_of_its_own() {
        let (first, second) = (data(span()), data(span()));
        assert_ne!(first.span_context.span_id(), second.span_context.span_id());
        assert!(first.span_context.is_valid() && first.span_context.is_sampled());
        assert_eq!(first.attributes, [KeyValue::new("halflife.step", 7), KeyValue::new("halflife.job", "j")]);
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_costs_spans_and_no_time() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let counts = Arc::<SpanCounts>::default();
        let exporter = Exporter::start(&url, "test", counts.clone()).unwrap();
        let begun = Instant::now();
        (0..3 * QUEUED_MAX).for_each(|_| exporter.record(span()));
        assert_eq!(counts.told()[1], ("dropped", 2 * QUEUED_MAX as u64));
        exporter.flush().await;
        assert!(begun.elapsed() < FLUSH_WITHIN + Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}
