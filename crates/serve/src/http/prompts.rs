//! Prompts of `/v1/completions` and inputs of `/v1/embeddings` as tokens.

use openai_api::{ApiError, PromptInput};
use tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

use super::options::{encode, known};

/// A prompt, as the model takes it and, where it was given as text, as it was given.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    text: Option<String>,
}

impl Prompt {
    /// Its text.
    pub(crate) fn text(&self, tokenizer: &Tokenizer) -> Result<String, ApiError> {
        match &self.text {
            Some(text) => Ok(text.clone()),
            None => tokenizer
                .decode(&self.tokens, DecodeOptions { skip_special: true, continues: false })
                .map_err(|e| ApiError::Rejected { param: "prompt".into(), reason: e.to_string() }),
        }
    }

    /// Keeps its last tokens.
    pub(crate) fn truncate(&mut self, keep: Option<usize>) {
        let before = self.tokens.len();
        super::options::truncate(&mut self.tokens, keep);
        if self.tokens.len() < before {
            self.text = None;
        }
    }
}

/// The prompts of a request, at most `most`.
pub(crate) fn prompts(
    input: PromptInput,
    tokenizer: &Tokenizer,
    add_special: bool,
    most: usize,
    param: &'static str,
) -> Result<Vec<Prompt>, ApiError> {
    if input.len() > most {
        return Err(ApiError::LengthOutOfRange {
            param: param.to_owned(),
            minimum: 1,
            maximum: most,
            unit: "prompts",
            got: input.len(),
        });
    }
    let options = EncodeOptions { add_special, parse_special: false };
    let of_text = |text: String| {
        let tokens = encode(tokenizer, &text, options, param)?;
        Ok(Prompt { tokens, text: Some(text) })
    };
    let of_tokens = |tokens: Vec<u32>| {
        known(tokenizer, param, &tokens)?;
        Ok(Prompt { tokens, text: None })
    };
    match input {
        PromptInput::Text(text) => of_text(text).map(|p| vec![p]),
        PromptInput::Texts(texts) => texts.into_iter().map(of_text).collect(),
        PromptInput::Tokens(tokens) => of_tokens(tokens).map(|p| vec![p]),
        PromptInput::TokenLists(lists) => lists.into_iter().map(of_tokens).collect(),
    }
}

/// A prompt for the gap between two texts: prefix, suffix, then the answer (Bavarian et al. 2022,
/// "Efficient Training of Language Models to Fill in the Middle", the order PSM).
pub(crate) fn gap(
    prefix: &str,
    suffix: &str,
    tokenizer: &Tokenizer,
    model: &str,
) -> Result<Prompt, ApiError> {
    let fim = &tokenizer.special_ids().fim;
    let (Some(before), Some(after), Some(middle)) = (fim.prefix, fim.suffix, fim.middle) else {
        let model = model.to_owned();
        return Err(ApiError::NotSupportedByModel { model, what: "'suffix'" });
    };
    let plain = EncodeOptions::default();
    let mut tokens: Vec<u32> = Vec::new();
    if tokenizer.add_bos() {
        tokens.extend(tokenizer.bos());
    }
    tokens.push(before);
    tokens.extend(encode(tokenizer, prefix, plain, "prompt")?);
    tokens.push(after);
    tokens.extend(encode(tokenizer, suffix, plain, "suffix")?);
    tokens.push(middle);
    Ok(Prompt { tokens, text: Some(prefix.to_owned()) })
}
