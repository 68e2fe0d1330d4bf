//! What both generation endpoints can be asked for: sampling, stopping, streaming, and the extras
//! of vLLM that people rely on.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::error::quoted;
use crate::fields::{
    Fields, array, at_least, bias, boolean, count, fields, integer, number, string, text, token_ids,
};
use crate::structure::{ResponseFormat, StructuredOutputs, response_format, structured_outputs};
use crate::{ApiError, Structure};

/// The most answers to one prompt.
pub const MAX_N: usize = 128;
/// The most log-probabilities beside the chosen token's.
pub const MAX_LOGPROBS: usize = 20;
/// The most stop strings. OpenAI takes 4.
pub const MAX_STOP: usize = 16;

/// Where 0 means nothing, this is next to it.
const LEAST_POSITIVE: f64 = 0.001;

const LONGEST_STRING: usize = 1 << 16;

fields! {
    /// Fields that `/v1/completions` and `/v1/chat/completions` share; `None` where not given.
    pub struct GenerationOptions {
        /// Divisor of the logits, 0 to 2; 0 takes the most probable token. 1 if not given.
        temperature: f64 = number(0.0, 2.0),
        /// Keep the most probable tokens that sum to this. 1 if not given.
        top_p: f64 = number(0.0, 1.0),
        /// Keep so many of the most probable tokens; 0 (or -1 on the wire) keeps all.
        top_k: usize = top_k,
        /// Keep tokens at least this fraction as probable as the most probable one.
        min_p: f64 = number(0.0, 1.0),
        /// Keep the tokens whose surprise is nearest the entropy.
        typical_p: f64 = number(LEAST_POSITIVE, 1.0),
        /// Makes what was said before less likely; 1 is off.
        repetition_penalty: f64 = number(LEAST_POSITIVE, 1000.0),
        /// Taken from the logit of each token that was generated.
        presence_penalty: f64 = number(-2.0, 2.0),
        /// Taken from it each time.
        frequency_penalty: f64 = number(-2.0, 2.0),
        /// Added to the logits, by token id.
        logit_bias: BTreeMap<u32, f64> = bias,
        /// Where the random numbers start.
        seed: i64 = integer(i64::MIN, i64::MAX),
        /// Answers to each prompt. 1 if not given.
        n: usize = count(1, MAX_N),
        /// Answers drawn, of which the best `n` are returned.
        best_of: usize = count(1, MAX_N),
        /// Follow the most probable continuations together, `best_of` (or `n`) of them.
        use_beam_search: bool = boolean,
        /// A beam's score is its log-probability divided by its length to this power. 1 if not given.
        length_penalty: f64 = number(-10.0, 10.0),
        /// End before any of these texts.
        stop: Vec<String> = stop,
        /// End at any of these tokens.
        stop_token_ids: Vec<u32> = token_ids,
        /// Whether the stop string is part of the answer.
        include_stop_str_in_output: bool = boolean,
        /// Do not end before so many tokens.
        min_tokens: usize = at_least(0),
        /// Go on after the end of the text.
        ignore_eos: bool = boolean,
        /// Texts that must not appear.
        bad_words: Vec<String> = array(0, 256, string(1, 256)),
        /// Tokens to choose from, if not all.
        allowed_token_ids: Vec<u32> = token_ids,
        /// Whether special tokens are left out of the text. True if not given.
        skip_special_tokens: bool = boolean,
        /// The log-probabilities of the prompt's tokens, with so many others each.
        prompt_logprobs: usize = count(0, MAX_LOGPROBS),
        /// Keep so many of the prompt's last tokens.
        truncate_prompt_tokens: usize = at_least(1),
        /// Whether the tokenizer adds BOS and its like.
        add_special_tokens: bool = boolean,
        /// What the text must be.
        response_format: ResponseFormat = response_format,
        /// What the text must be, in vLLM's form.
        structured_outputs: StructuredOutputs = structured_outputs,
        /// A JSON schema, in vLLM's older form.
        guided_json: Value = any,
        /// A regular expression.
        guided_regex: String = string(1, LONGEST_STRING),
        /// Texts to choose from.
        guided_choice: Vec<String> = array(1, 4096, text),
        /// A grammar.
        guided_grammar: String = text,
        /// Lower is served earlier. 0 if not given.
        priority: i64 = integer(i32::MIN as i64, i32::MAX as i64),
        /// What the answer's id ends with.
        request_id: String = request_id,
        /// Cached prefixes are shared among requests of the same salt alone.
        cache_salt: String = string(1, 256),
        /// Token ids beside the text.
        return_token_ids: bool = boolean,
        /// Who asks; the tenant where there are no API keys.
        user: String = string(0, 512),
        /// Send the answer as it is made.
        stream: bool = boolean,
        /// What a stream holds beside the answer.
        stream_options: StreamOptions = StreamOptions::parse,
    }
}

/// What a stream holds beside the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamOptions {
    /// A last chunk without choices that has the usage.
    pub include_usage: bool,
    /// The usage so far in every chunk.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub continuous_usage_stats: bool,
}

impl StreamOptions {
    fn parse(path: &str, value: Value) -> Result<Self, ApiError> {
        let mut fields = Fields::of(path, value)?;
        let options = Self {
            include_usage: fields.read("include_usage", boolean)?.unwrap_or(false),
            continuous_usage_stats: fields
                .read("continuous_usage_stats", boolean)?
                .unwrap_or(false),
        };
        neutral_obfuscation(&mut fields)?;
        fields.finish()?;
        Ok(options)
    }
}

/// Nothing is padded; who does not ask for padding does not miss it.
pub(crate) fn neutral_obfuscation(fields: &mut Fields) -> Result<(), ApiError> {
    let reason = "streams are not obfuscated";
    fields.neutral("include_obfuscation", |v| v == &Value::Bool(false), reason)
}

