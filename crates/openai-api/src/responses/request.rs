//! A request, which is a chat in other words.

use serde_json::{Map, Value};

use crate::chat::neutral_service;
use crate::error::quoted;
use crate::fields::{
    Fields, array, at_least, boolean, count, number, object, string, text, word, wrong_type,
};
use crate::generation::{MAX_LOGPROBS, neutral_obfuscation};
use crate::message::{Content, Message, Role, TextPart, ToolCall};
use crate::structure::{format, named_schema};
use crate::tools::function_type;
use crate::{
    ApiError, ChatRequest, GenerationOptions, JsonLimits, ReasoningEffort, ResponseFormat, Tool,
    ToolChoice,
};

/// A request of `/v1/responses`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponsesRequest {
    /// The same request as `/v1/chat/completions` would have it.
    pub chat: ChatRequest,
    /// What was put in front of the conversation as a system message; the answer repeats it.
    pub instructions: Option<String>,
    /// The answer repeats it.
    pub metadata: Option<Map<String, Value>>,
}

impl ResponsesRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// As [`crate::CompletionRequest::parse`].
    ///
    /// ```
    /// use openai_api::{JsonLimits, ResponsesRequest};
    /// let body = br#"{"model": "m", "instructions": "Be brief.", "input": "Hi"}"#;
    /// let request = ResponsesRequest::parse(body, JsonLimits::default())?;
    /// assert_eq!(request.chat.messages.len(), 2);
    /// # Ok::<(), openai_api::ApiError>(())
    /// ```
    pub fn parse(body: &[u8], limits: JsonLimits) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body, limits)?;
        let model = fields.require("model", text)?;
        let instructions = fields.read("instructions", text)?;
        let system = instructions.clone().map(|text| Message::new(Role::System, text));
        let mut messages: Vec<Message> = system.into_iter().collect();
        messages.extend(fields.require("input", input)?);
        let include_logprobs = fields.read("include", include)?.unwrap_or(false);
        let top_logprobs = fields.read("top_logprobs", count(0, MAX_LOGPROBS))?;
        let request = Self {
            chat: ChatRequest {
                model,
                messages,
                max_completion_tokens: fields.read("max_output_tokens", at_least(1))?,
                logprobs: (include_logprobs || top_logprobs.is_some()).then_some(true),
                top_logprobs,
                tools: fields.read("tools", array(0, 128, tool))?.unwrap_or_default(),
                tool_choice: fields.read("tool_choice", |p, v| ToolChoice::parse(p, v, true))?,
                parallel_tool_calls: fields.read("parallel_tool_calls", boolean)?,
                reasoning_effort: fields.read("reasoning", reasoning)?.flatten(),
                options: GenerationOptions {
                    temperature: fields.read("temperature", number(0.0, 2.0))?,
                    top_p: fields.read("top_p", number(0.0, 1.0))?,
                    response_format: fields.read("text", text_format)?.flatten(),
                    stream: fields.read("stream", boolean)?,
                    user: match fields.read("user", string(0, 512))? {
                        None => fields.read("safety_identifier", string(0, 512))?,
                        some => some,
                    },
                    ..GenerationOptions::default()
                },
                ..ChatRequest::default()
            },
            instructions,
            metadata: fields.read("metadata", metadata)?,
        };
        let no = |v: &Value| v == &Value::Bool(false);
        fields.neutral("store", no, "answers are not kept")?;
        fields.neutral("background", no, "answers are not kept")?;
        fields.neutral("truncation", |v| v == "disabled", "prompts are not cut")?;
        fields.read("stream_options", |path, value| {
            let mut fields = Fields::of(path, value)?;
            neutral_obfuscation(&mut fields)?;
            fields.finish()
        })?;
        neutral_service(&mut fields)?;
        fields.refuse("previous_response_id", "answers are not kept; send the conversation")?;
        fields.refuse("conversation", "answers are not kept; send the conversation")?;
        fields.refuse("prompt", "there are no stored prompts")?;
        fields.refuse("max_tool_calls", "the server calls no tools itself")?;
        fields.refuse("moderation", "the server does not moderate")?;
        fields.refuse("context_management", "prompts are not cut")?;
        fields.finish()?;
        request.chat.validate()?;
        Ok(request)
    }
}

/// A text, or items that become messages.
fn input(path: &str, value: Value) -> Result<Vec<Message>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Message::new(Role::User, text)]),
        Value::Array(items) if !items.is_empty() => items,
        Value::Array(_) => {
            return Err(ApiError::LengthOutOfRange {
                param: path.to_owned(),
                minimum: 1,
                maximum: usize::MAX,
                unit: "elements",
                got: 0,
            });
        }
        other => return Err(wrong_type(path, "a string or an array of items", &other)),
    };
    let mut messages: Vec<Message> = Vec::with_capacity(items.len());
    for (i, value) in items.into_iter().enumerate() {
        match item(&format!("{path}[{i}]"), value)? {
            Item::Message(message) => messages.push(message),
            // A message and the calls after it are one message of a chat.
            Item::Call(call) => match messages.last_mut() {
                Some(last) if last.role == Role::Assistant => last.tool_calls.push(call),
                _ => messages.push(Message {
                    role: Role::Assistant,
                    tool_calls: vec![call],
                    ..Message::default()
                }),
            },
        }
    }
    Ok(messages)
}

