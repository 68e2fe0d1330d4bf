//! `POST /v1/completions`: text that continues a prompt.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fields::{Fields, at_least, boolean, check_length, count, text, token_ids, wrong_type};
use crate::generation::{MAX_LOGPROBS, refuse_others};
use crate::{ApiError, FinishReason, GenerationOptions, JsonLimits, PromptLogprob, Usage};

/// The tokens of an answer whose request does not say.
pub const DEFAULT_MAX_TOKENS: usize = 16;

/// A request of `/v1/completions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompletionRequest {
    /// Which model.
    pub model: String,
    /// What to continue.
    pub prompt: PromptInput,
    /// At most so many tokens; [`DEFAULT_MAX_TOKENS`] if not given. 0 is for `echo` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Return the prompt in front of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// The log-probabilities of the tokens, and of so many others each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<usize>,
    /// The text after the gap that the answer fills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// Everything that chat has too.
    #[serde(flatten)]
    pub options: GenerationOptions,
}

/// Prompts, as text or as token ids.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum PromptInput {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The ids of one.
    Tokens(Vec<u32>),
    /// The ids of several.
    TokenLists(Vec<Vec<u32>>),
}

impl Default for PromptInput {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl PromptInput {
    /// How many prompts there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }

    /// Whether there is none, which no request that was parsed has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The prompts that are texts.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = match self {
            Self::Text(text) => std::slice::from_ref(text),
            Self::Texts(texts) => texts,
            Self::Tokens(_) | Self::TokenLists(_) => &[],
        };
        texts.iter().map(String::as_str)
    }

    /// Any of the four forms; the first element says which.
    pub(crate) fn parse(path: &str, value: Value) -> Result<Self, ApiError> {
        let Value::Array(items) = value else { return text(path, value).map(Self::Text) };
        check_length(path, items.len(), 1, usize::MAX, "elements")?;
        let at = |i: usize| format!("{path}[{i}]");
        match &items[0] {
            Value::String(_) => {
                let texts = items.into_iter().enumerate().map(|(i, v)| match v {
                    Value::String(s) => Ok(s),
                    other => text(&at(i), other),
                });
                texts.collect::<Result<_, _>>().map(Self::Texts)
            }
            Value::Number(_) => token_ids(path, Value::Array(items)).map(Self::Tokens),
            Value::Array(_) => {
                let lists = items.into_iter().enumerate().map(|(i, v)| {
                    let ids = token_ids(&at(i), v)?;
                    check_length(&at(i), ids.len(), 1, usize::MAX, "elements")?;
                    Ok(ids)
                });
                lists.collect::<Result<_, _>>().map(Self::TokenLists)
            }
            other => Err(wrong_type(&at(0), "a string, a token id or an array of them", other)),
        }
    }
}

impl CompletionRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ApiError`] with status 400 for what is not JSON, for fields that are missing, of another
    /// type, out of range, unknown or not honoured, and for fields that exclude each other.
    ///
    /// ```
    /// use openai_api::{CompletionRequest, JsonLimits};
    /// let body = br#"{"model": "m", "prompt": [1, 2, 3], "temperature": 3}"#;
    /// let error = CompletionRequest::parse(body, JsonLimits::default()).unwrap_err();
    /// assert_eq!((error.status(), error.param()), (400, Some("temperature")));
    /// ```
    pub fn parse(body: &[u8], limits: JsonLimits) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body, limits)?;
        let request = Self {
            model: fields.require("model", text)?,
            prompt: fields.require("prompt", PromptInput::parse)?,
            max_tokens: fields.read("max_tokens", at_least(0))?,
            echo: fields.read("echo", boolean)?,
            logprobs: fields.read("logprobs", count(0, MAX_LOGPROBS))?,
            suffix: fields.read("suffix", text)?,
            options: GenerationOptions::read(&mut fields)?,
        };
        refuse_others(&mut fields)?;
        fields.finish()?;
        let echo = request.echo.unwrap_or(false);
        if request.max_tokens == Some(0) && !echo {
            let needs = "'echo' true where it is 0";
            return Err(ApiError::Requires { param: "max_tokens".into(), needs });
        }
        let conflict = |param: &str, other| ApiError::Conflict { param: param.to_owned(), other };
        if echo && request.suffix.is_some() {
            return Err(conflict("echo", "suffix"));
        }
        if request.suffix.is_some() && !matches!(request.prompt, PromptInput::Text(_)) {
            let needs = "a prompt that is one string";
            return Err(ApiError::Requires { param: "suffix".into(), needs });
        }
        request.options.validate(Some(("max_tokens", request.limit())))?;
        Ok(request)
    }

    /// Tokens of an answer at most.
    pub fn limit(&self) -> usize {
        self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)
    }
}

/// An answer of `/v1/completions`, and a chunk of its stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// `cmpl-...`.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Which model.
    pub model: String,
    /// One for each prompt and answer: of prompt p's answer i the index is `p * n + i`.
    pub choices: Vec<CompletionChoice>,
    /// Changes where the same seed may give other text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// Tokens; in a stream, only where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl Completion {
    /// The value of `object`.
    pub const OBJECT: &'static str = "text_completion";
}

/// One answer, or a piece of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// Which answer.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Of its tokens.
    #[serde(default)]
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended; `None` where it has not.
    #[serde(default)]
    pub finish_reason: Option<FinishReason>,
    /// The stop string or token that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// The answer's tokens, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// The prompt's tokens, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Of the prompt's tokens by id, the first of which has none, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<Option<BTreeMap<u32, PromptLogprob>>>>,
}

/// What ended an answer before the model did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StopReason {
    /// A token.
    Token(u32),
    /// A text.
    Text(String),
}

/// Log-probabilities as lists of equal length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionLogprobs {
    /// Where each token begins in the choice's text, in characters.
    pub text_offset: Vec<usize>,
    /// ln p of each; `None` for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f64>>,
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// The most probable ones, and the chosen one, by text.
    pub top_logprobs: Vec<Option<BTreeMap<String, f64>>>,
}