impl GenerationOptions {
    /// Whether the answer is sent as it is made.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Answers to each prompt.
    pub fn answers(&self) -> usize {
        self.n.unwrap_or(1)
    }

    /// What the text must be, whichever of the fields says it.
    ///
    /// # Errors
    /// If more than one does.
    pub fn structure(&self) -> Result<Option<Structure>, ApiError> {
        let mut found: Option<(&'static str, Structure)> = None;
        let given = [
            ("response_format", self.response_format.as_ref().and_then(ResponseFormat::structure)),
            ("structured_outputs", self.structured_outputs.as_ref().map(|s| s.0.clone())),
            ("guided_json", self.guided_json.clone().map(Structure::json_schema).transpose()?),
            ("guided_regex", self.guided_regex.clone().map(Structure::Regex)),
            ("guided_choice", self.guided_choice.clone().map(Structure::Choice)),
            ("guided_grammar", self.guided_grammar.clone().map(Structure::Grammar)),
        ];
        for (name, structure) in given {
            let Some(structure) = structure else { continue };
            if let Some((other, _)) = found {
                return Err(ApiError::Conflict { param: name.to_owned(), other });
            }
            found = Some((name, structure));
        }
        Ok(found.map(|(_, structure)| structure))
    }

    /// [`structure`](Self::structure), which these options then no longer ask for.
    ///
    /// # Errors
    /// As there.
    pub fn take_structure(&mut self) -> Result<Option<Structure>, ApiError> {
        let structure = self.structure()?;
        self.response_format = None;
        self.structured_outputs = None;
        self.guided_json = None;
        self.guided_regex = None;
        self.guided_choice = None;
        self.guided_grammar = None;
        Ok(structure)
    }

    /// What no field alone shows.
    pub(crate) fn validate(
        &self,
        max_tokens: Option<(&'static str, usize)>,
    ) -> Result<(), ApiError> {
        if let (Some(got), Some((other, limit))) = (self.min_tokens, max_tokens)
            && got > limit
        {
            return Err(ApiError::Exceeds { param: "min_tokens", got, other, limit });
        }
        let requires = |param: &str, needs| ApiError::Requires { param: param.to_owned(), needs };
        if self.stream_options.is_some() && !self.streams() {
            return Err(requires("stream_options", "'stream' true"));
        }
        let (n, beams) = (self.answers(), self.use_beam_search.unwrap_or(false));
        if let Some(best_of) = self.best_of {
            if best_of < n {
                let other = "best_of";
                return Err(ApiError::Exceeds { param: "n", got: n, other, limit: best_of });
            }
            if self.streams() && best_of > n {
                return Err(ApiError::Conflict { param: "best_of".into(), other: "stream" });
            }
        }
        if beams {
            if self.streams() {
                return Err(ApiError::Conflict {
                    param: "use_beam_search".into(),
                    other: "stream",
                });
            }
            if self.structure()?.is_some() {
                let other = "structured outputs";
                return Err(ApiError::Conflict { param: "use_beam_search".into(), other });
            }
        } else if self.length_penalty.is_some_and(|p| p != 1.0) {
            return Err(requires("length_penalty", "'use_beam_search' true"));
        }
        if self.streams() && self.prompt_logprobs.is_some() {
            return Err(ApiError::Conflict { param: "prompt_logprobs".into(), other: "stream" });
        }
        if self.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
            let (minimum, maximum, unit, got) = (1, usize::MAX, "elements", 0);
            let param = "allowed_token_ids".to_owned();
            return Err(ApiError::LengthOutOfRange { param, minimum, maximum, unit, got });
        }
        self.structure().map(|_| ())
    }
}

/// Fields of the API and of vLLM that this server does not honour, with the values that ask for
/// nothing.
pub(crate) fn refuse_others(fields: &mut Fields) -> Result<(), ApiError> {
    let no = |v: &Value| v == &Value::Bool(false);
    let yes = |v: &Value| v == &Value::Bool(true);
    fields.neutral(
        "spaces_between_special_tokens",
        yes,
        "special tokens are joined as they are",
    )?;
    fields.neutral("early_stopping", no, "beams are followed to their end")?;
    fields.neutral("detokenize", yes, "answers are text")?;
    fields.refuse("logits_processors", "code in requests is not run")?;
    fields.refuse("guided_decoding_backend", "there is one backend")?;
    fields.refuse("guided_whitespace_pattern", "write the white space into the grammar")?;
    Ok(())
}

fn any(_: &str, value: Value) -> Result<Value, ApiError> {
    Ok(value)
}

fn top_k(path: &str, value: Value) -> Result<usize, ApiError> {
    integer(-1, i64::from(i32::MAX))(path, value).map(|k| k.max(0) as usize)
}

fn stop(path: &str, value: Value) -> Result<Vec<String>, ApiError> {
    let one = string(1, 1024);
    match value {
        Value::String(_) => one(path, value).map(|s| vec![s]),
        _ => array(0, MAX_STOP, one)(path, value),
    }
}

/// Whether an id is fit for a header and a log: 1 to 64 letters, digits, `-`, `_`, `.` and `:`.
pub fn is_request_id(id: &str) -> bool {
    let fit = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    (1..=64).contains(&id.len()) && id.bytes().all(fit)
}

fn request_id(path: &str, value: Value) -> Result<String, ApiError> {
    let id = text(path, value)?;
    if is_request_id(&id) {
        return Ok(id);
    }
    let expected = "1 to 64 letters, digits, '-', '_', '.' and ':'";
    Err(ApiError::InvalidValue { param: path.to_owned(), expected, got: quoted(&id) })
}
