//! `POST /v1/chat/completions`: the next message of a conversation.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::fields::{Fields, array, at_least, boolean, count, object, string, text, word};
use crate::generation::{MAX_LOGPROBS, refuse_others};
use crate::{ApiError, GenerationOptions, JsonLimits, Message, Tool, ToolChoice};

/// A request of `/v1/chat/completions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatRequest {
    /// Which model.
    pub model: String,
    /// What was said.
    pub messages: Vec<Message>,
    /// At most so many tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<usize>,
    /// The same, by its first name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Return log-probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// Of so many others beside each token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<usize>,
    /// What the model may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// What it must call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once. True if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// How long to think, for templates that know of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<ReasoningEffort>,
    /// How the messages become a prompt.
    #[serde(flatten)]
    pub prompt: ChatPromptOptions,
    /// Everything that completions have too.
    #[serde(flatten)]
    pub options: GenerationOptions,
}

crate::fields::fields! {
    /// How messages become a prompt; also for `/tokenize`.
    pub struct ChatPromptOptions {
        /// Whether the prompt ends with the beginning of an answer. True if not given.
        add_generation_prompt: bool = boolean,
        /// Whether the answer goes on with the last message.
        continue_final_message: bool = boolean,
        /// Further variables of the chat template.
        chat_template_kwargs: Map<String, Value> = template_variables,
    }
}

impl ChatPromptOptions {
    /// Reads these and refuses a template.
    pub(crate) fn parse(fields: &mut Fields) -> Result<Self, ApiError> {
        fields.refuse("chat_template", "templates are programs; the server has its own")?;
        let options = Self::read(fields)?;
        let adds = options.add_generation_prompt == Some(true);
        if adds && options.continue_final_message == Some(true) {
            let param = "continue_final_message".to_owned();
            return Err(ApiError::Conflict { param, other: "add_generation_prompt" });
        }
        Ok(options)
    }
}

/// How long a model should think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ReasoningEffort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

