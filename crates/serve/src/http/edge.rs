//! What every request passes: an id, CORS, keys, rates, and what is logged and counted.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use openai_api::{ApiError, is_request_id};

use super::app::App;
use super::failure::{Failure, shutting_down};
use crate::engine::Tenant;
use crate::metrics;

const REQUEST_ID: &str = "x-request-id";

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The id of a request: the client's own if it sent one, or a new one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Who asks, by key; `None` where no key is needed.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) Option<Tenant>);

impl Caller {
    /// The tenant of a request whose field `user` is this.
    pub(crate) fn tenant(&self, user: Option<&str>) -> Tenant {
        match &self.0 {
            Some(tenant) => tenant.clone(),
            None => Tenant(user.unwrap_or_default().into()),
        }
    }
}

/// Around everything: ids, CORS, panics, logs and counts.
pub(crate) async fn around(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let path = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let path = path.unwrap_or_else(|| "other".to_owned());
    let method = request.method().clone();
    let origin = allowed_origin(&app.config.cors_origins, request.headers());
    let preflight = method == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight && origin.is_some() {
        StatusCode::NO_CONTENT.into_response()
    } else {
        match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!(request_id = id, path, "a handler panicked");
                let reason = "it is in the server's logs".to_owned();
                Failure(ApiError::Internal { reason }).into_response()
            }
        }
    };
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        cors(headers, origin, preflight);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    metrics::http_request(&path, standard(&method), status);
    let ms = began.elapsed().as_millis() as u64;
    tracing::info!(request_id = id, %method, path, status, ms, "answered");
    response
}

/// Before what needs a key: the key, the rate, and whether the server still takes requests.
pub(crate) async fn admit(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let tenant = match app.keys.tenant(authorization) {
        Ok(tenant) => tenant.map(str::to_owned),
        Err(error) => return Failure(error).into_response(),
    };
    if request.method() == Method::POST {
        if app.is_draining() {
            return Failure(shutting_down()).into_response();
        }
        let peer = || request.extensions().get::<Peer>().map(|p| p.0.to_string());
        let client = tenant.clone().or_else(peer).unwrap_or_default();
        if let Err(error) = app.limiter.take(&client, Instant::now()) {
            return Failure(error).into_response();
        }
    }
    let caller = Caller(tenant.map(|t| Tenant(t.into())));
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    given.filter(|id| is_request_id(id)).map_or_else(new_id, str::to_owned)
}

/// 128 random bits in hexadecimal.
pub(crate) fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The origin of a request's page, if it is let in.
fn allowed_origin(allowed: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let fits = |a: &String| a == "*" || a.as_bytes() == origin.as_bytes();
    allowed.iter().any(fits).then(|| origin.clone())
}

fn cors(headers: &mut HeaderMap, origin: HeaderValue, preflight: bool) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let fixed = |text| HeaderValue::from_static(text);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, fixed("x-request-id, retry-after"));
    if preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, fixed("GET, POST"));
        let allowed = fixed(
            "authorization, content-type, x-request-id, x-stainless-arch, \
            x-stainless-lang, x-stainless-os, x-stainless-package-version, x-stainless-retry-count, \
            x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout",
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, fixed("3600"));
    }
}

/// The method, if clients did not invent it: it becomes a label.
fn standard(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "OPTIONS" => "OPTIONS",
        "HEAD" => "HEAD",
        _ => "other",
    }
}
