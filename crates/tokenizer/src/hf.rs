//! Hugging Face's `tokenizer.json`, through the crate `tokenizers`.
//!
//! The crate encodes. What it would do wrong for us is done here: special tokens in plain text are
//! text (it matches them wherever they stand), several texts with different rights are encoded as
//! one, and decoding is incremental. Its panics over malformed files become errors.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::normalizer::Range as Span;
use tokenizers::{
    Encoding, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer,
    Token,
};

use crate::tokenizer::{space_spelling, word_spelling};
use crate::{
    DecodeOptions, Error, TokenType, Tokenizer, Vocabulary, VocabularyModel, bytelevel, folder,
};

/// A tokenizer of the crate, and how its tokens spell text.
pub(crate) struct HuggingFace {
    path: PathBuf,
    /// Takes special tokens in text for text.
    plain: tokenizers::Tokenizer,
    /// Recognises them; made when first asked for.
    parsing: OnceLock<tokenizers::Tokenizer>,
    spelling: Spelling,
}

/// How the tokens of a decoder spell text.
#[derive(Clone, Debug, PartialEq)]
enum Spelling {
    /// GPT-2's alphabet.
    ByteLevel,
    /// `▁` for spaces, perhaps bytes, perhaps a first space that goes.
    Spaces { strip: bool },
    /// A prefix for continuations, spaces between words.
    WordPiece { prefix: String, cleanup: bool },
    /// Something else: only the crate knows.
    Other,
}

fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Error::HuggingFace),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            Err(Error::HuggingFacePanic { reason: text.unwrap_or("it panicked").to_owned() })
        }
    }
}

impl HuggingFace {
    /// Reads a `tokenizer.json`, and its tokens as a vocabulary without scores and merges.
    pub(crate) fn read(path: &Path) -> Result<(Self, Vocabulary), Error> {
        let bytes = folder::read(path)?;
        let mut plain = guarded(|| tokenizers::Tokenizer::from_bytes(&bytes))?;
        guarded(|| plain.with_truncation(None).map(|_| ()))?;
        plain.with_padding(None);
        plain.set_encode_special_tokens(true);
        let decoder = serde_json::to_value(plain.get_decoder()).unwrap_or(Value::Null);
        let spelling = spelling_of(&decoder);
        let vocab = vocabulary(&plain, &spelling, has_bytes(&decoder))?;
        let path = path.to_owned();
        Ok((HuggingFace { path, plain, parsing: OnceLock::new(), spelling }, vocab))
    }

    /// The file as JSON, for what the crate does not give away.
    pub(crate) fn json(&self) -> Result<Value, Error> {
        let file = || "tokenizer.json".to_owned();
        serde_json::from_slice(&folder::read(&self.path)?)
            .map_err(|source| Error::Json { file: file(), source })
    }

    pub(crate) fn crate_tokenizer(&self) -> &tokenizers::Tokenizer {
        &self.plain
    }

    /// Finds out what the post-processor adds.
    pub(crate) fn rules(&self, v: &mut Vocabulary) {
        let around = guarded(|| self.plain.encode_fast("", true));
        let ids = around.map(|e| e.get_ids().to_vec()).unwrap_or_default();
        let is = |id: Option<&u32>, role: Option<u32>| role.is_some() && id.copied() == role;
        v.add_bos = is(ids.first(), v.special.bos);
        let last = ids.get(usize::from(v.add_bos)..).and_then(<[u32]>::last);
        v.add_eos = is(last, v.special.eos);
        if v.model == VocabularyModel::WordPiece {
            // What closes a sequence is the separator, whatever the configuration calls it.
            v.special.sep = v.special.sep.or(last.copied());
        }
        v.add_sep = is(last, v.special.sep);
    }

    fn parsing(&self) -> &tokenizers::Tokenizer {
        self.parsing.get_or_init(|| {
            let mut parsing = self.plain.clone();
            parsing.set_encode_special_tokens(false);
            parsing
        })
    }

