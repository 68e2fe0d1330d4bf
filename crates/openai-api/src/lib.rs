//! The OpenAI API's requests, responses, errors and event streams as types.
//!
//! For servers: a request is read by its `parse`, which takes the bytes of a body and refuses, with
//! the parameter's name, whatever is not honoured: fields that are unknown, of another type, out of
//! range, contradictory, or that ask for what such a server does not do. Fields whose value asks for
//! nothing are accepted, `null` among them. For clients: requests can be written, responses and
//! chunks read, and [`sse::SseReader`] takes a stream apart.
//!
//! - [`CompletionRequest`] to [`Completion`] (whole, and as chunks),
//! - [`ChatRequest`] to [`ChatCompletion`] and [`ChatChunk`],
//! - [`ResponsesRequest`] to [`Response`] and [`ResponseEvent`],
//! - [`EmbeddingRequest`] to [`EmbeddingList`],
//! - [`TokenizeRequest`], [`DetokenizeRequest`], [`ModelList`],
//! - [`ApiError`] to [`ErrorResponse`].
//!
//! What both generation endpoints share is [`GenerationOptions`], with vLLM's extras. There is no
//! HTTP here, and no model: whether a token is in a vocabulary or a grammar compiles is for the
//! server to say.
//!
//! Sources: the published OpenAPI description of OpenAI's API, against which the tests check
//! responses and chunks, and vLLM's documentation for what OpenAI does not have.
//!
//! ```
//! use openai_api::{ChatRequest, JsonLimits, Message, Role};
//! let request = ChatRequest {
//!     model: "bard".to_owned(),
//!     messages: vec![Message::new(Role::User, "To be?")],
//!     max_tokens: Some(8),
//!     ..Default::default()
//! };
//! let body = serde_json::to_vec(&request).unwrap();
//! assert_eq!(ChatRequest::parse(&body, JsonLimits::default())?, request);
//! # Ok::<(), openai_api::ApiError>(())
//! ```
#![forbid(unsafe_code)]

mod chat;
mod chat_response;
mod completions;
mod embeddings;
mod error;
mod fields;
mod finish;
mod generation;
mod json;
mod message;
mod models;
mod responses;
pub mod sse;
mod structure;
mod tokenize;
mod tools;
mod usage;

pub use chat::{ChatPromptOptions, ChatRequest, ReasoningEffort};
pub use chat_response::{
    AnswerMessage, ChatChoice, ChatChunk, ChatCompletion, ChatLogprob, ChatLogprobs, ChunkChoice,
    Delta, FunctionDelta, ToolCallDelta, TopLogprob,
};
pub use completions::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, DEFAULT_MAX_TOKENS,
    PromptInput, StopReason,
};
pub use embeddings::{
    Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage, EncodingFormat, MAX_INPUTS, Vector,
};
pub use error::{ApiError, ErrorObject, ErrorResponse};
pub use finish::{FinishReason, PromptLogprob};
pub use generation::{
    GenerationOptions, MAX_LOGPROBS, MAX_N, MAX_STOP, StreamOptions, is_request_id,
};
pub use json::JsonLimits;
pub use message::{Content, FunctionCall, Message, Role, TextPart, ToolCall};
pub use models::{ModelCard, ModelList};
pub use responses::{
    IncompleteDetails, InputTokensDetails, ItemStatus, OutputItem, OutputLogprob, OutputText,
    OutputTokensDetails, OutputTopLogprob, Response, ResponseError, ResponseEvent,
    ResponseFormatFields, ResponseStatus, ResponseText, ResponseTool, ResponseToolChoice,
    ResponseUsage, ResponsesRequest,
};
pub use structure::{NamedSchema, ResponseFormat, Structure, StructuredOutputs};
pub use tokenize::{DetokenizeRequest, Detokenized, TokenizeInput, TokenizeRequest, Tokenized};
pub use tools::{Tool, ToolChoice};
pub use usage::{PromptTokensDetails, Usage};
