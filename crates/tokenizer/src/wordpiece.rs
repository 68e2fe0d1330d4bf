//! WordPiece: words by white space and punctuation, each spelled by its longest pieces.
//!
//! Source: BERT's `tokenization.py` as Hugging Face's `BertNormalizer` and `BertPreTokenizer` do
//! it. Pieces that begin a word carry `▁`, as in GGUF files; others carry nothing.

use unicode_general_category::{GeneralCategory as Category, get_general_category as category};
use unicode_normalization::UnicodeNormalization;

use crate::index::TextIndex;
use crate::{Error, Vocabulary};

/// Longer words are unknown (BERT's `max_input_chars_per_word`).
const MAX_CHARS: usize = 100;

/// A vocabulary prepared for encoding.
pub(crate) struct WordPiece {
    words: TextIndex,
    longest: usize,
}

impl WordPiece {
    pub(crate) fn new(v: &Vocabulary) -> Self {
        let pieces = (0..v.tokens.len() as u32).filter(|&id| !v.types[id as usize].is_special());
        let longest = v.tokens.iter().map(Vec::len).max().unwrap_or(0);
        WordPiece { words: TextIndex::new(&v.tokens, pieces), longest }
    }

    /// Appends the ids of `text`, which holds no special token.
    pub(crate) fn encode(
        &self,
        v: &Vocabulary,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let normal = normalize(text, v.lowercase, v.strip_accents);
        for word in normal.split_whitespace() {
            let mut start = 0;
            for (i, c) in word.char_indices().filter(|&(_, c)| is_punctuation(c)) {
                self.word(v, &word[start..i], out)?;
                start = i + c.len_utf8();
                self.word(v, &word[i..start], out)?;
            }
            self.word(v, &word[start..], out)?;
        }
        Ok(())
    }

    fn word(&self, v: &Vocabulary, word: &str, out: &mut Vec<u32>) -> Result<(), Error> {
        if word.is_empty() {
            return Ok(());
        }
        let before = out.len();
        let marked = format!("▁{word}");
        let mut rest = marked.as_str();
        if word.chars().count() > MAX_CHARS {
            rest = "";
        }
        while !rest.is_empty() {
            let ends = rest.char_indices().map(|(i, c)| i + c.len_utf8());
            let fitting: Vec<usize> = ends.take_while(|&end| end <= self.longest).collect();
            let longest = fitting.into_iter().rev().find_map(|end| {
                self.words.get(&v.tokens, &rest.as_bytes()[..end]).map(|id| (end, id))
            });
            let Some((end, id)) = longest else {
                out.truncate(before);
                break;
            };
            out.push(id);
            rest = &rest[end..];
        }
        if out.len() == before {
            let unk = v.special.unk;
            out.push(unk.ok_or_else(|| Error::Unencodable { text: word.to_owned() })?);
        }
        Ok(())
    }
}

fn normalize(text: &str, lowercase: bool, strip_accents: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' | '\n' | '\r' => clean.push(' '),
            '\0' | '\u{FFFD}' => {}
            c if is_other(c) => {}
            c if c.is_whitespace() => clean.push(' '),
            c if is_ideograph(c) => clean.extend([' ', c, ' ']),
            c => clean.push(c),
        }
    }
    if strip_accents {
        clean = clean.nfd().filter(|&c| category(c) != Category::NonspacingMark).collect();
    }
    if lowercase { clean.chars().flat_map(char::to_lowercase).collect() } else { clean }
}

fn is_other(c: char) -> bool {
    use Category::*;
    matches!(category(c), Control | Format | Surrogate | PrivateUse)
}

fn is_punctuation(c: char) -> bool {
    use Category::*;
    c.is_ascii_punctuation()
        || matches!(
            category(c),
            ConnectorPunctuation
                | DashPunctuation
                | OpenPunctuation
                | ClosePunctuation
                | InitialPunctuation
                | FinalPunctuation
                | OtherPunctuation
        )
}

/// CJK ideographs, each a word of its own. The fifth range begins at U+2B920 in Hugging Face's
/// code, which is what models were trained with.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}
