//! The messages of a chat: who says what, and calls of tools.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ApiError;
use crate::error::quoted;
use crate::fields::{Fields, array, string, text, word, wrong_type};

/// Who speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Role {
    Developer,
    System,
    #[default]
    User,
    Assistant,
    Tool,
}

/// A message of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; `None` where an assistant only calls tools.
    pub content: Option<Content>,
    /// Tells speakers of one role apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What an assistant thought before it spoke; for templates that show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What an assistant called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: Some(Content::Text(content.into())), ..Self::default() }
    }

    pub(crate) fn parse(path: &str, value: Value) -> Result<Self, ApiError> {
        let mut fields = Fields::of(path, value)?;
        let roles: &[(&str, Role)] = &[
            ("developer", Role::Developer),
            ("system", Role::System),
            ("user", Role::User),
            ("assistant", Role::Assistant),
            ("tool", Role::Tool),
        ];
        let expected = "'developer', 'system', 'user', 'assistant' or 'tool'";
        let role = fields.require("role", word(roles, expected))?;
        let mut message = Self {
            role,
            content: fields.read("content", Content::parse)?,
            name: fields.read("name", string(1, 256))?,
            ..Self::default()
        };
        match role {
            Role::Assistant => {
                message.reasoning_content = match fields.read("reasoning_content", text)? {
                    None => fields.read("reasoning", text)?,
                    some => some,
                };
                let calls = fields.read("tool_calls", array(0, 128, ToolCall::parse))?;
                message.tool_calls = calls.unwrap_or_default();
                // Answers are sent back as they were received, with fields that say nothing.
                let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
                fields.neutral("annotations", empty, "answers have no annotations")?;
                fields.refuse("refusal", "write it as content")?;
                fields.refuse("audio", "the models read text")?;
                fields.refuse("function_call", "use 'tool_calls'")?;
                if message.content.is_none() && message.tool_calls.is_empty() {
                    return Err(ApiError::Missing { param: fields.path("content") });
                }
            }
            _ if message.content.is_none() => {
                return Err(ApiError::Missing { param: fields.path("content") });
            }
            Role::Tool => message.tool_call_id = Some(fields.require("tool_call_id", text)?),
            _ => {}
        }
        fields.finish()?;
        Ok(message)
    }
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// One text.
    Text(String),
    /// Several.
    Parts(Vec<TextPart>),
}

impl Content {
    /// All of it, a line break between parts, as vLLM and llama.cpp join them.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => {
                parts.iter().map(|p| p.text.as_str()).collect::<Vec<_>>().join("\n")
            }
        }
    }

    fn parse(path: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Array(_) => array(1, 4096, |p, v| TextPart::parse(p, v, &["text"]))(path, value)
                .map(Self::Parts),
            other => Err(wrong_type(path, "a string or an array of text parts", &other)),
        }
    }
}

/// A piece of text in a list of parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "text")]
pub struct TextPart {
    /// The text.
    pub text: String,
}

impl TextPart {
    /// A part whose type is one of `kinds`.
    pub(crate) fn parse(path: &str, value: Value, kinds: &[&str]) -> Result<Self, ApiError> {
        let mut fields = Fields::of(path, value)?;
        let kind = fields.require("type", text)?;
        if !kinds.contains(&kind.as_str()) {
            let param = fields.path("type");
            let others = [
                "image_url",
                "input_audio",
                "file",
                "refusal",
                "input_image",
                "input_file",
                "video_url",
                "audio_url",
            ];
            return Err(if others.contains(&kind.as_str()) {
                ApiError::Unsupported { param, reason: "the models read text" }
            } else {
                ApiError::InvalidValue { param, expected: "a text part", got: quoted(&kind) }
            });
        }
        let part = Self { text: fields.require("text", text)? };
        let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
        fields.neutral("annotations", empty, "the models read text")?;
        fields.neutral("logprobs", empty, "the models read text")?;
        fields.finish()?;
        Ok(part)
    }
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// By which its result is sent back.
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// What is called, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// JSON as a string, as the model wrote it.
    pub arguments: String,
}

fn function() -> String {
    ToolCall::KIND.to_owned()
}

impl ToolCall {
    /// The only type of call there is.
    pub const KIND: &'static str = "function";

    /// A call of a function.
    pub fn new(id: String, name: String, arguments: String) -> Self {
        Self { id, kind: function(), function: FunctionCall { name, arguments } }
    }

    fn parse(path: &str, value: Value) -> Result<Self, ApiError> {
        let mut fields = Fields::of(path, value)?;
        let id = fields.require("id", text)?;
        let kind = fields.read("type", text)?.unwrap_or_else(function);
        if kind != Self::KIND {
            let param = fields.path("type");
            return Err(ApiError::Unsupported { param, reason: "tools are functions" });
        }
        let function = fields.require("function", |path, value| {
            let mut fields = Fields::of(path, value)?;
            let name = fields.require("name", text)?;
            let arguments = fields.require("arguments", text)?;
            fields.finish()?;
            Ok(FunctionCall { name, arguments })
        })?;
        fields.neutral("index", Value::is_u64, "calls are in order")?;
        fields.finish()?;
        Ok(Self { id, kind, function })
    }
}
