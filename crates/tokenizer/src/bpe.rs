//! BPE by merge ranks: byte-level (GPT-2) and over characters (Gemma 4).
//!
//! Text is cut into words by the pre-tokenizer; within a word the pair of neighbours with the
//! lowest rank merges first. The byte-level form works on the bytes themselves: the printable
//! alphabet of the file is decoded when the vocabulary is read.

use std::borrow::Cow;
use std::cmp::Reverse;

use hashbrown::HashMap;

use crate::index::TextIndex;
use crate::merge::Merger;
use crate::pretokenize::PreTokenizer;
use crate::{Error, TokenType, Vocabulary, bytelevel};

/// A vocabulary prepared for encoding.
pub(crate) struct Bpe {
    pre: PreTokenizer,
    /// The bytes of each token, in place of its spelling.
    pieces: Vec<Box<[u8]>>,
    words: TextIndex,
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// The token of each byte alone.
    bytes: [Option<u32>; 256],
    characters: bool,
    ignore_merges: bool,
    unk: Option<u32>,
}

/// A symbol that is no token: it merges with nothing and is spelled out in bytes.
const NONE: u32 = u32::MAX;

impl Bpe {
    pub(crate) fn new(v: &Vocabulary, pre: PreTokenizer, characters: bool) -> Result<Self, Error> {
        let n = v.tokens.len();
        let piece = |id: usize| -> Box<[u8]> {
            let text = &v.tokens[id];
            if characters || !matches!(v.types[id], TokenType::Normal | TokenType::Undefined) {
                return text.as_slice().into();
            }
            let decoded = std::str::from_utf8(text).ok().and_then(bytelevel::decode);
            decoded.unwrap_or_else(|| text.clone()).into()
        };
        let pieces: Vec<Box<[u8]>> = (0..n).map(piece).collect();
        // All tokens for resolving merges, those of plain text for whole words.
        let is_text = |id: &u32| {
            !matches!(v.types[*id as usize], TokenType::Byte) && !v.types[*id as usize].is_special()
        };
        let words = TextIndex::new(&pieces, (0..n as u32).filter(is_text));
        let all = TextIndex::new(&v.tokens, 0..n as u32);

        let mut merges = HashMap::with_capacity(v.merges.len());
        let mut joined = Vec::new();
        for (index, merge) in v.merges.iter().enumerate() {
            let missing = || Error::MergeOfMissingToken { index, merge: merge.clone() };
            // A part may itself begin with a space.
            let cut = merge.bytes().skip(1).position(|b| b == b' ').ok_or_else(missing)? + 1;
            let (left, right) = (&merge.as_bytes()[..cut], &merge.as_bytes()[cut + 1..]);
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let id = |text: &[u8]| all.get(&v.tokens, text).ok_or_else(missing);
            let (pair, whole) = ((id(left)?, id(right)?), id(&joined)?);
            if v.types[whole as usize].is_special() {
                continue; // plain text must not merge into a control token
            }
            merges.entry(pair).or_insert((index as u32, whole));
        }
        let mut bytes = [None; 256];
        for byte in 0..=255u8 {
            bytes[usize::from(byte)] = if characters {
                all.get(&v.tokens, format!("<0x{byte:02X}>").as_bytes())
            } else {
                words.get(&pieces, &[byte])
            };
        }
        Ok(Bpe {
            pre,
            pieces,
            words,
            merges,
            bytes,
            characters,
            ignore_merges: v.ignore_merges,
            unk: v.special.unk,
        })
    }

    /// The bytes of a token of plain text.
    pub(crate) fn piece(&self, id: u32) -> &[u8] {
        &self.pieces[id as usize]
    }

    /// Appends the ids of `text`, which holds no special token.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        let text = if self.characters { Cow::Owned(text.replace(' ', "▁")) } else { text.into() };
        let mut merger = Merger::default();
        let mut failed = None;
        self.pre.words(&text, &mut |word| {
            if let Err(e) = self.word(word, &mut merger, out) {
                failed.get_or_insert(e);
            }
        });
        failed.map_or(Ok(()), Err)
    }

    fn word(
        &self,
        word: &str,
        merger: &mut Merger<Reverse<u32>>,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        // Gemma 4 takes a run of newlines whole, as its special treatment of them demands.
        let newlines = self.characters && word.bytes().all(|b| b == b'\n');
        if (self.ignore_merges || newlines)
            && let Some(id) = self.words.get(&self.pieces, word.as_bytes())
        {
            out.push(id);
            return Ok(());
        }
        merger.clear();
        let id = |bytes: &[u8]| self.words.get(&self.pieces, bytes).unwrap_or(NONE);
        if self.characters {
            for (i, c) in word.char_indices() {
                merger.push(c.len_utf8(), id(&word.as_bytes()[i..][..c.len_utf8()]));
            }
        } else {
            for &byte in word.as_bytes() {
                merger.push(1, self.bytes[usize::from(byte)].unwrap_or(NONE));
            }
        }
        let mut failed = None;
        merger.run(
            word.as_bytes(),
            |pair| self.merges.get(&pair.tags).map(|&(rank, id)| (Reverse(rank), id)),
            |tag, bytes| {
                if tag != NONE {
                    return out.push(tag);
                }
                for &byte in bytes {
                    match self.bytes[usize::from(byte)].or(self.unk) {
                        Some(id) => out.push(id),
                        None => {
                            failed.get_or_insert_with(|| Error::Unencodable {
                                text: String::from_utf8_lossy(bytes).into_owned(),
                            });
                        }
                    }
                }
            },
        );
        failed.map_or(Ok(()), Err)
    }
}
