//! Finding tokens that are kept whole, the leftmost and of those the longest.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::Vocabulary;

/// A set of tokens and the automaton that finds them in one pass over a text.
pub(crate) struct Matcher {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Matcher {
    /// A matcher for the texts of `ids`; `None` if there is nothing to find.
    pub(crate) fn new(v: &Vocabulary, ids: Vec<u32>) -> Option<Self> {
        // A token that is not UTF-8 or empty cannot be met in text.
        let ids: Vec<u32> = ids
            .into_iter()
            .filter(|&id| {
                let text = &v.tokens[id as usize];
                !text.is_empty() && std::str::from_utf8(text).is_ok()
            })
            .collect();
        if ids.is_empty() {
            return None;
        }
        let texts = ids.iter().map(|&id| &v.tokens[id as usize]);
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(aho_corasick::AhoCorasickKind::ContiguousNFA))
            .build(texts)
            .map_err(|e| tracing::warn!("special tokens cannot be matched: {e}"))
            .ok()?;
        Some(Matcher { automaton, ids })
    }

    /// Where which token stands in `text`, in order.
    pub(crate) fn find(&self, text: &str) -> impl Iterator<Item = (Range<usize>, u32)> {
        self.automaton.find_iter(text).map(|m| (m.range(), self.ids[m.pattern().as_usize()]))
    }
}

/// A set of texts that are found wherever they stand, within one another too.
pub(crate) struct Overlapping {
    automaton: AhoCorasick,
    texts: Vec<String>,
}

impl Overlapping {
    /// `None` if there is nothing to find.
    pub(crate) fn new<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let texts: Vec<String> = texts
            .filter_map(|t| std::str::from_utf8(t).ok())
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
            .collect();
        let automaton = AhoCorasick::builder()
            .kind(Some(aho_corasick::AhoCorasickKind::ContiguousNFA))
            .build(&texts)
            .ok()?;
        (!texts.is_empty()).then_some(Overlapping { automaton, texts })
    }

    /// Where the texts stand.
    pub(crate) fn find_overlapping(&self, text: &str) -> impl Iterator<Item = Range<usize>> {
        self.automaton.find_overlapping_iter(text).map(|m| m.range())
    }

    /// Whether one of them might begin in `text` and end beyond it.
    pub(crate) fn ends_within(&self, text: &str) -> bool {
        let begins = |t: &String| t.char_indices().skip(1).any(|(i, _)| text.ends_with(&t[..i]));
        self.texts.iter().any(begins)
    }

    /// Whether one of them might begin before `text` and end in it.
    pub(crate) fn begins_within(&self, text: &str) -> bool {
        let ends = |t: &String| t.char_indices().skip(1).any(|(i, _)| text.starts_with(&t[i..]));
        self.texts.iter().any(ends)
    }
}
