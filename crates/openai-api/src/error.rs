//! Errors as the API words them: a status, a message, a type, the parameter at fault and a code.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a request is refused or failed.
///
/// [`ApiError::status`] and [`ApiError::body`] are what goes over the wire. Nothing that a client
/// sent is repeated at more than 64 characters.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ApiError {
    /// The body is not JSON (lone surrogates and numbers beyond the range of `f64` included).
    #[error("We could not parse the JSON body of your request: {reason}")]
    MalformedJson { reason: String },
    /// The body is nested deeper than the limit.
    #[error("The JSON body is nested deeper than {limit} levels.")]
    JsonTooDeep { limit: usize },
    /// The body has more values than the limit.
    #[error("The JSON body has more than {limit} values.")]
    JsonTooLarge { limit: usize },
    /// A required parameter is absent.
    #[error("Missing required parameter: '{param}'.")]
    Missing { param: String },
    /// A value of another JSON type.
    #[error("Invalid type for '{param}': expected {expected}, but got {got} instead.")]
    WrongType { param: String, expected: &'static str, got: &'static str },
    /// An integer outside its range.
    #[error(
        "Invalid '{param}': expected an integer from {minimum} to {maximum}, but got {got} instead."
    )]
    IntegerOutOfRange { param: String, minimum: i64, maximum: i64, got: String },
    /// A number outside its range.
    #[error(
        "Invalid '{param}': expected a number from {minimum} to {maximum}, but got {got} instead."
    )]
    NumberOutOfRange { param: String, minimum: f64, maximum: f64, got: f64 },
    /// A string or an array of a length that is not allowed.
    #[error("Invalid '{param}': expected {minimum} to {maximum} {unit}, but got {got} instead.")]
    LengthOutOfRange {
        param: String,
        minimum: usize,
        maximum: usize,
        unit: &'static str,
        got: usize,
    },
    /// A value that is none of those allowed.
    #[error("Invalid value for '{param}': expected {expected}, but got '{got}' instead.")]
    InvalidValue { param: String, expected: &'static str, got: String },
    /// A parameter that the API does not have.
    #[error("Unknown parameter: '{param}'.")]
    UnknownParameter { param: String },
    /// A parameter that the API has and this server does not honour.
    #[error("Unsupported parameter: '{param}': {reason}.")]
    Unsupported { param: String, reason: &'static str },
    /// Two parameters that exclude each other.
    #[error("Invalid '{param}': it cannot be used together with '{other}'.")]
    Conflict { param: String, other: &'static str },
    /// A parameter that makes sense with another one alone.
    #[error("Invalid '{param}': it is only allowed with {needs}.")]
    Requires { param: String, needs: &'static str },
    /// A parameter that must not be greater than another one.
    #[error("Invalid '{param}': {got} is more than '{other}', which is {limit}.")]
    Exceeds { param: &'static str, got: usize, other: &'static str, limit: usize },
    /// Prompt and answer do not fit.
    #[error(
        "This model's maximum context length is {limit} tokens. However, you requested {} tokens ({prompt} in the {param}, {completion} in the completion). Please reduce the length of the {param} or completion.",
        prompt.saturating_add(*completion)
    )]
    ContextLength { param: &'static str, limit: usize, prompt: usize, completion: usize },
    /// A text so long that its tokens need not be counted.
    #[error(
        "This model's maximum context length is {limit} tokens. The {param} of {bytes} bytes is longer. Please reduce its length."
    )]
    TextTooLong { param: &'static str, limit: usize, bytes: usize },
    /// A value that only the model, its vocabulary or its template shows to be wrong.
    #[error("Invalid '{param}': {reason}.")]
    Rejected { param: String, reason: String },
    /// No API key, or one that is not known.
    #[error(
        "Incorrect API key provided. Send one of the server's keys as 'Authorization: Bearer KEY'."
    )]
    Unauthorized,
    /// No such model.
    #[error("The model '{model}' does not exist.")]
    ModelNotFound { model: String },
    /// The model cannot do what the endpoint is for.
    #[error("The model '{model}' does not support {what}.")]
    NotSupportedByModel { model: String, what: &'static str },
    /// The model has no chat template, and the server was given none.
    #[error(
        "The model '{model}' has no chat template: use /v1/completions, or give the server one."
    )]
    NoChatTemplate { model: String },
    /// No such endpoint.
    #[error("Invalid URL ({method} {path}).")]
    NotFound { method: String, path: String },
    /// The endpoint has other methods.
    #[error("Not allowed to {method} on {path}.")]
    MethodNotAllowed { method: String, path: String },
    /// The request, or its answer, took too long.
    #[error("The request took longer than {} s.", limit.as_secs())]
    Timeout { limit: Duration },
    /// The body is larger than the limit.
    #[error("The body is larger than {limit} bytes.")]
    BodyTooLarge { limit: usize },
    /// The body is not declared to be JSON.
    #[error("Unsupported media type '{got}': send 'application/json'.")]
    UnsupportedMediaType { got: String },
    /// The client sends more than its share.
    #[error("Rate limit reached. Please try again in {} s.", retry_after.as_secs().max(1))]
    RateLimited { retry_after: Duration },
    /// The queue is full.
    #[error("The server is overloaded: {waiting} requests are waiting. Please try again in {} s.", retry_after.as_secs().max(1))]
    Overloaded { waiting: usize, retry_after: Duration },
    /// The server is starting or shutting down.
    #[error("The server is {state}.")]
    Unavailable { state: &'static str, retry_after: Duration },
    /// The server failed; details are in its logs alone.
    #[error("The server had an error while processing your request: {reason}.")]
    Internal { reason: String },
}

