//! Log-probabilities in the forms of the endpoints.

use std::collections::BTreeMap;

use openai_api::{
    ChatLogprob, ChatLogprobs, CompletionLogprobs, OutputLogprob, OutputTopLogprob, PromptLogprob,
    TopLogprob,
};
use tokenizer::Tokenizer;

use crate::engine::TokenInfo;

/// What stands for the logarithm of 0, which JSON has no number for.
const LEAST: f64 = -9999.0;

fn finite(logprob: f64) -> f64 {
    // NaN counts as nothing known.
    if logprob >= LEAST { logprob } else { LEAST }
}

fn bytes(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    tokenizer.token_bytes(token).unwrap_or_default()
}

/// A token's text, unlike any other token's: part of a character is written as OpenAI writes it,
/// `bytes:\xe2\x96`.
pub(crate) fn token_text(tokenizer: &Tokenizer, token: u32) -> String {
    String::from_utf8(bytes(tokenizer, token)).unwrap_or_else(|e| {
        let escaped: String = e.as_bytes().iter().map(|b| format!("\\x{b:02x}")).collect();
        format!("bytes:{escaped}")
    })
}

/// The lists of `/v1/completions`, token by token.
#[derive(Debug)]
pub(crate) struct CompletionLists {
    /// Where the next token begins, in characters.
    offset: usize,
    skip_special: bool,
}

impl CompletionLists {
    /// Lists at the beginning of a text.
    pub(crate) fn new(skip_special: bool) -> Self {
        Self { offset: 0, skip_special }
    }

    /// The tokens of a prompt, whose text is `text`, with `k` others each: the first has no
    /// log-probability.
    pub(crate) fn prompt(
        &mut self,
        tokenizer: &Tokenizer,
        tokens: &[u32],
        found: &[Option<TokenInfo>],
        k: usize,
        text: &str,
    ) -> CompletionLogprobs {
        let mut lists = CompletionLogprobs::default();
        for (&token, info) in tokens.iter().zip(found) {
            let first = self.offset == 0;
            self.push(&mut lists, tokenizer, token, info.as_ref(), k);
            // A vocabulary may write a space before a text.
            if first && self.offset > 0 && !text.starts_with(' ') {
                let space = bytes(tokenizer, token).starts_with(b" ");
                self.offset -= usize::from(space);
            }
        }
        self.offset = text.chars().count();
        lists
    }

    /// More tokens of an answer.
    pub(crate) fn answer(
        &mut self,
        tokenizer: &Tokenizer,
        tokens: &[TokenInfo],
    ) -> CompletionLogprobs {
        let mut lists = CompletionLogprobs::default();
        for info in tokens {
            self.push(&mut lists, tokenizer, info.token, Some(info), info.top.len());
        }
        lists
    }

    fn push(
        &mut self,
        lists: &mut CompletionLogprobs,
        tokenizer: &Tokenizer,
        token: u32,
        info: Option<&TokenInfo>,
        k: usize,
    ) {
        let text = token_text(tokenizer, token);
        lists.text_offset.push(self.offset);
        if !(self.skip_special && tokenizer.is_special(token)) {
            // Characters by their first byte, since a token may be part of one.
            let begins = |b: &&u8| **b & 0xc0 != 0x80;
            self.offset += bytes(tokenizer, token).iter().filter(begins).count();
        }
        let chosen = info.and_then(|i| i.logprob).map(finite);
        lists.token_logprobs.push(chosen);
        lists.top_logprobs.push(info.map(|info| {
            let top = info
                .top
                .iter()
                .take(k)
                .map(|t| (token_text(tokenizer, t.token), finite(t.logprob)));
            let mut top: BTreeMap<String, f64> = top.collect();
            top.extend(chosen.map(|logprob| (text.clone(), logprob)));
            top
        }));
        lists.tokens.push(text);
    }
}

/// Joins lists that follow each other.
pub(crate) fn join(mut first: CompletionLogprobs, then: CompletionLogprobs) -> CompletionLogprobs {
    first.text_offset.extend(then.text_offset);
    first.token_logprobs.extend(then.token_logprobs);
    first.tokens.extend(then.tokens);
    first.top_logprobs.extend(then.top_logprobs);
    first
}

/// The list of `/v1/chat/completions`.
pub(crate) fn chat(tokenizer: &Tokenizer, tokens: &[TokenInfo]) -> ChatLogprobs {
    let of = |info: &TokenInfo| ChatLogprob {
        token: lossy(tokenizer, info.token),
        logprob: finite(info.logprob.unwrap_or(LEAST)),
        bytes: Some(bytes(tokenizer, info.token)),
        top_logprobs: info
            .top
            .iter()
            .map(|t| TopLogprob {
                token: lossy(tokenizer, t.token),
                logprob: finite(t.logprob),
                bytes: Some(bytes(tokenizer, t.token)),
            })
            .collect(),
    };
    ChatLogprobs { content: Some(tokens.iter().map(of).collect()), refusal: None }
}

/// The list of `/v1/responses`.
pub(crate) fn output(tokenizer: &Tokenizer, tokens: &[TokenInfo]) -> Vec<OutputLogprob> {
    let of = |info: &TokenInfo| OutputLogprob {
        token: lossy(tokenizer, info.token),
        logprob: finite(info.logprob.unwrap_or(LEAST)),
        bytes: bytes(tokenizer, info.token),
        top_logprobs: info
            .top
            .iter()
            .map(|t| OutputTopLogprob {
                token: lossy(tokenizer, t.token),
                logprob: finite(t.logprob),
                bytes: bytes(tokenizer, t.token),
            })
            .collect(),
    };
    tokens.iter().map(of).collect()
}

fn lossy(tokenizer: &Tokenizer, token: u32) -> String {
    String::from_utf8_lossy(&bytes(tokenizer, token)).into_owned()
}

/// A prompt's log-probabilities, in vLLM's form: each token's own and the `k` most probable, by id.
pub(crate) fn of_prompt(
    tokenizer: &Tokenizer,
    found: &[Option<TokenInfo>],
    k: usize,
) -> Vec<Option<BTreeMap<u32, PromptLogprob>>> {
    let one = |token, logprob, rank| {
        let decoded_token = lossy(tokenizer, token);
        (token, PromptLogprob { logprob: finite(logprob), rank, decoded_token })
    };
    let of = |info: &TokenInfo| {
        let ranked = info.top.iter().take(k).enumerate();
        let mut all: BTreeMap<u32, PromptLogprob> =
            ranked.map(|(i, t)| one(t.token, t.logprob, i + 1)).collect();
        if let (Some(logprob), Some(rank)) = (info.logprob, info.rank) {
            all.extend([one(info.token, logprob, rank + 1)]);
        }
        all
    };
    found.iter().map(|info| info.as_ref().map(of)).collect()
}
