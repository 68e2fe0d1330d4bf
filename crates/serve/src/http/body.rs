//! Reading a body within its limits.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;
use openai_api::ApiError;

use super::config::HttpConfig;

/// The body of a request that claims to be JSON.
pub(crate) async fn read(request: Request, config: &HttpConfig) -> Result<Bytes, ApiError> {
    let (head, body) = request.into_parts();
    check_type(&head.headers)?;
    let limit = config.max_body;
    let announced = head.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limit as u64) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    match tokio::time::timeout(config.body_timeout, gather(body, limit)).await {
        Ok(body) => body,
        Err(_) => Err(ApiError::Timeout { limit: config.body_timeout }),
    }
}

async fn gather(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut gathered: Vec<u8> = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ApiError::MalformedJson {
            reason: "the connection ended before the body".to_owned(),
        })?;
        let len = gathered.len() + chunk.len();
        if len > limit {
            return Err(ApiError::BodyTooLarge { limit });
        }
        // No more than the limit, where a vector's own growth might take twice as much.
        if len > gathered.capacity() {
            let capacity = (2 * gathered.capacity()).clamp(len, limit);
            gathered.reserve_exact(capacity - gathered.len());
        }
        gathered.extend_from_slice(&chunk);
    }
    Ok(gathered.into())
}

/// A body without a type is taken for JSON.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    let got = String::from_utf8_lossy(essence).chars().take(64).collect();
    Err(ApiError::UnsupportedMediaType { got })
}
