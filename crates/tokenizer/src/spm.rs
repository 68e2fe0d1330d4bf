//! SentencePiece BPE: neighbours merge where the result is a token, the highest score first.
//!
//! Source: SentencePiece's `bpe_model.cc` and llama.cpp's `llm_tokenizer_spm`. What no token covers
//! is spelled in byte tokens, or is the unknown token. Control, unknown and byte tokens never come
//! out of a merge.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;

use crate::index::TextIndex;
use crate::matcher::Matcher;
use crate::merge::Merger;
use crate::segments::{encode_each, separable};
use crate::{Error, TokenType, Vocabulary};

/// A score as priority: finite or not, the order is total.
#[derive(Clone, Copy, PartialEq)]
struct Score(f32);

impl Eq for Score {}
impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What encoding needs beside the vocabulary.
pub(crate) struct Spm {
    words: TextIndex,
    bytes: ByteTokens,
    /// Words can be encoded one by one.
    separable: bool,
    /// User-defined pieces that are matched in normalised text.
    whole: Option<Matcher>,
}

impl Spm {
    pub(crate) fn new(v: &Vocabulary) -> Result<Self, Error> {
        let pieces = (0..v.tokens.len() as u32).filter(|&id| {
            !v.types[id as usize].is_special() && v.types[id as usize] != TokenType::Byte
        });
        let whole = Matcher::new(v, v.matched_normalized.clone());
        Ok(Spm {
            words: TextIndex::new(&v.tokens, pieces),
            bytes: ByteTokens::new(v)?,
            separable: separable(v),
            whole,
        })
    }

    /// Appends the ids of normalised text.
    pub(crate) fn encode(
        &self,
        v: &Vocabulary,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let Some(whole) = &self.whole else { return self.merge(v, text, out) };
        let mut done = 0;
        for (range, id) in whole.find(text) {
            self.merge(v, &text[done..range.start], out)?;
            out.push(id);
            done = range.end;
        }
        self.merge(v, &text[done..], out)
    }

    fn merge(&self, v: &Vocabulary, text: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        if self.separable {
            return encode_each(text, v.special.unk, out, |t, out| self.merge_all(v, t, out));
        }
        self.merge_all(v, text, out)
    }

    fn merge_all(&self, v: &Vocabulary, text: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        let mut merger = Merger::default();
        for c in text.chars() {
            merger.push(c.len_utf8(), 0);
        }
        // How each unused piece came about, to take it apart again.
        let made = RefCell::new(HashMap::new());
        let mut left = Vec::new();
        merger.run(
            text.as_bytes(),
            |pair| {
                let id = self.words.get(&v.tokens, pair.both)?;
                if v.kind(id) == TokenType::Unused {
                    made.borrow_mut().insert(id, pair.left_len);
                }
                // + 0.0 makes the two zeros equal
                Some((Score(v.score(id) + 0.0), id))
            },
            |_, piece| left.push(piece),
        );
        let made = made.into_inner();
        for piece in left {
            let mut parts = vec![piece];
            while let Some(part) = parts.pop() {
                match self.words.get(&v.tokens, part) {
                    Some(id) => match made.get(&id).filter(|_| v.kind(id) == TokenType::Unused) {
                        Some(&cut) => parts.extend([&part[cut..], &part[..cut]]),
                        None => out.push(id),
                    },
                    None => self.bytes.spell(v, part, out)?,
                }
            }
        }
        Ok(())
    }
}

/// The tokens of type BYTE.
pub(crate) struct ByteTokens([Option<u32>; 256]);

impl ByteTokens {
    /// # Errors
    /// [`Error::InvalidByteToken`] for a text like `<0x-1>`.
    pub(crate) fn new(v: &Vocabulary) -> Result<Self, Error> {
        let mut table = [None; 256];
        for id in 0..v.tokens.len() as u32 {
            if v.types[id as usize] == TokenType::Byte {
                table[usize::from(byte_of(v, id)?)] = Some(id);
            }
        }
        Ok(ByteTokens(table))
    }

    /// Whether every byte has a token.
    pub(crate) fn complete(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }

    /// Appends `bytes` one token each, or the unknown token for all of them where one is missing.
    pub(crate) fn spell(
        &self,
        v: &Vocabulary,
        bytes: &[u8],
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let start = out.len();
        for &byte in bytes {
            match self.0[usize::from(byte)] {
                Some(id) => out.push(id),
                None => {
                    out.truncate(start);
                    let unk = v.special.unk.ok_or_else(|| Error::Unencodable {
                        text: String::from_utf8_lossy(bytes).into_owned(),
                    })?;
                    // SentencePiece makes one unknown token of neighbouring unknown pieces.
                    if out.last() != Some(&unk) {
                        out.push(unk);
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The byte that a token of type BYTE stands for.
pub(crate) fn byte_of(v: &Vocabulary, id: u32) -> Result<u8, Error> {
    let bad = || Error::InvalidByteToken { id, text: v.text(id).into_owned() };
    match v.tokens[id as usize].as_slice() {
        [b'<', b'0', b'x', high, low, b'>'] => {
            let digit = |b: &u8| (*b as char).to_digit(16).ok_or_else(bad);
            Ok((digit(high)? * 16 + digit(low)?) as u8)
        }
        _ => Err(bad()),
    }
}
