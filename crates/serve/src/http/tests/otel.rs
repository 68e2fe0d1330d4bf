//! Spans as a collector on loopback receives them, and a collector that does not answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, header};
use axum::routing::post as route_post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Answer, app_of, bard, get, post, send, start};
use crate::engine::{Engine, EngineConfig};
use crate::http::router::router;
use crate::http::{HttpConfig, Tracer as _};
use crate::otel::{OtelError, OtlpTracer};

type Bodies = Arc<Mutex<Vec<Bytes>>>;

/// A collector that keeps what it is sent, and its base URL.
async fn collector() -> (String, Bodies) {
    async fn keep(State(bodies): State<Bodies>, body: Bytes) {
        bodies.lock().unwrap().push(body);
    }
    let bodies = Bodies::default();
    let app = Router::new().route("/v1/traces", route_post(keep)).with_state(Arc::clone(&bodies));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), bodies)
}

/// A server whose spans go there.
fn traced(engine: Engine, endpoint: &str) -> (Router, Arc<OtlpTracer>) {
    let tracer = Arc::new(OtlpTracer::new(Some(endpoint)).unwrap());
    let config = HttpConfig { tracer: Some(Arc::clone(&tracer) as _), ..HttpConfig::default() };
    (router(app_of(engine, config)), tracer)
}

/// Ends the exporter, as the server does when it ends, and reads what it has sent.
async fn exported(tracer: Arc<OtlpTracer>, bodies: &Bodies) -> Vec<ExportTraceServiceRequest> {
    let shutdown = move || tracer.shutdown(Duration::from_secs(20));
    tokio::task::spawn_blocking(shutdown).await.unwrap();
    let bodies = bodies.lock().unwrap();
    bodies.iter().map(|b| ExportTraceServiceRequest::decode(b.clone()).unwrap()).collect()
}

fn spans(exported: &[ExportTraceServiceRequest]) -> Vec<&Span> {
    let resources = exported.iter().flat_map(|e| &e.resource_spans);
    resources.flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).collect()
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, AnyValue> {
    let value = |kv: &KeyValue| kv.value.clone().and_then(|v| v.value).unwrap();
    attributes.iter().map(|kv| (kv.key.as_str(), value(kv))).collect()
}

fn text(value: &AnyValue) -> &str {
    match value {
        AnyValue::StringValue(text) => text,
        other => panic!("{other:?}"),
    }
}

fn int(value: &AnyValue) -> i64 {
    match value {
        AnyValue::IntValue(n) => *n,
        other => panic!("{other:?}"),
    }
}

fn double(value: &AnyValue) -> f64 {
    match value {
        AnyValue::DoubleValue(x) => *x,
        other => panic!("{other:?}"),
    }
}

/// The only finish reason of a span.
fn reason(span: &Span) -> String {
    match &attributes(&span.attributes)["gen_ai.response.finish_reasons"] {
        AnyValue::ArrayValue(all) => {
            assert_eq!(all.values.len(), 1);
            text(all.values[0].value.as_ref().unwrap()).to_owned()
        }
        other => panic!("{other:?}"),
    }
}

const PROMPT: &str = "Wherefore Zounds";

