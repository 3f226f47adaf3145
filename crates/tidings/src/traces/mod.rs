//! Traces: what became of a publish or of a stream's opening, step by step, for `OpenTelemetry`.
//!
//! - [`sampling`]: which requests are traced.
//! - `collector`: how spans get to the collector, by OTLP over HTTP.
//!
//! Off unless `traces.endpoint` names a collector; then each request looks at one `Option`. Who is traced is known
//! by then: a span begins when its caller was let in, with the time at which the request came, so that bad
//! credentials cost nobody's traces. A span holds the tenant, numbers and times, and never a credential, a key, a
//! user, a device or a payload. Spans wait in a bounded queue; what does not fit, and what the collector does not
//! take, is dropped and counted.

mod collector;
pub mod sampling;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span, SpanLimits,
};
use tidings_protocol::TenantId;

use crate::config::{Config, ConfigError};
use crate::metrics::count::Counter;
use collector::Exporter;
use sampling::Sampling;

/// How many spans wait for the collector at most.
const QUEUE: usize = 2_048;

/// How many are sent together.
const BATCH: usize = 512;

/// After how long those that wait are sent.
const EVERY: Duration = Duration::from_secs(2);

/// How long the end of the server may wait for the collector.
const FAREWELL: Duration = Duration::from_secs(2);

/// The header that names the caller's trace (W3C Trace Context, section 3.2).
const TRACEPARENT: &str = "traceparent";

/// What has become of spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    /// Recorded.
    pub recorded: Counter,
    /// Taken by the collector.
    pub exported: Counter,
    /// Not taken by the collector.
    pub failed: Counter,
}

/// Traces requests.
pub struct Traces {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    counts: Arc<SpanCounts>,
}

impl Traces {
    /// Traces as configured; `None` where they are off. Must be called within a Tokio runtime, which the
    /// requests to the collector run on.
    ///
    /// # Errors
    ///
    /// When what the environment says of OTLP (`OTEL_EXPORTER_OTLP_…`) won't do.
    pub fn from_config(config: &Config) -> Result<Option<Self>, ConfigError> {
        let Some(endpoint) = &config.traces.endpoint else {
            return Ok(None);
        };
        let counts = Arc::new(SpanCounts::default());
        let exporter = Exporter::new(endpoint, Arc::clone(&counts))
            .map_err(|error| ConfigError::new("traces.endpoint", error.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EVERY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let about = [
            KeyValue::new("service.name", "tidings"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", config.node_name()),
        ];
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampling::new(config.traces.sample))
            .with_span_limits(SpanLimits::default())
            .with_resource(Resource::builder_empty().with_attributes(about).build())
            .build();
        Ok(Some(Self {
            tracer: provider.tracer("tidings"),
            provider,
            counts,
        }))
    }

    /// What has become of spans.
    #[must_use]
    pub fn counts(&self) -> &SpanCounts {
        &self.counts
    }

    /// Begins the span of a request that came at `since`, within the trace that its caller names, if it names one.
    #[must_use]
    pub fn begin(&self, name: &'static str, headers: &HeaderMap, since: SystemTime) -> Traced {
        let caller = TraceContextPropagator::new();
        let caller = caller.extract_with_context(&Context::new(), &Caller(headers));
        let builder = self.tracer.span_builder(name);
        let builder = builder.with_kind(SpanKind::Server).with_start_time(since);
        let span = self.tracer.build_with_context(builder, &caller);
        if !span.is_recording() {
            return Traced(None);
        }
        self.counts.recorded.add(1);
        Traced(Some(Box::new(span)))
    }

    /// Sends what waits, and waits for that a moment. Blocks.
    pub fn stop(&self) {
        // What the collector does not take now is lost, as it is said.
        let _ = self.provider.shutdown_with_timeout(FAREWELL);
    }
}

/// The one header that is read of the caller. `tracestate` is not: it is text of any kind that would be
/// passed on unread.
struct Caller<'a>(&'a HeaderMap);

impl Extractor for Caller<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        if key != TRACEPARENT {
            return None;
        }
        let mut values = self.0.get_all(TRACEPARENT).iter();
        let value = values.next()?.to_str().ok()?;
        // Two of them name nothing (section 3.2.1).
        values.next().is_none().then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

/// The span of one request, or nothing where it is not traced. Dropping it ends the span.
#[derive(Default)]
pub struct Traced(Option<Box<Span>>);

impl Traced {
    /// Notes that a step is done.
    pub fn mark(&mut self, step: &'static str) {
        if let Some(span) = &mut self.0 {
            span.add_event(step, Vec::new());
        }
    }

    /// Notes a fact. What it is is only worked out where it is noted.
    pub fn set<V: Into<Value>>(&mut self, name: &'static str, value: impl FnOnce() -> V) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value()));
        }
    }

    /// Notes a number.
    pub fn count(&mut self, name: &'static str, count: u64) {
        self.set(name, || i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Notes whose events it is about; nothing where it is about all tenants.
    pub fn tenant(&mut self, tenant: Option<TenantId>) {
        if let Some(tenant) = tenant {
            self.set("tidings.tenant_id", || tenant.to_string());
        }
    }

    /// Ends the span of a request that is answered with this status.
    pub fn end(&mut self, status: u16) {
        let Some(mut span) = self.0.take() else {
            return;
        };
        let code = i64::from(status);
        span.set_attribute(KeyValue::new("http.response.status_code", code));
        // What the caller did wrong is no fault of the server's.
        if status >= 500 {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}