    pub(crate) fn encode_parts(
        &self,
        t: &Tokenizer,
        parts: &[(&str, bool)],
        add_special: bool,
    ) -> Result<Vec<u32>, Error> {
        let whole: String = parts.iter().map(|(text, _)| *text).collect();
        let parse: Vec<bool> =
            parts.iter().filter(|(text, _)| !text.is_empty()).map(|&(_, parse)| parse).collect();
        // Of several parts no token may span two, so only one alone goes the usual way.
        if parse == [true] {
            let encoding = guarded(|| self.parsing().encode_fast(whole.as_str(), add_special))?;
            return Ok(encoding.get_ids().to_vec());
        }
        let mut cuts = Vec::new();
        if parse.iter().all(|&p| !p) {
            let encoding = guarded(|| self.plain.encode_fast(whole.as_str(), false))?;
            if !encoding.get_ids().iter().any(|&id| forbidden(t, id)) {
                return self.finish(encoding, add_special);
            }
        } else {
            cuts = self.mixed_cuts(t, parts, &whole);
        }
        let encoding = self.encode_cut(&whole, &cuts)?;
        // A model may hold the text of a special token as a piece (Unigram does): plain text must
        // not become one, so it is cut within every such text.
        let found = encoding.get_ids().iter().filter(|&&id| forbidden(t, id)).count();
        let meant = cuts.iter().filter(|c| c.1.is_some_and(|id| forbidden(t, id))).count();
        if found == meant {
            return self.finish(encoding, add_special);
        }
        let taken = cuts.clone();
        for (range, id) in t.find_special(&whole) {
            if forbidden(t, id)
                && !taken.iter().any(|(r, id)| id.is_some() && r.contains(&range.start))
            {
                let first = whole[range.start..].chars().next().map_or(1, char::len_utf8);
                cuts.push((range.start..range.start + first, None));
            }
        }
        cuts.sort_by_key(|(range, _)| range.start);
        let encoding = self.encode_cut(&whole, &cuts)?;
        self.finish(encoding, add_special)
    }

    fn finish(&self, encoding: Encoding, add_special: bool) -> Result<Vec<u32>, Error> {
        let done = guarded(|| self.plain.post_process(encoding, None, add_special))?;
        Ok(done.get_ids().to_vec())
    }

    /// Where added tokens stand, in texts of different rights.
    fn mixed_cuts(
        &self,
        t: &Tokenizer,
        parts: &[(&str, bool)],
        whole: &str,
    ) -> Vec<(Range<usize>, Option<u32>)> {
        let added = self.plain.get_added_vocabulary().get_added_tokens_decoder();
        let mut cuts: Vec<(Range<usize>, Option<u32>)> = Vec::new();
        let mut base = 0;
        for &(text, parse) in parts {
            for (range, id) in t.find_special(text) {
                let Some(token) = added.get(&id).filter(|a| parse || !a.special) else { continue };
                let (mut start, mut end) = (base + range.start, base + range.end);
                let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                let (left, right) = (&whole[..start], &whole[end..]);
                if token.single_word
                    && (word(left.chars().next_back()) || word(right.chars().next()))
                {
                    continue;
                }
                if token.lstrip {
                    start = left.trim_end().len();
                }
                if token.rstrip {
                    end = whole.len() - right.trim_start().len();
                }
                let after = cuts.last().map_or(0, |(r, _)| r.end);
                if end > after {
                    cuts.push((start.max(after)..end, Some(id)));
                }
            }
            base += text.len();
        }
        cuts
    }