async fn ask(server: &Router, traceparent: Option<&str>) -> Answer {
    let body = json!({"model": "bard", "prompt": PROMPT, "max_tokens": 5, "ignore_eos": true,
        "temperature": 0, "request_id": "mine"});
    let mut request = Request::post("/v1/completions").header(header::AUTHORIZATION, "Bearer key");
    if let Some(parent) = traceparent {
        request = request.header("traceparent", parent);
    }
    send(server, request.body(Body::from(body.to_string())).unwrap()).await
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_a_span_in_the_clients_trace() {
    let (endpoint, bodies) = collector().await;
    let (server, tracer) = traced(bard(), &endpoint);
    let answer = ask(&server, Some(&format!("00-{TRACE}-{PARENT}-01"))).await.ok();
    let exported = exported(tracer, &bodies).await;

    let resource = exported[0].resource_spans[0].resource.as_ref().unwrap();
    let resource = attributes(&resource.attributes);
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        assert_eq!(text(&resource["service.name"]), "infinity");
    }
    let [span] = spans(&exported)[..] else { panic!("{exported:?}") };
    assert_eq!((span.name.as_str(), span.kind), ("llm_request", 2), "a server's");
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), PARENT);
    assert_eq!(span.status.as_ref().map_or(0, |s| s.code), 0);
    assert_eq!(reason(span), "length");

    let found = attributes(&span.attributes);
    for (name, want) in [
        ("gen_ai.operation.name", "text_completion"),
        ("gen_ai.request.model", "bard"),
        ("gen_ai.response.model", "bard"),
        ("gen_ai.request.id", "cmpl-mine"),
    ] {
        assert_eq!(text(&found[name]), want, "{name}");
    }
    let usage = &answer["usage"];
    for (name, want) in [
        ("gen_ai.usage.prompt_tokens", usage["prompt_tokens"].as_i64().unwrap()),
        ("gen_ai.usage.input_tokens", usage["prompt_tokens"].as_i64().unwrap()),
        ("gen_ai.usage.completion_tokens", 5),
        ("gen_ai.usage.output_tokens", 5),
        ("gen_ai.request.max_tokens", 5),
        ("gen_ai.request.n", 1),
    ] {
        assert_eq!(int(&found[name]), want, "{name}");
    }
    assert_eq!(double(&found["gen_ai.request.temperature"]), 0.0);
    let time = |name: &str| double(&found[&*format!("gen_ai.latency.{name}")]);
    let (queue, first, all) = (time("time_in_queue"), time("time_to_first_token"), time("e2e"));
    assert!(0.0 < queue && queue < first && first < all, "{queue} {first} {all}");
    let parts = time("time_in_model_prefill") + time("time_in_model_decode");
    assert!((parts - time("time_in_model_inference")).abs() < 1e-9);
    assert!((queue + parts - all).abs() < 1e-9);
    let lasted = Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
    assert!((lasted.as_secs_f64() - all).abs() < 1e-6, "{lasted:?}");

    // Nothing of what was said, and no key, in any form that a collector would read.
    let sent = String::from_utf8_lossy(&bodies.lock().unwrap().concat()).into_owned();
    let said = answer["choices"][0]["text"].as_str().unwrap().trim();
    assert!(said.len() > 3, "{said:?} would prove nothing");
    for private in ["Wherefore", "Zounds", said, "Bearer"] {
        assert!(!sent.contains(private), "{private} in {sent}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_endpoint_is_traced_and_what_does_not_belong_is_not() {
    let (endpoint, bodies) = collector().await;
    let (server, tracer) = traced(bard(), &endpoint);
    // A trace that the client does not record is not recorded here.
    ask(&server, Some(&format!("00-{TRACE}-{PARENT}-00"))).await.ok();
    // What is no traceparent begins a trace; and so does none at all.
    for header in [Some("00-nonsense"), None] {
        ask(&server, header).await.ok();
    }
    // Each prompt of a request is a request of the engine.
    let two = json!({"model": "bard", "prompt": ["a", "b"], "max_tokens": 1, "stream": true});
    post(&server, "/v1/completions", &two).await.chunks();
    // These have no span: a question, one that is refused, and one that generates nothing.
    get(&server, "/v1/models").await.ok();
    post(&server, "/v1/completions", &json!({"model": "bard"})).await.error(400);
    post(&server, "/v1/embeddings", &json!({"model": "bard", "input": "x"})).await.ok();
    let exported = exported(tracer, &bodies).await;
    let spans = spans(&exported);
    assert_eq!(spans.len(), 4, "{spans:?}");
    assert!(spans.iter().all(|s| s.parent_span_id.is_empty() && hex(&s.trace_id) != TRACE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fails_says_what_kind_of_failure_it_was() {
    let (endpoint, bodies) = collector().await;
    let engine = start(EngineConfig::default());
    let (server, tracer) = traced(engine.clone(), &endpoint);
    let body = json!({"model": "bard", "prompt": PROMPT, "max_tokens": 900, "ignore_eos": true});
    let (failed, ()) = tokio::join!(post(&server, "/v1/completions", &body), async {
        while engine.is_idle() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        engine.panic_for_tests();
    });
    failed.error(500);
    let exported = exported(tracer, &bodies).await;
    let [span] = spans(&exported)[..] else { panic!("{exported:?}") };
    assert_eq!(reason(span), "abort");
    assert_eq!(span.status.as_ref().unwrap().code, 2, "an error");
    assert_eq!(text(&attributes(&span.attributes)["error.type"]), "worker_panicked");
}

/// Nobody listens, or somebody who never answers: requests are as without traces, and the end of the
/// server waits no longer than it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_answer_changes_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let plain = router(app_of(bard(), HttpConfig::default()));
    let want = ask(&plain, None).await.ok();
    for address in [silent.local_addr().unwrap(), gone] {
        let (server, tracer) = traced(bard(), &format!("http://{address}"));
        // More than the queue holds (2048) would take too long; more than one batch does it.
        for _ in 0..20 {
            let got = ask(&server, None).await.ok();
            assert_eq!(got["choices"], want["choices"]);
        }
        let patience = Duration::from_millis(300);
        let began = Instant::now();
        let shutdown = move || tracer.shutdown(patience);
        tokio::task::spawn_blocking(shutdown).await.unwrap();
        assert!(began.elapsed() < 10 * patience, "{:?}", began.elapsed());
    }
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    for wrong in ["", "localhost:4318", "ftp://localhost", "http://", "http://a b"] {
        let refused = OtlpTracer::new(Some(wrong));
        let told = refused.err().unwrap_or_else(|| panic!("'{wrong}' was taken")).to_string();
        assert!(!told.contains('\n'), "{told}");
    }
    assert!(matches!(OtlpTracer::new(Some("x")), Err(OtelError::Endpoint { .. })));
}
