//! From what a request says to what the engine is asked for.

use openai_api::{ApiError, GenerationOptions};
use sampling::SamplingParams;
use tokenizer::{EncodeOptions, Tokenizer};

use super::context::ModelContext;
use crate::engine::{GenerationRequest, Search, StopConditions, Tenant};

/// The engine's request for a prompt.
///
/// `limit` is the most tokens of an answer, `logprobs` how many others are wanted beside each token.
/// The constraint of a structure is compiled here.
pub(crate) fn generation(
    options: &GenerationOptions,
    context: &ModelContext,
    tenant: Tenant,
    limit: Option<usize>,
    logprobs: Option<usize>,
) -> Result<GenerationRequest, ApiError> {
    let tokenizer = &*context.tokenizer;
    let constraint = options.structure()?.map(|s| context.structure(s)).transpose()?;
    if let Some(allowed) = &options.allowed_token_ids {
        known(tokenizer, "allowed_token_ids", allowed)?;
    }
    known(tokenizer, "stop_token_ids", options.stop_token_ids.as_deref().unwrap_or_default())?;
    let mut request = GenerationRequest::new(Vec::new());
    request.search = search(options);
    request.sampling = sampling(options, tokenizer)?;
    request.stop = StopConditions {
        max_tokens: limit,
        min_tokens: options.min_tokens.unwrap_or(0),
        strings: options.stop.clone().unwrap_or_default(),
        tokens: options.stop_token_ids.clone().unwrap_or_default(),
        ignore_eos: options.ignore_eos.unwrap_or(false),
        include_stop: options.include_stop_str_in_output.unwrap_or(false),
    };
    request.logprobs = logprobs;
    request.prompt_logprobs = options.prompt_logprobs;
    request.allowed_tokens = options.allowed_token_ids.clone();
    request.bad_words = bad_words(options.bad_words.as_deref().unwrap_or_default(), tokenizer)?;
    request.constraint = constraint;
    request.priority = options.priority.unwrap_or(0) as i32;
    request.tenant = tenant;
    request.cache_salt = options.cache_salt.clone();
    request.skip_special_tokens = options.skip_special_tokens.unwrap_or(true);
    Ok(request)
}

fn search(options: &GenerationOptions) -> Search {
    let n = options.answers();
    let width = options.best_of.unwrap_or(n);
    if options.use_beam_search == Some(true) {
        Search::Beam { n, width, length_penalty: options.length_penalty.unwrap_or(1.0) }
    } else {
        Search::Sample { n, best_of: width }
    }
}

fn sampling(
    options: &GenerationOptions,
    tokenizer: &Tokenizer,
) -> Result<SamplingParams, ApiError> {
    let or = |value: Option<f64>, otherwise: f32| value.map_or(otherwise, |v| v as f32);
    let bias = options.logit_bias.iter().flatten();
    let logit_bias: Vec<(u32, f32)> = bias.map(|(&token, &b)| (token, b as f32)).collect();
    let biased: Vec<u32> = logit_bias.iter().map(|&(token, _)| token).collect();
    known(tokenizer, "logit_bias", &biased)?;
    let usual = SamplingParams::default();
    Ok(SamplingParams {
        temperature: or(options.temperature, usual.temperature),
        top_k: options.top_k.unwrap_or(usual.top_k),
        top_p: or(options.top_p, usual.top_p),
        min_p: or(options.min_p, usual.min_p),
        typical_p: or(options.typical_p, usual.typical_p),
        repetition_penalty: or(options.repetition_penalty, usual.repetition_penalty),
        presence_penalty: or(options.presence_penalty, usual.presence_penalty),
        frequency_penalty: or(options.frequency_penalty, usual.frequency_penalty),
        logit_bias,
        seed: options.seed.map(i64::cast_unsigned),
        ..usual
    })
}

/// Refuses tokens that the vocabulary does not have.
pub(crate) fn known(tokenizer: &Tokenizer, param: &str, tokens: &[u32]) -> Result<(), ApiError> {
    let vocab_size = tokenizer.vocab_size();
    match tokens.iter().find(|&&t| t as usize >= vocab_size) {
        Some(token) => {
            let reason = format!("token {token} is not in the vocabulary of {vocab_size}");
            Err(ApiError::Rejected { param: param.to_owned(), reason })
        }
        None => Ok(()),
    }
}

/// The tokens of each word, at the beginning of a word and within one.
fn bad_words(words: &[String], tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, ApiError> {
    let mut sequences = Vec::new();
    for word in words {
        for text in [word.clone(), format!(" {}", word.trim_start())] {
            let ids = encode(tokenizer, &text, EncodeOptions::default(), "bad_words")?;
            if !ids.is_empty() && !sequences.contains(&ids) {
                sequences.push(ids);
            }
        }
    }
    Ok(sequences)
}

/// The ids of a text.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    options: EncodeOptions,
    param: &str,
) -> Result<Vec<u32>, ApiError> {
    tokenizer
        .encode(text, options)
        .map_err(|e| ApiError::Rejected { param: param.to_owned(), reason: e.to_string() })
}

/// Keeps the last tokens of a prompt.
pub(crate) fn truncate(prompt: &mut Vec<u32>, keep: Option<usize>) {
    if let Some(keep) = keep {
        prompt.drain(..prompt.len().saturating_sub(keep));
    }
}