impl ReasoningEffort {
    pub(crate) fn parse(path: &str, value: Value) -> Result<Self, ApiError> {
        use ReasoningEffort::*;
        let words: &[(&str, Self)] = &[
            ("none", None),
            ("minimal", Minimal),
            ("low", Low),
            ("medium", Medium),
            ("high", High),
            ("xhigh", Xhigh),
            ("max", Max),
        ];
        let expected = "'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'";
        word(words, expected)(path, value)
    }
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// As [`crate::CompletionRequest::parse`].
    ///
    /// ```
    /// use openai_api::{ChatRequest, JsonLimits};
    /// let body = br#"{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "best": 1}"#;
    /// let error = ChatRequest::parse(body, JsonLimits::default()).unwrap_err();
    /// assert_eq!(error.to_string(), "Unknown parameter: 'best'.");
    /// ```
    pub fn parse(body: &[u8], limits: JsonLimits) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body, limits)?;
        let mut request = Self {
            model: fields.require("model", text)?,
            messages: fields.require("messages", array(1, 4096, Message::parse))?,
            max_completion_tokens: fields.read("max_completion_tokens", at_least(1))?,
            max_tokens: fields.read("max_tokens", at_least(1))?,
            logprobs: fields.read("logprobs", boolean)?,
            top_logprobs: fields.read("top_logprobs", count(0, MAX_LOGPROBS))?,
            tools: fields.read("tools", array(0, 128, Tool::parse))?.unwrap_or_default(),
            tool_choice: fields.read("tool_choice", |p, v| ToolChoice::parse(p, v, false))?,
            parallel_tool_calls: fields.read("parallel_tool_calls", boolean)?,
            reasoning_effort: fields.read("reasoning_effort", ReasoningEffort::parse)?,
            prompt: ChatPromptOptions::parse(&mut fields)?,
            options: GenerationOptions::read(&mut fields)?,
        };
        refuse_others(&mut fields)?;
        request.refuse_or_adopt(&mut fields)?;
        fields.finish()?;
        request.validate()?;
        Ok(request)
    }

    fn refuse_or_adopt(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        fields.neutral("store", |v| v == &Value::Bool(false), "answers are not kept")?;
        fields.neutral(
            "metadata",
            |v| v.as_object().is_some_and(Map::is_empty),
            "answers are not kept",
        )?;
        fields.neutral("echo", |v| v == &Value::Bool(false), "use continue_final_message")?;
        // What OpenAI renamed `user` to.
        let safety_identifier = fields.read("safety_identifier", string(0, 512))?;
        self.options.user = self.options.user.take().or(safety_identifier);
        let text = |v: &Value| v.as_array().is_some_and(|m| m.iter().all(|m| m == "text"));
        fields.neutral("modalities", text, "the models write text")?;
        neutral_service(fields)?;
        fields.refuse("audio", "the models write text")?;
        fields.refuse("prediction", "there is no predicted output")?;
        fields.refuse("web_search_options", "the server does not search")?;
        fields.refuse("moderation", "the server does not moderate")?;
        fields.refuse("functions", "use 'tools'")?;
        fields.refuse("function_call", "use 'tool_choice'")?;
        fields.refuse("documents", "write them into a message")
    }

    pub(crate) fn validate(&self) -> Result<(), ApiError> {
        let conflict = |param: &str, other| ApiError::Conflict { param: param.to_owned(), other };
        if self.max_tokens.is_some() && self.max_completion_tokens.is_some() {
            return Err(conflict("max_tokens", "max_completion_tokens"));
        }
        if self.top_logprobs.is_some_and(|k| k > 0) && self.logprobs != Some(true) {
            let needs = "'logprobs' true";
            return Err(ApiError::Requires { param: "top_logprobs".into(), needs });
        }
        let choice = self.choice();
        choice.validate(&self.tools)?;
        let must_call = matches!(choice, ToolChoice::Required | ToolChoice::Function(_));
        if must_call && self.options.structure()?.is_some() {
            return Err(conflict("tool_choice", "response_format"));
        }
        if self.options.use_beam_search == Some(true) && !self.tools.is_empty() {
            return Err(conflict("use_beam_search", "tools"));
        }
        self.options.validate(self.limit())
    }

    /// The limit of an answer's tokens and the parameter that sets it.
    pub fn limit(&self) -> Option<(&'static str, usize)> {
        let new = self.max_completion_tokens.map(|n| ("max_completion_tokens", n));
        new.or(self.max_tokens.map(|n| ("max_tokens", n)))
    }

    /// Which tools the model must call: none if there are none.
    pub fn choice(&self) -> ToolChoice {
        match &self.tool_choice {
            Some(choice) => choice.clone(),
            None if self.tools.is_empty() => ToolChoice::None,
            None => ToolChoice::Auto,
        }
    }

    /// How many log-probabilities beside each token's; `None` for none at all.
    pub fn logprobs(&self) -> Option<usize> {
        (self.logprobs == Some(true)).then(|| self.top_logprobs.unwrap_or(0))
    }
}

/// Fields about how OpenAI runs its service, as far as they ask for what is done anyway.
pub(crate) fn neutral_service(fields: &mut Fields) -> Result<(), ApiError> {
    let tier = |v: &Value| v == "auto" || v == "default";
    fields.neutral("service_tier", tier, "there is one tier; use 'priority'")?;
    fields.neutral("verbosity", |v| v == "medium", "say it in a message")?;
    fields.neutral("prompt_cache_key", Value::is_string, "prefixes are cached as they come")?;
    let memory = |v: &Value| v == "in_memory" || v == "in-memory";
    fields.neutral("prompt_cache_retention", memory, "prefixes are kept while there is room")?;
    fields.refuse("prompt_cache_options", "prefixes are cached as they come")
}

fn template_variables(path: &str, value: Value) -> Result<Map<String, Value>, ApiError> {
    let variables = object(path, value)?;
    const TAKEN: [&str; 5] =
        ["messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"];
    match variables.keys().find(|k| TAKEN.contains(&k.as_str()) || k.ends_with("_token")) {
        Some(taken) => Err(ApiError::Unsupported {
            param: format!("{path}.{taken}"),
            reason: "it is no variable of its own",
        }),
        None => Ok(variables),
    }
}
