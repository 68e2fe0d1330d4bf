//! Spans of requests: who records them, and what handlers tell of a request.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderMap;

use super::answering::Head;
use super::app::App;
use crate::engine::{GenerationRequest, RequestObserver};

/// Records requests as spans of traces. `serve::otel`, behind the feature `otel`, sends them to an
/// OpenTelemetry collector.
pub trait Tracer: Send + Sync + std::fmt::Debug {
    /// A request begins: who is told how it ended, and records it then. What the engine refuses to take
    /// has no end, and no span.
    fn begin(&self, head: &SpanHead<'_>) -> Arc<dyn RequestObserver>;

    /// Delivers what is recorded, and records nothing from then on; blocks for at most so long.
    fn shutdown(&self, patience: Duration);
}

/// What is known of a request when it begins. A span must not hold its prompt.
#[derive(Clone, Copy, Debug)]
pub struct SpanHead<'a> {
    /// The answer's id.
    pub id: &'a str,
    /// `chat` or `text_completion`, as OpenTelemetry names them.
    pub operation: &'static str,
    /// The model's name.
    pub model: &'a str,
    /// The headers by which a client names the trace that it is in (W3C Trace Context), and no others.
    pub headers: &'a HeaderMap,
    /// What is asked of the engine.
    pub request: &'a GenerationRequest,
}

/// The headers of W3C Trace Context.
const HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// Who traces an HTTP request, and the client's trace; neither where nobody does.
pub(crate) struct Trace(Option<(Arc<dyn Tracer>, HeaderMap)>);

impl Trace {
    pub(crate) fn of(app: &App, request: &Request) -> Self {
        Self(app.config.tracer.as_ref().map(|tracer| {
            let mut headers = HeaderMap::new();
            for (name, value) in request.headers() {
                if HEADERS.contains(&name.as_str()) {
                    headers.append(name, value.clone());
                }
            }
            (Arc::clone(tracer), headers)
        }))
    }

    /// The engine's request, which is recorded when it is over.
    pub(crate) fn begin(
        &self,
        operation: &'static str,
        head: &Head,
        mut request: GenerationRequest,
    ) -> GenerationRequest {
        if let Self(Some((tracer, headers))) = self {
            let (id, model, of) = (&head.id, &head.model, &request);
            let observer = tracer.begin(&SpanHead { id, operation, model, headers, request: of });
            request.observer = Some(observer);
        }
        request
    }
}