enum Item {
    Message(Message),
    Call(ToolCall),
}

fn item(path: &str, value: Value) -> Result<Item, ApiError> {
    let mut fields = Fields::of(path, value)?;
    let kind = fields.read("type", text)?.unwrap_or_else(|| "message".to_owned());
    // Items of earlier answers come back with these.
    fields.read("id", text)?;
    fields.neutral("status", Value::is_string, "it is a word")?;
    let item = match kind.as_str() {
        "message" => {
            let roles: &[(&str, Role)] = &[
                ("developer", Role::Developer),
                ("system", Role::System),
                ("user", Role::User),
                ("assistant", Role::Assistant),
            ];
            let expected = "'developer', 'system', 'user' or 'assistant'";
            fields.refuse("phase", "messages have no phases")?;
            Item::Message(Message {
                role: fields.require("role", word(roles, expected))?,
                content: Some(fields.require("content", content)?),
                ..Message::default()
            })
        }
        "function_call" => Item::Call(ToolCall::new(
            fields.require("call_id", text)?,
            fields.require("name", text)?,
            fields.require("arguments", text)?,
        )),
        "function_call_output" => Item::Message(Message {
            role: Role::Tool,
            tool_call_id: Some(fields.require("call_id", text)?),
            content: Some(fields.require("output", content)?),
            ..Message::default()
        }),
        other => {
            return Err(ApiError::InvalidValue {
                param: fields.path("type"),
                expected: "'message', 'function_call' or 'function_call_output'",
                got: quoted(other),
            });
        }
    };
    fields.finish()?;
    Ok(item)
}

fn content(path: &str, value: Value) -> Result<Content, ApiError> {
    match value {
        Value::String(text) => Ok(Content::Text(text)),
        other => {
            let part = |p: &str, v| TextPart::parse(p, v, &["input_text", "output_text"]);
            array(1, 4096, part)(path, other).map(Content::Parts)
        }
    }
}

fn tool(path: &str, value: Value) -> Result<Tool, ApiError> {
    let mut fields = Fields::of(path, value)?;
    function_type(&mut fields)?;
    let tool = Tool::read(&mut fields)?;
    fields.neutral("defer_loading", |v| v == &Value::Bool(false), "tools are read at once")?;
    fields.finish()?;
    Ok(tool)
}

/// Whether log-probabilities are wanted.
fn include(path: &str, value: Value) -> Result<bool, ApiError> {
    let kinds = array(0, 16, |path, value| {
        let kind = text(path, value)?;
        match kind.as_str() {
            "message.output_text.logprobs" => Ok(true),
            // There is no such content, so that all of it is included.
            "reasoning.encrypted_content" => Ok(false),
            _ => Err(ApiError::InvalidValue {
                param: path.to_owned(),
                expected: "'message.output_text.logprobs'",
                got: quoted(&kind),
            }),
        }
    })(path, value)?;
    Ok(kinds.contains(&true))
}

fn reasoning(path: &str, value: Value) -> Result<Option<ReasoningEffort>, ApiError> {
    let mut fields = Fields::of(path, value)?;
    let effort = fields.read("effort", ReasoningEffort::parse)?;
    let auto = |v: &Value| v == "auto";
    fields.neutral("summary", auto, "thoughts are not summarised")?;
    fields.neutral("generate_summary", auto, "thoughts are not summarised")?;
    fields.finish()?;
    Ok(effort)
}

fn text_format(path: &str, value: Value) -> Result<Option<ResponseFormat>, ApiError> {
    let mut fields = Fields::of(path, value)?;
    fields.neutral("verbosity", |v| v == "medium", "say it in a message")?;
    let format = fields.read("format", |path, value| {
        format(path, value, |fields| {
            let schema = named_schema(fields)?;
            match schema.schema {
                Some(_) => Ok(schema),
                None => Err(ApiError::Missing { param: fields.path("schema") }),
            }
        })
    })?;
    fields.finish()?;
    Ok(format)
}

fn metadata(path: &str, value: Value) -> Result<Map<String, Value>, ApiError> {
    let map = object(path, value)?;
    crate::fields::check_length(path, map.len(), 0, 16, "entries")?;
    for (key, value) in &map {
        let path = quoted(&format!("{path}.{key}"));
        crate::fields::check_length(&path, key.len(), 1, 64, "bytes")?;
        string(0, 512)(&path, value.clone())?;
    }
    Ok(map)
}