impl ApiError {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::ModelNotFound { .. } | Self::NotFound { .. } => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::Timeout { .. } => 408,
            Self::BodyTooLarge { .. } => 413,
            Self::UnsupportedMediaType { .. } => 415,
            // 503 is for a server that has gone or goes: a proxy asks another one then, and sends the
            // next requests there too. A full queue must not look like that.
            Self::RateLimited { .. } | Self::Overloaded { .. } => 429,
            Self::Unavailable { .. } => 503,
            Self::Internal { .. } => 500,
            _ => 400,
        }
    }

    /// When to try again, where that helps: the header `Retry-After`.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after }
            | Self::Overloaded { retry_after, .. }
            | Self::Unavailable { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// The parameter at fault.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Missing { param }
            | Self::WrongType { param, .. }
            | Self::IntegerOutOfRange { param, .. }
            | Self::NumberOutOfRange { param, .. }
            | Self::LengthOutOfRange { param, .. }
            | Self::InvalidValue { param, .. }
            | Self::UnknownParameter { param }
            | Self::Unsupported { param, .. }
            | Self::Conflict { param, .. }
            | Self::Requires { param, .. }
            | Self::Rejected { param, .. } => Some(param),
            Self::Exceeds { param, .. }
            | Self::ContextLength { param, .. }
            | Self::TextTooLong { param, .. } => Some(param),
            Self::ModelNotFound { .. }
            | Self::NotSupportedByModel { .. }
            | Self::NoChatTemplate { .. } => Some("model"),
            _ => None,
        }
    }

    /// The code, where the API has one.
    pub fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::Missing { .. } => "missing_required_parameter",
            Self::WrongType { .. } => "invalid_type",
            Self::UnknownParameter { .. } => "unknown_parameter",
            Self::Unsupported { .. } => "unsupported_parameter",
            Self::ContextLength { .. } | Self::TextTooLong { .. } => "context_length_exceeded",
            Self::Unauthorized => "invalid_api_key",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::NoChatTemplate { .. } => "no_chat_template",
            Self::NotFound { .. } => "unknown_url",
            Self::MethodNotAllowed { .. } => "method_not_supported",
            Self::RateLimited { .. } => "rate_limit_exceeded",
            Self::Overloaded { .. } => "overloaded",
            Self::Unavailable { .. } => "unavailable",
            Self::Timeout { .. } => "timeout",
            Self::BodyTooLarge { .. } => "request_too_large",
            Self::UnsupportedMediaType { .. } => "unsupported_media_type",
            Self::MalformedJson { .. } | Self::JsonTooDeep { .. } | Self::JsonTooLarge { .. } => {
                return None;
            }
            Self::Internal { .. } => return None,
            _ => "invalid_value",
        })
    }

    /// The type: what kind of mistake it is.
    pub fn kind(&self) -> &'static str {
        match self.status() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// What the client reads.
    pub fn body(&self) -> ErrorResponse {
        ErrorResponse {
            error: ErrorObject {
                message: self.to_string(),
                kind: self.kind().to_owned(),
                param: self.param().map(str::to_owned),
                code: self.code().map(str::to_owned),
            },
        }
    }
}

/// The body of an error: `{"error": {...}}`, also the data of an `error` event within a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// The error.
    pub error: ErrorObject,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// `invalid_request_error`, `server_error`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The parameter at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// For programs.
    #[serde(default)]
    pub code: Option<String>,
}

/// A client's text, cut to what an error message repeats.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
