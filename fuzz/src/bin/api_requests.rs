//! Reads bytes as the body of each request of the API. What is taken can be written and is then read
//! as the same request; what is refused is refused in the API's form.
#![cfg_attr(fuzzing, no_main)]

use std::fmt::Debug;

use openai_api::{
    ApiError, ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, JsonLimits,
    ResponsesRequest, TokenizeRequest,
};
use serde::Serialize;

fuzz::target!(run);

/// The least that still reaches far.
const LIMITS: JsonLimits = JsonLimits { depth: 16, values: 1024 };

fn run(bytes: &[u8]) {
    written(CompletionRequest::parse, bytes);
    written(ChatRequest::parse, bytes);
    written(EmbeddingRequest::parse, bytes);
    let _ = refused(ResponsesRequest::parse(bytes, LIMITS));
    let _ = refused(TokenizeRequest::parse(bytes, LIMITS));
    let _ = refused(DetokenizeRequest::parse(bytes, LIMITS));
}

/// Reads a request, writes it, and reads it again.
fn written<T: Serialize + PartialEq + Debug>(
    parse: fn(&[u8], JsonLimits) -> Result<T, ApiError>,
    bytes: &[u8],
) {
    let Some(request) = refused(parse(bytes, LIMITS)) else { return };
    let body = serde_json::to_vec(&request).expect("a request can be written");
    // What was left out may be written as a null.
    let again = parse(&body, JsonLimits::default()).expect("our own request");
    assert_eq!(again, request);
}

fn refused<T>(result: Result<T, ApiError>) -> Option<T> {
    match result {
        Ok(request) => Some(request),
        Err(error) => {
            assert!((400..500).contains(&error.status()), "{error}");
            let body = error.body();
            let message = &body.error.message;
            assert!(!message.is_empty() && message.len() < 10_000, "{message}");
            serde_json::to_vec(&body).expect("an error can be written");
            None
        }
    }
}
