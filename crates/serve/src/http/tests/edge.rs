use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::routing::get as route_get;
use futures_util::StreamExt as _;
use openai_api::ErrorResponse;
use openai_api::sse::SseReader;
use serde_json::json;
use tower::ServiceExt as _;

use super::{Answer, app_of, bard, get, post, send, server, start};
use crate::engine::{EngineConfig, RequestObserver};
use crate::http::edge::around;
use crate::http::router::router;
use crate::http::{ApiKey, HttpConfig, Rate, SpanHead, Tracer, serve};

async fn keyed(router: &Router, path: &str, key: Option<&str>) -> Answer {
    let mut request = Request::get(path);
    if let Some(key) = key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    send(router, request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn keys_open_the_api_and_nothing_else_needs_one() {
    let key = ApiKey { tenant: "ann".into(), key: "secret".into() };
    let server = server(HttpConfig { api_keys: vec![key], ..HttpConfig::default() });
    for path in ["/v1/models", "/v1/models/bard", "/live"] {
        let refused = keyed(&server, path, None).await;
        assert_eq!(refused.error(401)["code"], "invalid_api_key");
        keyed(&server, path, Some("other")).await.error(401);
    }
    keyed(&server, "/v1/models", Some("secret")).await.ok();
    post(&server, "/v1/completions", &json!({"model": "bard"})).await.error(401);
    for path in ["/health", "/readyz", "/metrics", "/", "/page/app.js"] {
        assert_eq!(get(&server, path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn who_asks_too_often_waits() {
    let rate = Some(Rate { per_second: 0.5, burst: 2.0 });
    let server = server(HttpConfig { rate, ..HttpConfig::default() });
    let body = json!({"model": "bard", "prompt": "x", "max_tokens": 1});
    for _ in 0..2 {
        post(&server, "/v1/completions", &body).await.ok();
    }
    let refused = post(&server, "/v1/completions", &body).await;
    assert_eq!(refused.error(429)["type"], "rate_limit_error");
    assert_eq!(refused.headers[header::RETRY_AFTER], "2");
    get(&server, "/v1/models").await.ok();
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_by_name() {
    let ask = |origin: &'static str, method: Method| {
        let request = Request::builder().method(&method).uri("/v1/models").header("origin", origin);
        let request = match method == Method::OPTIONS {
            true => request.header("access-control-request-method", "POST"),
            false => request,
        };
        request.body(Body::empty()).unwrap()
    };
    let closed = server(HttpConfig::default());
    let answer = send(&closed, ask("https://a.example", Method::GET)).await;
    assert!(answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    send(&closed, ask("https://a.example", Method::OPTIONS)).await.error(405);

    let cors_origins = vec!["https://a.example".to_owned()];
    let open = server(HttpConfig { cors_origins, ..HttpConfig::default() });
    let answer = send(&open, ask("https://a.example", Method::GET)).await;
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
    let preflight = send(&open, ask("https://a.example", Method::OPTIONS)).await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
    assert!(preflight.headers.contains_key(header::ACCESS_CONTROL_ALLOW_HEADERS));
    let other = send(&open, ask("https://b.example", Method::GET)).await;
    assert!(other.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
}

#[tokio::test]
async fn ids_are_returned_and_panics_are_answers() {
    let server = server(HttpConfig::default());
    let with_id = |id: &str| Request::get("/health").header("x-request-id", id).body(Body::empty());
    let answer = send(&server, with_id("my-id.1").unwrap()).await;
    assert_eq!(answer.headers["x-request-id"], "my-id.1");
    let answer = send(&server, with_id("not an id").unwrap()).await;
    assert_eq!(answer.headers["x-request-id"].len(), 32);
    let body = json!({"model": "bard", "prompt": "x", "max_tokens": 1, "request_id": "mine"});
    let twice = [post(&server, "/v1/completions", &body), post(&server, "/v1/completions", &body)];
    for answer in futures_util::future::join_all(twice).await {
        assert_eq!(answer.ok()["id"], "cmpl-mine");
    }

    let app = app_of(bard(), HttpConfig::default());
    let panics = || async {
        if true {
            panic!("of the test")
        }
    };
    let router: Router =
        Router::new().route("/", route_get(panics)).layer(from_fn_with_state(app, around));
    let answer = get(&router, "/").await;
    assert_eq!(answer.error(500)["type"], "server_error");
    assert!(!String::from_utf8_lossy(&answer.body).contains("of the test"));
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let server = server(HttpConfig::default());
    let body = json!({"model": "bard", "prompt": "x", "max_tokens": 3, "user": "ann"});
    post(&server, "/v1/completions", &body).await.ok();
    let answer = get(&server, "/metrics").await;
    let text = String::from_utf8(answer.body).unwrap();
    let counted =
        r#"infinity:http_requests_total{endpoint="/v1/completions",method="POST",status="200"}"#;
    assert!(text.contains(counted), "{text}");
}

#[tokio::test]
async fn the_live_view_streams_snapshots() {
    let server = server(HttpConfig::default());
    post(&server, "/v1/completions", &json!({"model": "bard", "prompt": "x", "max_tokens": 1}))
        .await
        .ok();
    let request = Request::get("/live").body(Body::empty()).unwrap();
    let response = server.oneshot(request).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    let first = body.next().await.unwrap().unwrap();
    let text = std::str::from_utf8(&first).unwrap();
    assert!(text.starts_with("data: {\"model\":\"bard\""), "{text}");
}

#[tokio::test]
async fn draining_refuses_requests_and_lets_the_others_end() {
    let app = app_of(start(EngineConfig::default()), HttpConfig::default());
    let server = router(Arc::clone(&app));
    let body = json!({"model": "bard", "prompt": "x", "max_tokens": 40, "ignore_eos": true,
        "stream": true});
    let request = Request::post("/v1/completions").body(Body::from(body.to_string())).unwrap();
    let running = server.clone().oneshot(request).await.unwrap();
    get(&server, "/readyz").await.ok();
    app.set_draining();
    let drained = tokio::spawn({
        let models = Arc::clone(&app.models);
        async move { models.drain(Duration::from_secs(30)).await }
    });
    get(&server, "/readyz").await.error(503);
    let refused = post(&server, "/v1/completions", &body).await;
    refused.error(503);
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    get(&server, "/health").await.ok();
    let text = axum::body::to_bytes(running.into_body(), usize::MAX).await.unwrap();
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    assert!(drained.await.unwrap());
}

/// Remembers that it was told of the end.
#[derive(Debug, Default)]
struct Told(AtomicBool);

impl Tracer for Told {
    fn begin(&self, _: &SpanHead<'_>) -> Arc<dyn RequestObserver> {
        unreachable!("nobody asks")
    }

    fn shutdown(&self, patience: Duration) {
        assert!(patience < Duration::from_secs(30), "an end has a bound");
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn spans_are_delivered_when_the_server_ends() {
    let told = Arc::new(Told::default());
    let models = Arc::clone(&app_of(bard(), HttpConfig::default()).models);
    let tracer: Option<Arc<dyn Tracer>> = Some(Arc::clone(&told) as _);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = HttpConfig { address, tracer, ..HttpConfig::default() };
    serve(config, models, |_| {}, std::future::ready(())).await.unwrap();
    assert!(told.0.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_client_that_goes_away_cancels() {
    let engine = start(EngineConfig::default());
    let server = router(app_of(engine.clone(), HttpConfig::default()));
    let body = json!({"model": "bard", "prompt": "x", "max_tokens": 200, "ignore_eos": true,
        "stream": true});
    let request = Request::post("/v1/completions").body(Body::from(body.to_string())).unwrap();
    let response = server.oneshot(request).await.unwrap();
    assert_ne!(engine.counts(), (0, 0));
    drop(response);
    let gone = async {
        while engine.counts() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), gone).await.unwrap();
}

#[tokio::test]
async fn a_failure_within_a_stream_is_an_error_event() {
    let engine = start(EngineConfig::default());
    let server = router(app_of(engine.clone(), HttpConfig::default()));
    let body = json!({"model": "bard", "prompt": "x", "max_tokens": 200, "ignore_eos": true,
        "stream": true});
    let request = Request::post("/v1/completions").body(Body::from(body.to_string())).unwrap();
    let response = server.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    engine.panic_for_tests();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let events = SseReader::new().push(&bytes).unwrap();
    let last = events.last().unwrap();
    assert_eq!(last.event.as_deref(), Some("error"));
    let error: ErrorResponse = serde_json::from_str(&last.data).unwrap();
    assert_eq!(error.error.kind, "server_error");
    // The engine is back.
    let after = json!({"model": "bard", "prompt": "x", "max_tokens": 2});
    post(&server, "/v1/completions", &after).await.ok();
    get(&server, "/health").await.ok();
}