    /// Encodes `text` cut into ranges that are tokens, ranges that stand alone, and the rest.
    fn encode_cut(
        &self,
        text: &str,
        cuts: &[(Range<usize>, Option<u32>)],
    ) -> Result<Encoding, Error> {
        guarded(|| {
            let mut pre = PreTokenizedString::from(text);
            pre.split(|_, whole| {
                let slice = |range: Range<usize>| whole.slice(Span::Original(range));
                let mut pieces: Vec<(NormalizedString, Option<Vec<Token>>)> = Vec::new();
                let mut done = 0;
                for (range, id) in cuts {
                    pieces.extend(slice(done..range.start).map(|s| (s, None)));
                    let token = id.map(|id| {
                        vec![Token::new(id, text[range.clone()].to_owned(), (0, range.len()))]
                    });
                    pieces.extend(slice(range.clone()).map(|s| (s, token)));
                    done = range.end;
                }
                pieces.extend(slice(done..text.len()).map(|s| (s, None)));
                Ok(pieces)
            })?;
            if let Some(normalizer) = self.plain.get_normalizer() {
                pre.normalize(|n| normalizer.normalize(n))?;
            }
            if let Some(cutter) = self.plain.get_pre_tokenizer() {
                cutter.pre_tokenize(&mut pre)?;
            }
            let model = self.plain.get_model();
            pre.tokenize(|n| model.tokenize(n.get()))?;
            pre.into_encoding(None, 0, OffsetType::None)
        })
    }

    /// The text of `ids` where only the crate knows it.
    pub(crate) fn decode_otherwise(
        &self,
        ids: &[u32],
        options: DecodeOptions,
    ) -> Option<Result<String, Error>> {
        (self.spelling == Spelling::Other)
            .then(|| guarded(|| self.plain.decode(ids, options.skip_special)))
    }

    /// Appends the bytes that `id` contributes.
    pub(crate) fn spelling(&self, v: &Vocabulary, id: u32, at_start: bool, out: &mut Vec<u8>) {
        let text = v.tokens[id as usize].as_slice();
        let kind = v.kind(id);
        let raw = kind.is_special() || kind == TokenType::UserDefined;
        match &self.spelling {
            _ if kind == TokenType::Unused => {}
            Spelling::WordPiece { prefix, cleanup } => {
                match text.strip_prefix(prefix.as_bytes()).filter(|_| !at_start) {
                    Some(rest) if !raw => out.extend_from_slice(rest),
                    _ if *cleanup => word_spelling(text, at_start, out),
                    _ if at_start => out.extend_from_slice(text),
                    _ => out.extend([b" ", text].concat()),
                }
            }
            _ if raw => out.extend_from_slice(text),
            Spelling::ByteLevel => {
                let decoded = std::str::from_utf8(text).ok().and_then(bytelevel::decode);
                out.extend(decoded.as_deref().unwrap_or(text));
            }
            Spelling::Spaces { .. } if kind == TokenType::Byte => {
                out.extend(crate::spm::byte_of(v, id));
            }
            Spelling::Spaces { strip } => space_spelling(text, at_start && *strip, out),
            Spelling::Other => {
                let alone = guarded(|| self.plain.decode(&[id], false)).unwrap_or_default();
                out.extend_from_slice(alone.as_bytes());
            }
        }
    }
}

/// Whether plain text must not yield `id`.
fn forbidden(t: &Tokenizer, id: u32) -> bool {
    t.vocabulary().kind(id) == TokenType::Control
}

