//! Whether the server is well, and what it is doing: for probes, Prometheus and the page.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use futures_util::stream;
use openai_api::{ApiError, sse};
use serde_json::json;

use super::app::App;
use super::failure::{Failure, SOON, shutting_down};
use super::stream::event_stream;
use crate::metrics;
use crate::page::{Asset, CONTENT_SECURITY_POLICY, asset};

/// 200 if every engine that is loaded gets round to answering: it steps.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let engines = app.models.loaded();
    let patience = app.config.health_patience;
    let alive = join_all(engines.iter().map(|engine| engine.alive(patience))).await;
    match alive.iter().all(|&alive| alive) {
        true => Json(json!({"status": "ok", "models": alive.len()})).into_response(),
        false => {
            let state = "not well: an engine does not step";
            Failure(ApiError::Unavailable { state, retry_after: 5 * SOON }).into_response()
        }
    }
}

/// 200 if requests are taken: not while models are loaded at the start, nor while shutting down.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.is_draining() {
        return Failure(shutting_down()).into_response();
    }
    match app.is_ready() {
        true => Json(json!({"status": "ready"})).into_response(),
        false => {
            let error = ApiError::Unavailable { state: "loading", retry_after: 5 * SOON };
            Failure(error).into_response()
        }
    }
}

/// Prometheus' text.
pub(crate) async fn prometheus() -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], metrics::render()).into_response()
}

/// How often the live view is told of each engine.
const LIVE_PERIOD: Duration = Duration::from_millis(250);

/// A snapshot of each engine, four times a second, while somebody watches.
pub(crate) async fn live(State(app): State<Arc<App>>) -> Response {
    let events = stream::unfold((app, true), |(app, first)| async move {
        if !first {
            tokio::time::sleep(LIVE_PERIOD).await;
        }
        if app.is_draining() {
            return None;
        }
        let engines = app.models.loaded();
        let snapshots = join_all(engines.iter().map(|engine| engine.snapshot())).await;
        let mut out: Vec<u8> = snapshots.iter().flatten().flat_map(sse::frame).collect();
        if out.is_empty() {
            out.extend_from_slice(sse::KEEP_ALIVE);
        }
        Some((Bytes::from(out), (app, false)))
    });
    event_stream(events)
}

/// The page.
pub(crate) async fn page() -> Response {
    file("")
}

/// What the page is made of.
pub(crate) async fn page_file(name: Result<Path<String>, PathRejection>) -> Response {
    let name = name.map(|Path(name)| name).unwrap_or_default();
    file(&format!("page/{name}"))
}

fn file(path: &str) -> Response {
    let Some(Asset { content_type, body, .. }) = asset(path) else {
        let (method, path) = ("GET".to_owned(), format!("/{path}").chars().take(64).collect());
        return Failure(ApiError::NotFound { method, path }).into_response();
    };
    let fixed = |text| HeaderValue::from_static(text);
    let headers = [
        (header::CONTENT_TYPE, fixed(content_type)),
        (header::CONTENT_SECURITY_POLICY, fixed(CONTENT_SECURITY_POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff")),
        (header::REFERRER_POLICY, fixed("no-referrer")),
        (header::CACHE_CONTROL, fixed("no-cache")),
    ];
    (StatusCode::OK, headers, *body).into_response()
}
