//! Unigram: the segmentation with the highest sum of scores, by Viterbi over the text.
//!
//! Source: SentencePiece's `unigram_model.cc` (`EncodeOptimized`) with sums in double precision, as
//! Hugging Face and llama.cpp hold them. A character that no piece covers is unknown, ten below
//! the worst score.

use crate::index::TextIndex;
use crate::segments::{encode_each, separable};
use crate::spm::ByteTokens;
use crate::{Error, TokenType, Vocabulary};

/// Longer pieces are not looked for, which bounds the work per character (SentencePiece trains
/// pieces of at most 16 characters).
const MAX_PIECE: usize = 1024;
const UNKNOWN_PENALTY: f64 = 10.0;

/// A vocabulary prepared for encoding: its pieces in the order of their bytes are the trie.
pub(crate) struct Unigram {
    sorted: Vec<u32>,
    /// Where the pieces that begin with each byte lie in `sorted`.
    first: Vec<u32>,
    /// Words can be encoded one by one.
    separable: bool,
    bytes: Option<ByteTokens>,
    unknown_score: f64,
    max_score: f64,
}

#[derive(Clone, Copy)]
struct Best {
    score: f64,
    start: u32,
    id: u32,
}

const UNKNOWN: u32 = u32::MAX;

impl Unigram {
    pub(crate) fn new(v: &Vocabulary) -> Result<Self, Error> {
        let of_text = |id: &u32| {
            let kind = v.types[*id as usize];
            let len = v.tokens[*id as usize].len();
            matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Unused)
                && (1..=MAX_PIECE).contains(&len)
        };
        let text = |id: &u32| v.tokens[*id as usize].as_slice();
        let mut sorted: Vec<u32> = (0..v.tokens.len() as u32).filter(of_text).collect();
        sorted.sort_by(|a, b| text(a).cmp(text(b)).then(a.cmp(b)));
        sorted.dedup_by(|a, b| text(a) == text(b));
        let first = (0..=256u32)
            .map(|byte| sorted.partition_point(|id| u32::from(text(id)[0]) < byte) as u32)
            .collect();
        let normal = || {
            (0..v.tokens.len() as u32)
                .filter(|&id| v.types[id as usize] == TokenType::Normal)
                .map(|id| f64::from(v.score(id)))
        };
        let bytes = ByteTokens::new(v)?;
        Ok(Unigram {
            sorted,
            first,
            separable: separable(v),
            bytes: bytes.complete().then_some(bytes),
            unknown_score: normal().fold(f64::INFINITY, f64::min) - UNKNOWN_PENALTY,
            max_score: normal().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// Appends the ids of normalised text.
    pub(crate) fn encode(
        &self,
        v: &Vocabulary,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if self.separable {
            return encode_each(text, v.special.unk, out, |t, out| self.best(v, t, out));
        }
        self.best(v, text, out)
    }

    fn best(&self, v: &Vocabulary, text: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        let bytes = text.as_bytes();
        let none = Best { score: f64::NEG_INFINITY, start: 0, id: UNKNOWN };
        let mut best = vec![none; bytes.len() + 1];
        best[0].score = 0.0;
        for (at, c) in text.char_indices() {
            let base = best[at].score;
            let mut offer = |end: usize, score: f64, id: u32| {
                if base + score > best[end].score || best[end].score == f64::NEG_INFINITY {
                    best[end] = Best { score: base + score, start: at as u32, id };
                }
            };
            let mut alone = false;
            self.prefixes(v, &bytes[at..], |len, id| {
                if !text.is_char_boundary(at + len) {
                    return;
                }
                alone |= len == c.len_utf8();
                let score = if v.kind(id) == TokenType::UserDefined {
                    text[at..at + len].chars().count() as f64 * self.max_score - 0.1
                } else {
                    f64::from(v.score(id))
                };
                offer(at + len, score, id);
            });
            if !alone {
                offer(at + c.len_utf8(), self.unknown_score, UNKNOWN);
            }
        }
        let mut cuts = Vec::new();
        let mut end = bytes.len();
        while end > 0 {
            let Best { start, id, .. } = best[end];
            cuts.push((start as usize..end, id));
            end = start as usize;
        }
        for (range, id) in cuts.into_iter().rev() {
            match (&self.bytes, id) {
                (Some(fallback), UNKNOWN) => fallback.spell(v, &bytes[range], out)?,
                (None, UNKNOWN) => {
                    let unk = v.special.unk.ok_or_else(|| Error::Unencodable {
                        text: text[range.clone()].to_owned(),
                    })?;
                    // Neighbouring unknown characters are one unknown token.
                    if out.last() != Some(&unk) {
                        out.push(unk);
                    }
                }
                (_, id) => out.push(id),
            }
        }
        Ok(())
    }

    /// Calls `found` with the length and id of each piece that `text` begins with.
    fn prefixes(&self, v: &Vocabulary, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let Some(&byte) = text.first() else { return };
        let byte = usize::from(byte);
        let mut range = &self.sorted[self.first[byte] as usize..self.first[byte + 1] as usize];
        let piece = |id: u32| v.tokens[id as usize].as_slice();
        for depth in 1..=text.len().min(MAX_PIECE) {
            // All in `range` share the first `depth` bytes with the text; the shortest comes first.
            let Some((&id, rest)) = range.split_first() else { return };
            if piece(id).len() == depth {
                found(depth, id);
                range = rest;
            }
            let Some(&next) = text.get(depth) else { return };
            let low = range.partition_point(|&id| piece(id)[depth] < next);
            range = &range[low..];
            let high = range.partition_point(|&id| piece(id)[depth] == next);
            range = &range[..high];
        }
    }
}

/// The longest match over the bytes of the text (RWKV's "trie" tokenizer).
pub(crate) struct Greedy {
    pieces: Vec<Box<[u8]>>,
    index: TextIndex,
    longest: usize,
}

impl Greedy {
    pub(crate) fn new(v: &Vocabulary) -> Self {
        let pieces: Vec<Box<[u8]>> = v.tokens.iter().map(|t| unescape(t).into()).collect();
        let longest = pieces.iter().map(|p| p.len()).max().unwrap_or(0).min(MAX_PIECE);
        let of_text =
            |id: &u32| !v.types[*id as usize].is_special() && !pieces[*id as usize].is_empty();
        let index = TextIndex::new(&pieces, (0..v.tokens.len() as u32).filter(of_text));
        Greedy { pieces, index, longest }
    }

    /// The bytes of a token.
    pub(crate) fn piece(&self, id: u32) -> &[u8] {
        &self.pieces[id as usize]
    }

    /// Appends the ids of `text`.
    pub(crate) fn encode(
        &self,
        v: &Vocabulary,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let longest = self.longest.min(rest.len());
            let hit = (1..=longest)
                .rev()
                .find_map(|len| self.index.get(&self.pieces, &rest[..len]).map(|id| (len, id)));
            let (len, id) = match (hit, v.special.unk) {
                (Some(hit), _) => hit,
                (None, Some(unk)) => (1, unk),
                (None, None) => {
                    return Err(Error::Unencodable {
                        text: String::from_utf8_lossy(&rest[..1]).into_owned(),
                    });
                }
            };
            out.push(id);
            rest = &rest[len..];
        }
        Ok(())
    }
}

/// RWKV writes tokens with `\t`, `\n`, `\r` and `\xHH`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b != b'\\' {
            out.push(b);
            continue;
        }
        let Some((&b, tail)) = rest.split_first() else { break };
        rest = tail;
        match b {
            b't' => out.push(b'\t'),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b'x' => {
                let digits: Vec<u8> = rest.iter().take(2).copied().collect();
                let value =
                    std::str::from_utf8(&digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
                if let Some(value) = value.filter(|_| digits.len() == 2) {
                    out.push(value);
                    rest = &rest[2..];
                }
            }
            other => out.push(other),
        }
    }
    out
}