fn spelling_of(decoder: &Value) -> Spelling {
    let steps: Vec<&Value> = match decoder["type"].as_str() {
        Some("Sequence") => decoder["decoders"].as_array().into_iter().flatten().collect(),
        _ => vec![decoder],
    };
    let kinds: Vec<&str> = steps.iter().filter_map(|s| s["type"].as_str()).collect();
    let step = |kind: &str| steps.iter().find(|s| s["type"] == kind);
    if kinds == ["ByteLevel"] {
        return Spelling::ByteLevel;
    }
    if let (["WordPiece"], Some(step)) = (kinds.as_slice(), step("WordPiece")) {
        return Spelling::WordPiece {
            prefix: step["prefix"].as_str().unwrap_or("##").to_owned(),
            cleanup: step["cleanup"].as_bool().unwrap_or(true),
        };
    }
    let known = ["Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"];
    if kinds.is_empty() || !kinds.iter().all(|k| known.contains(k)) {
        return Spelling::Other;
    }
    let replaces =
        step("Replace").is_none_or(|s| s["pattern"]["String"] == "▁" && s["content"] == " ");
    let metaspace = step("Metaspace");
    let strip = match (metaspace, step("Strip")) {
        (Some(m), _) => m["prepend_scheme"] != "never" && m["add_prefix_space"] != false,
        (None, Some(s)) => s["content"] == " " && s["start"] == 1 && s["stop"] == 0,
        (None, None) => false,
    };
    let odd_strip = step("Strip").is_some() && !strip;
    let marked = metaspace.is_none_or(|m| m["replacement"] == "▁");
    if !replaces || odd_strip || !marked || (metaspace.is_none() && step("Replace").is_none()) {
        return Spelling::Other;
    }
    Spelling::Spaces { strip }
}

fn has_bytes(decoder: &Value) -> bool {
    decoder["decoders"].as_array().is_some_and(|d| d.iter().any(|s| s["type"] == "ByteFallback"))
}

fn vocabulary(
    t: &tokenizers::Tokenizer,
    spelling: &Spelling,
    bytes: bool,
) -> Result<Vocabulary, Error> {
    use tokenizers::ModelWrapper as M;
    let all = t.get_vocab(true);
    let size = all.values().max().map_or(0, |&m| m as usize + 1);
    if size > 2 * all.len() + 65_536 {
        return Err(Error::VocabularySize { tokens: size });
    }
    let (model, unk) = match t.get_model() {
        M::WordPiece(m) => (VocabularyModel::WordPiece, Some(m.unk_token.clone())),
        M::BPE(m) if *spelling == Spelling::ByteLevel => {
            (VocabularyModel::Bpe, m.unk_token.clone())
        }
        M::BPE(m) => (VocabularyModel::Spm, m.unk_token.clone()),
        M::Unigram(_) => (VocabularyModel::Unigram, None),
        M::WordLevel(m) => (VocabularyModel::WordPiece, Some(m.unk_token.clone())),
    };
    let mut v = Vocabulary::new(model);
    v.special = crate::SpecialIds::default();
    (v.add_bos, v.add_eos, v.add_sep) = (false, false, false);
    v.tokens = vec![Vec::new(); size];
    v.types = vec![TokenType::Unused; size];
    for (text, id) in all {
        let is_byte = bytes && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        v.types[id as usize] = if is_byte { TokenType::Byte } else { TokenType::Normal };
        v.tokens[id as usize] = text.into_bytes();
    }
    for (id, token) in t.get_added_vocabulary().get_added_tokens_decoder() {
        v.tokens[*id as usize] = token.content.clone().into_bytes();
        v.types[*id as usize] =
            if token.special { TokenType::Control } else { TokenType::UserDefined };
    }
    for (id, token) in v.tokens.iter_mut().enumerate().filter(|(_, t)| t.is_empty()) {
        *token = format!("[PAD{id}]").into_bytes();
    }
    let unk = unk.and_then(|text| t.token_to_id(&text)).or_else(|| {
        let model = serde_json::to_value(t.get_model())
            .ok()
            .filter(|_| model == VocabularyModel::Unigram)?;
        u32::try_from(model["unk_id"].as_u64()?).ok()
    });
    if let Some(id) = unk.filter(|&id| (id as usize) < size) {
        v.special.unk = Some(id);
        // An unknown token that also steers stays a control token (GPT-2's <|endoftext|>).
        if !v.tokens[id as usize].starts_with(b"<|") {
            v.types[id as usize] = TokenType::Unknown;
        }
    }
    Ok(v)
}
