//! Cutting SentencePiece text where no piece can reach across.
//!
//! Nearly every vocabulary has `▁` only at the beginning of pieces. Then no piece spans the border
//! between a word and the `▁` that follows, so words can be encoded one by one, with the same
//! result as the whole text, and each distinct word only once.

use std::collections::HashMap;

use crate::{Error, TokenType, Vocabulary};

const MARK: char = '▁';
/// Words that are remembered within one text.
const REMEMBERED: usize = 1 << 16;

/// Whether no piece of text holds a `▁` behind another character.
pub(crate) fn separable(v: &Vocabulary) -> bool {
    let spans = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        segments(&text).nth(1).is_some()
    };
    (0..v.tokens.len()).all(|id| {
        v.types[id].is_special() || v.types[id] == TokenType::Byte || !spans(&v.tokens[id])
    })
}

/// The text cut before each `▁` that follows another character.
fn segments(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut after_word = false;
        let end = rest
            .char_indices()
            .find(|&(_, c)| {
                let border = c == MARK && after_word;
                after_word = c != MARK;
                border
            })
            .map_or(rest.len(), |(i, _)| i);
        let (segment, tail) = rest.split_at(end);
        rest = tail;
        (!segment.is_empty()).then_some(segment)
    })
}

/// Encodes `text` segment by segment with `encode`, each distinct one once. Neighbouring unknown
/// tokens are one, as within a segment.
pub(crate) fn encode_each(
    text: &str,
    unk: Option<u32>,
    out: &mut Vec<u32>,
    mut encode: impl FnMut(&str, &mut Vec<u32>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut known: HashMap<&str, Vec<u32>> = HashMap::new();
    let mut fresh = Vec::new();
    for segment in segments(text) {
        let ids = match known.get(segment) {
            Some(ids) => ids,
            None => {
                fresh.clear();
                encode(segment, &mut fresh)?;
                if known.len() < REMEMBERED {
                    known.entry(segment).or_insert(fresh.clone())
                } else {
                    &fresh
                }
            }
        };
        let joined = unk.is_some() && out.last().copied() == unk && ids.first().copied() == unk;
        out.extend_from_slice(&ids[usize::from(joined)..]);
    }
    Ok(())
}
