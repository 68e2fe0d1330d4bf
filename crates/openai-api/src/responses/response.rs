//! What `/v1/responses` answers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ResponsesRequest;
use crate::{ResponseFormat, Tool, ToolChoice};

/// A response, complete or in progress.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Response {
    /// `resp_...`.
    pub id: String,
    /// `response`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// When it was complete.
    pub completed_at: Option<u64>,
    /// How far it is.
    pub status: ResponseStatus,
    /// Why it failed.
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As in the request.
    pub instructions: Option<String>,
    /// As in the request.
    pub max_output_tokens: Option<usize>,
    /// As in the request.
    pub model: String,
    /// Messages and calls.
    pub output: Vec<OutputItem>,
    /// As in the request.
    pub parallel_tool_calls: bool,
    /// Always null: nothing is kept.
    pub previous_response_id: Option<String>,
    /// Always false: nothing is kept.
    pub store: bool,
    /// As in the request.
    pub temperature: f64,
    /// As in the request.
    pub text: ResponseText,
    /// As in the request.
    pub tool_choice: ResponseToolChoice,
    /// As in the request.
    pub tools: Vec<ResponseTool>,
    /// As in the request.
    pub top_logprobs: usize,
    /// As in the request.
    pub top_p: f64,
    /// `disabled`.
    pub truncation: &'static str,
    /// Tokens, when complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResponseUsage>,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// As in the request.
    pub metadata: Map<String, Value>,
}

impl Response {
    /// The response to a request before anything is said.
    pub fn begin(request: &ResponsesRequest, id: String, created_at: u64) -> Self {
        let chat = &request.chat;
        Self {
            id,
            object: "response",
            created_at,
            completed_at: None,
            status: ResponseStatus::InProgress,
            error: None,
            incomplete_details: None,
            instructions: request.instructions.clone(),
            max_output_tokens: chat.limit().map(|(_, n)| n),
            model: chat.model.clone(),
            output: Vec::new(),
            parallel_tool_calls: chat.parallel_tool_calls.unwrap_or(true),
            previous_response_id: None,
            store: false,
            temperature: chat.options.temperature.unwrap_or(1.0),
            text: ResponseText {
                format: ResponseFormatFields(
                    chat.options.response_format.clone().unwrap_or(ResponseFormat::Text),
                ),
            },
            tool_choice: ResponseToolChoice(chat.tool_choice.clone().unwrap_or_default()),
            tools: chat.tools.iter().cloned().map(ResponseTool).collect(),
            top_logprobs: chat.top_logprobs.unwrap_or(0),
            top_p: chat.options.top_p.unwrap_or(1.0),
            truncation: "disabled",
            usage: None,
            user: chat.options.user.clone(),
            metadata: request.metadata.clone().unwrap_or_default(),
        }
    }
}

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ResponseStatus {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

/// Why a response failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseError {
    /// `server_error`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncompleteDetails {
    /// `max_output_tokens`.
    pub reason: String,
}

/// What the text is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResponseText {
    /// Its format.
    pub format: ResponseFormatFields,
}

/// A format as this endpoint writes it: a schema's fields beside the type.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseFormatFields(pub ResponseFormat);

impl Serialize for ResponseFormatFields {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            #[serde(flatten)]
            schema: &'a crate::NamedSchema,
        }
        match &self.0 {
            ResponseFormat::JsonSchema { json_schema } => {
                Flat { kind: "json_schema", schema: json_schema }.serialize(serializer)
            }
            other => other.serialize(serializer),
        }
    }
}

/// A tool as this endpoint writes it: the function's fields beside the type.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseTool(pub Tool);

impl Serialize for ResponseTool {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            name: &'a str,
            description: Option<&'a str>,
            parameters: Option<&'a Map<String, Value>>,
            strict: Option<bool>,
        }
        let Tool { name, description, parameters, strict } = &self.0;
        let description = description.as_deref();
        Flat {
            kind: "function",
            name,
            description,
            parameters: parameters.as_ref(),
            strict: *strict,
        }
        .serialize(serializer)
    }
}

/// A choice as this endpoint writes it: the function's name beside the type.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseToolChoice(pub ToolChoice);

impl Serialize for ResponseToolChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            ToolChoice::Function(name) => {
                serde_json::json!({"type": "function", "name": name}).serialize(serializer)
            }
            other => other.serialize(serializer),
        }
    }
}

/// A message or a call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What the model says.
    Message {
        /// `msg_...`.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// `assistant`.
        role: &'static str,
        /// One text, or none yet.
        content: Vec<OutputText>,
    },
    /// What it calls.
    FunctionCall {
        /// `fc_...`.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// By which the result is sent back.
        call_id: String,
        /// The function.
        name: String,
        /// JSON as a string.
        arguments: String,
    },
}

impl OutputItem {
    /// A message with these texts.
    pub fn message(id: String, status: ItemStatus, content: Vec<OutputText>) -> Self {
        Self::Message { id, status, role: "assistant", content }
    }
}

/// How far an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ItemStatus {
    InProgress,
    Completed,
    Incomplete,
}

/// A text of a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(tag = "type", rename = "output_text")]
pub struct OutputText {
    /// The text.
    pub text: String,
    /// Always empty.
    pub annotations: Vec<Value>,
    /// Of its tokens, where asked for.
    pub logprobs: Vec<OutputLogprob>,
}

/// A token's log-probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputLogprob {
    /// Its text.
    pub token: String,
    /// ln p.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most probable tokens instead of it.
    pub top_logprobs: Vec<OutputTopLogprob>,
}

/// Another token's log-probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputTopLogprob {
    /// Its text.
    pub token: String,
    /// ln p.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Tokens of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ResponseUsage {
    /// Of the prompt.
    pub input_tokens: usize,
    /// What is known of them.
    pub input_tokens_details: InputTokensDetails,
    /// Of the answer.
    pub output_tokens: usize,
    /// What is known of them.
    pub output_tokens_details: OutputTokensDetails,
    /// Of both.
    pub total_tokens: usize,
}

/// What is known of the prompt's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InputTokensDetails {
    /// Found in the prefix cache.
    pub cached_tokens: usize,
    /// Always 0: what is cached is not accounted for.
    pub cache_write_tokens: usize,
}

/// What is known of the answer's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OutputTokensDetails {
    /// Always 0: thoughts are not told apart.
    pub reasoning_tokens: usize,
}

impl From<crate::Usage> for ResponseUsage {
    fn from(usage: crate::Usage) -> Self {
        let cached_tokens = usage.prompt_tokens_details.map_or(0, |d| d.cached_tokens);
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails { cached_tokens, cache_write_tokens: 0 },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
            total_tokens: usage.total_tokens,
        }
    }
}
