//! SentencePiece's normalisation: character map, spaces, `▁`.
//!
//! Source: SentencePiece's `normalizer.cc`. The precompiled map is a little-endian length, a
//! double array (darts-clone) of `u32` units over the bytes of what is replaced, and the
//! replacements as NUL-terminated strings. A unit holds its offset in bits 10..31 (shifted by 8
//! more if bit 9 is set), a leaf flag in bit 8 and its label in bits 0..8; a leaf's value is the
//! place of the replacement.

use crate::matcher::Matcher;
use crate::{Error, Vocabulary};

/// The rules of one vocabulary.
pub(crate) struct Normalizer {
    map: Option<Charsmap>,
    /// Pieces that pass unchanged.
    kept: Option<Matcher>,
    remove_extra_whitespaces: bool,
    space: &'static str,
    suffix: bool,
}

impl Normalizer {
    pub(crate) fn new(v: &Vocabulary) -> Result<Self, Error> {
        let map = if v.charsmap.is_empty() { None } else { Some(Charsmap::new(&v.charsmap)?) };
        let user = || v.matched_normalized.clone();
        let kept = map.is_some().then(|| Matcher::new(v, user())).flatten();
        Ok(Normalizer {
            map,
            kept,
            remove_extra_whitespaces: v.remove_extra_whitespaces,
            space: if v.escape_whitespaces { "▁" } else { " " },
            suffix: v.treat_whitespace_as_suffix,
        })
    }

    /// The normalised text; `prefix` says whether it begins as if after a space.
    pub(crate) fn apply(&self, text: &str, prefix: bool) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 4 + 8);
        let mut writer = Writer {
            out: &mut out,
            space: self.space,
            squeeze: self.remove_extra_whitespaces,
            after_space: self.remove_extra_whitespaces,
            // The prefix is written before the first text, so that nothing stays nothing.
            prefix: prefix && !self.suffix,
        };
        let mut done = 0;
        if let Some(kept) = &self.kept {
            for (range, _) in kept.find(text) {
                self.map_into(&text[done..range.start], &mut writer);
                writer.push(&text[range.clone()]);
                done = range.end;
            }
        }
        self.map_into(&text[done..], &mut writer);
        if self.remove_extra_whitespaces {
            while out.ends_with(self.space) {
                out.truncate(out.len() - self.space.len());
            }
        }
        if prefix && self.suffix && !out.is_empty() {
            out.push_str(self.space);
        }
        out
    }

    fn map_into(&self, text: &str, writer: &mut Writer<'_>) {
        let Some(map) = &self.map else { return writer.push(text) };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let used = match map.longest(rest.as_bytes()) {
                // A match that ends within a character is no match.
                Some((len, replacement)) if rest.is_char_boundary(len) => {
                    writer.push(replacement);
                    len
                }
                _ => {
                    writer.push(&rest[..c.len_utf8()]);
                    c.len_utf8()
                }
            };
            rest = &rest[used..];
        }
    }
}

struct Writer<'a> {
    out: &'a mut String,
    space: &'static str,
    squeeze: bool,
    after_space: bool,
    prefix: bool,
}

impl Writer<'_> {
    fn push(&mut self, text: &str) {
        for c in text.chars() {
            let is_space = c == ' ';
            if is_space && self.squeeze && self.after_space {
                continue;
            }
            self.after_space = is_space;
            if std::mem::take(&mut self.prefix) {
                self.out.push_str(self.space);
            }
            if is_space {
                self.out.push_str(self.space);
            } else {
                self.out.push(c);
            }
        }
    }
}

/// The precompiled map.
pub(crate) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// # Errors
    /// [`Error::InvalidCharsmap`].
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, Error> {
        let bad = |fault| Error::InvalidCharsmap { fault };
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| bad("it is too short"))?;
        let len = u32::from_le_bytes(*head) as usize;
        if len > rest.len() || !len.is_multiple_of(4) || len == 0 {
            return Err(bad("its table does not fit"));
        }
        let (table, strings) = rest.split_at(len);
        let units = table.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let replacements = std::str::from_utf8(strings)
            .map_err(|_| bad("its replacements are not UTF-8"))?
            .to_owned();
        Ok(Charsmap { units: units.collect(), replacements })
    }

    /// The length of the longest prefix of `text` that is replaced, and by what.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let unit = |at: u32| self.units.get(at as usize).copied();
        let offset = |u: u32| (u >> 10) << ((u & (1 << 9)) >> 6);
        let mut at = offset(unit(0)?);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            if byte == 0 {
                break;
            }
            at ^= u32::from(byte);
            let Some(u) = unit(at) else { break };
            if u & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            at ^= offset(u);
            if u >> 8 & 1 == 1 {
                let value = unit(at).map(|leaf| (leaf & !(1 << 31)) as usize);
                found = value.map(|v| (i + 1, v)).or(found);
            }
        }
        let (len, start) = found?;
        let replacement = self.replacements.get(start..)?;
        Some((len, replacement.split('\0').next().unwrap_or_default()))
    }
}
