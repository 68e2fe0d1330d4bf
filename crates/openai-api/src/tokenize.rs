//! `POST /tokenize` and `/detokenize`, in vLLM's shapes.

use serde::{Deserialize, Serialize};

use crate::chat::ChatPromptOptions;
use crate::fields::{Fields, array, boolean, text, token_ids};
use crate::{ApiError, JsonLimits, Message, Tool};

/// A request of `/tokenize`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizeRequest {
    /// Which model; the only one if not given.
    pub model: Option<String>,
    /// What to tokenize.
    pub input: TokenizeInput,
    /// Whether to add BOS and its like: for a text true if not given, for a chat false.
    pub add_special_tokens: Option<bool>,
    /// Whether to return the tokens' texts.
    pub return_token_strs: bool,
}

/// What to tokenize.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizeInput {
    /// A text.
    Text(String),
    /// A conversation.
    Chat {
        /// What was said.
        messages: Vec<Message>,
        /// What the model may call.
        tools: Vec<Tool>,
        /// How the messages become a prompt.
        prompt: ChatPromptOptions,
    },
}

impl TokenizeRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// As [`crate::CompletionRequest::parse`].
    pub fn parse(body: &[u8], limits: JsonLimits) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body, limits)?;
        let model = fields.read("model", text)?;
        let input = match fields.read("messages", array(1, 4096, Message::parse))? {
            Some(messages) => TokenizeInput::Chat {
                messages,
                tools: fields.read("tools", array(0, 128, Tool::parse))?.unwrap_or_default(),
                prompt: ChatPromptOptions::parse(&mut fields)?,
            },
            None => TokenizeInput::Text(fields.require("prompt", text)?),
        };
        let request = Self {
            model,
            input,
            add_special_tokens: fields.read("add_special_tokens", boolean)?,
            return_token_strs: fields.read("return_token_strs", boolean)?.unwrap_or(false),
        };
        fields.finish()?;
        Ok(request)
    }
}

/// An answer of `/tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenized {
    /// How many tokens.
    pub count: usize,
    /// How many the model takes.
    pub max_model_len: usize,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, where asked for.
    #[serde(default)]
    pub token_strs: Option<Vec<String>>,
}

/// A request of `/detokenize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// Which model; the only one if not given.
    pub model: Option<String>,
    /// The ids.
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// As [`crate::CompletionRequest::parse`].
    pub fn parse(body: &[u8], limits: JsonLimits) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body, limits)?;
        let request = Self {
            model: fields.read("model", text)?,
            tokens: fields.require("tokens", token_ids)?,
        };
        fields.finish()?;
        Ok(request)
    }
}

/// An answer of `/detokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detokenized {
    /// The text.
    pub prompt: String,
}
