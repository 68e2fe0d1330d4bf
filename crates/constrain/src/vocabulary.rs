//! A tokenizer's vocabulary as the parser sees it: bytes a token, in a trie.

use std::sync::Arc;

use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use tokenizer::Tokenizer;

use crate::ConstrainError;

/// Tokens that are longer than a path in the trie may be are left out.
const LONGEST: usize = 1000;

/// Which ids are tokens, and which end a text.
#[derive(Debug)]
pub(crate) struct TokenTable {
    /// Ids that are tokens: `0..size`.
    pub(crate) size: usize,
    /// Ids that end a generation, ascending.
    pub(crate) eog: Vec<u32>,
}

/// The trie of all tokens that can be part of a text, and the table beside it.
///
/// # Errors
/// [`ConstrainError::Vocabulary`].
pub(crate) fn token_env(tokenizer: &Tokenizer) -> Result<(TokEnv, TokenTable), ConstrainError> {
    let size = tokenizer.vocab_size();
    let mut words: Vec<Vec<u8>> = (0..size as u32).map(|id| spelling(tokenizer, id)).collect();
    // Looking for special tokens wants at least one under the marker; behind the vocabulary it can
    // never be chosen.
    words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], b"<>".as_slice()].concat());
    let eog = tokenizer.eog_ids().to_vec();
    let info = TokRxInfo::new(words.len() as u32, eog.first().copied().unwrap_or(INVALID_TOKEN));
    let trie = catch_unwind(|| {
        let trie = TokTrie::from(&info, &words);
        Ok(if eog.is_empty() { trie } else { trie.with_eos_tokens(&eog) })
    });
    let bytes = words.iter().map(Vec::len).sum();
    let trie = trie.map_err(|_| ConstrainError::Vocabulary { tokens: size, bytes })?;
    Ok((Arc::new(ApproximateTokEnv::new(trie)), TokenTable { size, eog }))
}

/// The bytes that `id` puts into a text; none for what cannot be part of one.
///
/// A SentencePiece token's `▁` is a space even at the start, since what is generated continues a
/// prompt. Bytes that no UTF-8 text holds (0xFF first) mean something else to the parser.
fn spelling(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    if tokenizer.is_special(id) || tokenizer.is_eog(id) {
        return Vec::new();
    }
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let text = bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) && bytes.len() <= LONGEST;
    if text { bytes } else { Vec::new() }
}
