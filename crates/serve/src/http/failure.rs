//! Errors as answers.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use constrain::ConstrainError;
use openai_api::ApiError;
use sampling::SamplingError;

use crate::engine::{EmbedError, GenerationError, SubmitError};
use crate::models::ModelsError;

/// How soon to come back when nobody knows.
pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(1);

/// An error that is an answer.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = self.0;
        let status = StatusCode::from_u16(error.status()).expect("statuses are from 400 to 503");
        let mut response = (status, Json(error.body())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = error.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        match error {
            ApiError::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What is left of the body is not waited for.
            ApiError::Timeout { .. } | ApiError::BodyTooLarge { .. } => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// Whole seconds, rounded up: the header has no others.
fn seconds(wait: std::time::Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Why a request is not taken. `param` is where its prompt is.
pub(crate) fn not_taken(error: SubmitError, param: &'static str, model: &str) -> ApiError {
    let rejected = |param: &str, reason: String| ApiError::Rejected { param: param.into(), reason };
    match error {
        SubmitError::ContextLength { prompt, completion, limit } => {
            ApiError::ContextLength { param, limit, prompt, completion }
        }
        SubmitError::TooManySequences { .. } => rejected("n", error.to_string()),
        SubmitError::Sampling(SamplingError::InvalidParameter { name, .. }) => {
            rejected(name, error.to_string())
        }
        SubmitError::Sampling(_) => rejected("logit_bias", error.to_string()),
        SubmitError::QueueFull { waiting, retry_after } => {
            ApiError::Overloaded { waiting, retry_after }
        }
        SubmitError::Draining => shutting_down(),
        SubmitError::Stopped => ApiError::Internal { reason: error.to_string() },
        SubmitError::NotGenerative => {
            ApiError::NotSupportedByModel { model: model.to_owned(), what: "generation" }
        }
        other => rejected(param, other.to_string()),
    }
}

/// Why a request that was taken failed.
pub(crate) fn failed(error: &GenerationError) -> ApiError {
    match error {
        GenerationError::QueueTimeout { retry_after, .. } => {
            ApiError::Overloaded { waiting: 1, retry_after: *retry_after }
        }
        GenerationError::Constraint(reason) => {
            ApiError::Rejected { param: "structured_outputs".to_owned(), reason: reason.clone() }
        }
        GenerationError::ShutDown => shutting_down(),
        other => ApiError::Internal { reason: other.to_string() },
    }
}

/// Why texts are not embedded.
pub(crate) fn not_embedded(error: &EmbedError) -> ApiError {
    let input = |reason| ApiError::Rejected { param: "input".to_owned(), reason };
    match error {
        EmbedError::Length { tokens: 0, .. } => input("it has no tokens".to_owned()),
        &EmbedError::Length { tokens, limit } => {
            ApiError::ContextLength { param: "input", limit, prompt: tokens, completion: 0 }
        }
        EmbedError::TokenOutOfRange { .. } => input(error.to_string()),
        other => ApiError::Internal { reason: other.to_string() },
    }
}

/// Why a model is not to be had.
pub(crate) fn no_model(error: ModelsError) -> ApiError {
    match error {
        ModelsError::Unknown { name } => {
            let model: String = name.chars().take(64).collect();
            ApiError::ModelNotFound { model }
        }
        ModelsError::Busy { .. } => {
            ApiError::Unavailable { state: "busy with other models", retry_after: 10 * SOON }
        }
        other => ApiError::Internal { reason: other.to_string() },
    }
}

/// Why a constraint is not compiled.
pub(crate) fn not_compiled(error: &ConstrainError, param: &str) -> ApiError {
    match error {
        ConstrainError::Internal { .. } | ConstrainError::Vocabulary { .. } => {
            ApiError::Internal { reason: error.to_string() }
        }
        _ => ApiError::Rejected { param: param.to_owned(), reason: error.to_string() },
    }
}

pub(crate) fn shutting_down() -> ApiError {
    ApiError::Unavailable { state: "shutting down", retry_after: SOON }
}
