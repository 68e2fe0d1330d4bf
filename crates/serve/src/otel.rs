//! Traces for an OpenTelemetry collector: a span for each generation, by OTLP over HTTP.
//!
//! A span is called `llm_request` and is a child of what the client's `traceparent` names. Its
//! attributes have the names of OpenTelemetry's conventions for generative AI and, where those have
//! none, of vLLM (its `SpanAttributes`), so that what reads vLLM's traces reads these. There is no
//! prompt and no output among them, nor the message of an error, which may quote one.
//!
//! Spans go through a bounded queue to a thread that sends them in batches. One that finds the queue
//! full is dropped, and so is a batch that the collector did not take in time: no request waits for a
//! collector, or fails with it.
//!
//! What OpenTelemetry reads from the environment holds here: `OTEL_SERVICE_NAME`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_EXPORTER_OTLP_HEADERS`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, TracerProvider as _};
use opentelemetry::{Array, Context, Key, KeyValue, StringValue, Value};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::engine::{GenerationError, RequestEnd, RequestObserver, RequestTimes};
use crate::http::{SpanHead, Tracer};

/// A span's name.
const NAME: &str = "llm_request";
/// The service's name where the environment gives none.
const SERVICE: &str = "infinity";
/// Where a collector takes traces, below its base URL.
const PATH: &str = "/v1/traces";
/// How long one attempt to deliver a batch may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Bytes that a collector's answer may have.
const ANSWER: u64 = 1 << 20;

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtelError {
    /// It is no URL of HTTP.
    #[error("'{endpoint}': expected a URL, for example http://localhost:4318")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// What the exporter does not take: of the environment, for example.
    #[error("traces: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// Sends spans to a collector.
#[derive(Debug)]
pub struct OtlpTracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl OtlpTracer {
    /// For the collector at a base URL, below which `/v1/traces` is; for `None` that of
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, which is taken as it is, or of
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`. Whether anybody listens there is not asked.
    ///
    /// # Errors
    /// [`OtelError`].
    pub fn new(endpoint: Option<&str>) -> Result<Self, OtelError> {
        let http = SpanExporter::builder().with_http();
        let mut http = http.with_protocol(Protocol::HttpBinary).with_http_client(Client::new());
        if let Some(base) = endpoint {
            if !(base.starts_with("http://") || base.starts_with("https://")) {
                return Err(OtelError::Endpoint { endpoint: base.to_owned() });
            }
            http = http.with_endpoint(format!("{}{PATH}", base.trim_end_matches('/')));
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(http.build()?)
            .with_resource(resource())
            .build();
        let tracer = provider.tracer(SERVICE);
        Ok(Self { provider, tracer })
    }
}

/// Who sends the spans.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let found = Resource::builder().with_attribute(version).build();
    let name = found.get(&Key::from_static_str("service.name"));
    match name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        true => {
            let all = found.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
            Resource::builder_empty().with_attributes(all).with_service_name(SERVICE).build()
        }
        false => found,
    }
}

impl Tracer for OtlpTracer {
    fn begin(&self, head: &SpanHead<'_>) -> Arc<dyn RequestObserver> {
        let headers = HeaderExtractor(head.headers);
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
        let sampling = &head.request.sampling;
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", head.operation),
            KeyValue::new("gen_ai.provider.name", SERVICE),
            KeyValue::new("gen_ai.request.id", head.id.to_owned()),
            KeyValue::new("gen_ai.request.model", head.model.to_owned()),
            KeyValue::new("gen_ai.response.model", head.model.to_owned()),
            KeyValue::new("gen_ai.request.temperature", f64::from(sampling.temperature)),
            KeyValue::new("gen_ai.request.top_p", f64::from(sampling.top_p)),
            count("gen_ai.request.n", head.request.search.n()),
        ];
        let most = head.request.stop.max_tokens;
        attributes.extend(most.map(|most| count("gen_ai.request.max_tokens", most)));
        let (tracer, began) = (self.tracer.clone(), SystemTime::now());
        Arc::new(RequestSpan { tracer, parent, began, attributes })
    }

    fn shutdown(&self, patience: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(patience) {
            tracing::warn!(%error, "not all traces were delivered");
        }
    }
}

/// A request that is traced, and what is known of it beforehand.
#[derive(Debug)]
struct RequestSpan {
    tracer: SdkTracer,
    parent: Context,
    began: SystemTime,
    attributes: Vec<KeyValue>,
}

impl RequestObserver for RequestSpan {
    fn finished(&self, end: RequestEnd<'_>) {
        let RequestTimes { queue, prefill, decode } = end.times;
        let total = queue + prefill + decode;
        let mut attributes = self.attributes.clone();
        attributes.extend([
            count("gen_ai.usage.prompt_tokens", end.usage.prompt_tokens),
            count("gen_ai.usage.completion_tokens", end.usage.completion_tokens),
            // The same under the names that the conventions have meanwhile.
            count("gen_ai.usage.input_tokens", end.usage.prompt_tokens),
            count("gen_ai.usage.output_tokens", end.usage.completion_tokens),
            count("gen_ai.usage.cache_read.input_tokens", end.usage.cached_tokens),
            seconds("gen_ai.latency.time_in_queue", queue),
            seconds("gen_ai.latency.e2e", total),
            reasons(end.reason),
        ]);
        if end.usage.completion_tokens > 0 {
            attributes.extend([
                seconds("gen_ai.latency.time_to_first_token", queue + prefill),
                seconds("gen_ai.latency.time_in_model_prefill", prefill),
                seconds("gen_ai.latency.time_in_model_decode", decode),
                seconds("gen_ai.latency.time_in_model_inference", prefill + decode),
            ]);
        }
        let error = end.error.map(error_type);
        attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
        let mut span = SpanBuilder::from_name(NAME)
            .with_kind(SpanKind::Server)
            .with_start_time(self.began)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &self.parent);
        if let Some(error) = error {
            span.set_status(Status::error(error));
        }
        span.end_with_timestamp(self.began + total);
    }
}

fn count(name: &'static str, n: usize) -> KeyValue {
    KeyValue::new(name, i64::try_from(n).unwrap_or(i64::MAX))
}

fn seconds(name: &'static str, duration: Duration) -> KeyValue {
    KeyValue::new(name, duration.as_secs_f64())
}

fn reasons(reason: &'static str) -> KeyValue {
    let reasons = Value::Array(Array::String(vec![StringValue::from(reason)]));
    KeyValue::new("gen_ai.response.finish_reasons", reasons)
}

/// The kind of an error; its message may quote what was generated.
fn error_type(error: &GenerationError) -> &'static str {
    match error {
        GenerationError::Sampling(_) => "sampling",
        GenerationError::Model(_) => "model",
        GenerationError::Constraint(_) => "constraint",
        GenerationError::SlowReader => "slow_reader",
        GenerationError::WorkerPanicked => "worker_panicked",
        GenerationError::QueueTimeout { .. } => "queue_timeout",
        GenerationError::ShutDown => "shut_down",
        // The conventions' word for the rest.
        _ => "_OTHER",
    }
}

/// The HTTP client that downloads models, under the exporter's interface. It blocks the thread that
/// sends batches, which has nothing else to do.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ATTEMPT))
            // The exporter looks at it, to know whether to try again.
            .http_status_as_error(false)
            .build();
        Self(config.into())
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let answer = self.0.run(Request::from_parts(head, body.as_ref()))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}
