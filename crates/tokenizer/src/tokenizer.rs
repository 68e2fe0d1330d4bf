//! The tokenizer: special tokens around one of the algorithms.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::OnceLock;

use crate::bpe::Bpe;
use crate::hf::HuggingFace;
use crate::index::TextIndex;
use crate::matcher::{Matcher, Overlapping};
use crate::normalize::Normalizer;
use crate::pretokenize::PreTokenizer;
use crate::spm::{ByteTokens, Spm, byte_of};
use crate::unigram::{Greedy, Unigram};
use crate::wordpiece::WordPiece;
use crate::{
    DecodeStream, Error, NamedTemplate, SpecialIds, TokenType, Vocabulary, VocabularyModel, roles,
};

/// How text becomes ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add BOS, EOS and separators where the vocabulary's rules say so.
    pub add_special: bool,
    /// Recognise control tokens written in the text (`<|im_end|>`). Leave this off for text that
    /// users wrote: it then can never become a control token.
    pub parse_special: bool,
}

/// How ids become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leave control and unknown tokens out.
    pub skip_special: bool,
    /// The ids continue a text, so that a leading space belongs to it; otherwise the space that a
    /// SentencePiece vocabulary puts before a text is taken off.
    pub continues: bool,
}

/// Text to ids and back.
pub struct Tokenizer {
    vocab: Vocabulary,
    engine: Engine,
    index: TextIndex,
    eog: Vec<u32>,
    strip: [HashSet<u32>; 2],
    /// Finds user-defined tokens, and those and all special ones.
    matchers: [OnceLock<Option<Matcher>>; 2],
    /// Finds special tokens wherever they stand, overlapping ones too.
    control: OnceLock<Option<Overlapping>>,
}

enum Engine {
    Spm(Spm, Normalizer),
    Bpe(Box<Bpe>),
    Unigram(Unigram, Normalizer),
    WordPiece(WordPiece),
    Greedy(Greedy),
    HuggingFace(Box<HuggingFace>),
}

impl Tokenizer {
    /// Prepares a vocabulary.
    ///
    /// # Errors
    /// What is inconsistent in it.
    pub fn new(mut vocab: Vocabulary) -> Result<Self, Error> {
        check_shape(&mut vocab)?;
        let index = all_texts(&vocab);
        let eog = roles::assign(&mut vocab, &index);
        // A role may have made a control token of a user-defined piece: text must not reach it.
        let kinds = &vocab.types;
        let user_defined = |id: &u32| kinds.get(*id as usize) == Some(&TokenType::UserDefined);
        vocab.matched_normalized.retain(user_defined);
        ByteTokens::new(&vocab)?;
        let engine = match vocab.model {
            VocabularyModel::Spm => Engine::Spm(Spm::new(&vocab)?, Normalizer::new(&vocab)?),
            VocabularyModel::Bpe | VocabularyModel::CharBpe => {
                let default = match vocab.model {
                    VocabularyModel::CharBpe => "gemma4",
                    _ => {
                        if vocab.pre.is_none() {
                            tracing::warn!(
                                "the vocabulary names no pre-tokenizer: 'default' is used, and text \
                                 may be cut otherwise than in training"
                            );
                        }
                        "default"
                    }
                };
                let name = match vocab.model {
                    VocabularyModel::CharBpe => default,
                    _ => vocab.pre.as_deref().unwrap_or(default),
                };
                let (pre, traits) = PreTokenizer::named(name)?;
                vocab.ignore_merges |= traits.ignore_merges;
                vocab.escape_whitespaces = traits.characters;
                Engine::Bpe(Box::new(Bpe::new(&vocab, pre, traits.characters)?))
            }
            VocabularyModel::Unigram => {
                Engine::Unigram(Unigram::new(&vocab)?, Normalizer::new(&vocab)?)
            }
            VocabularyModel::WordPiece => Engine::WordPiece(WordPiece::new(&vocab)),
            VocabularyModel::Rwkv => Engine::Greedy(Greedy::new(&vocab)),
        };
        Ok(Self::assemble(vocab, engine, index, eog))
    }

    pub(crate) fn from_hugging_face(
        mut vocab: Vocabulary,
        engine: HuggingFace,
    ) -> Result<Self, Error> {
        check_shape(&mut vocab)?;
        let index = all_texts(&vocab);
        let types = vocab.types.clone();
        let eog = roles::assign(&mut vocab, &index);
        // A role may have made a control token of a user-defined piece: text must not reach it.
        let kinds = &vocab.types;
        let user_defined = |id: &u32| kinds.get(*id as usize) == Some(&TokenType::UserDefined);
        vocab.matched_normalized.retain(user_defined);
        vocab.types = types; // the file says which tokens are special
        Ok(Self::assemble(vocab, Engine::HuggingFace(Box::new(engine)), index, eog))
    }

    fn assemble(vocab: Vocabulary, engine: Engine, index: TextIndex, eog: Vec<u32>) -> Self {
        let strip = [&vocab.lstrip, &vocab.rstrip].map(|ids| ids.iter().copied().collect());
        Tokenizer {
            vocab,
            engine,
            index,
            eog,
            strip,
            matchers: Default::default(),
            control: OnceLock::new(),
        }
    }

    /// Reads the vocabulary of a model: a folder, a `tokenizer.json`, a `tokenizer.model`, a
    /// `vocab.txt`, or a GGUF file.
    ///
    /// # Errors
    /// What is missing or malformed.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::from_folder(path);
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("json" | "model" | "txt") => crate::folder::from_file(path),
            _ => Self::from_gguf(gguf::Gguf::open(path)?.metadata()),
        }
    }

    /// Reads the tokenizer of a Hugging Face folder: `tokenizer.json`, else `tokenizer.model` with
    /// `added_tokens.json`, else `vocab.json` with `merges.txt`, else `vocab.txt`; each with
    /// `tokenizer_config.json`, `chat_template.jinja` and the like where they are present.
    ///
    /// # Errors
    /// What is missing or malformed.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self, Error> {
        crate::folder::from_folder(folder.as_ref())
    }

    /// Reads the vocabulary inside a GGUF file.
    ///
    /// # Errors
    /// A key that is missing or of another type; an inconsistent vocabulary.
    pub fn from_gguf(metadata: &gguf::Metadata) -> Result<Self, Error> {
        Self::new(Vocabulary::from_gguf(metadata)?)
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// [`Error::Unencodable`] where the vocabulary cannot express it.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        self.encode_parts(&[(text, options.parse_special)], options.add_special)
    }

    /// The ids of several texts in a row, as one text would give them, except that each says for
    /// itself whether control tokens are recognised in it (see
    /// [`ChatTemplate::render_segments`](crate::template::ChatTemplate::render_segments)).
    ///
    /// # Errors
    /// What [`Tokenizer::encode`] says.
    pub fn encode_parts(
        &self,
        parts: &[(&str, bool)],
        add_special: bool,
    ) -> Result<Vec<u32>, Error> {
        let limit = u32::MAX as usize / 4; // offsets are 32 bits wide and `▁` is thrice a space
        let bytes = parts.iter().map(|(t, _)| t.len()).sum();
        if bytes > limit {
            return Err(Error::TextTooLong { bytes, limit });
        }
        if let Engine::HuggingFace(engine) = &self.engine {
            return engine.encode_parts(self, parts, add_special);
        }
        let v = &self.vocab;
        let mut out = Vec::with_capacity(bytes / 3 + 2);
        if add_special && v.add_bos {
            out.extend(v.special.bos);
        }
        let mut after_special = true;
        let mut first = true;
        // Plain text gathers until a token cuts it, so that words may span parts.
        let mut plain = String::new();
        let mut strip_left = false;
        for &(text, parse) in parts {
            let mut done = 0;
            let hits: Vec<_> =
                self.matcher(parse).map(|m| m.find(text).collect()).unwrap_or_default();
            for (range, id) in hits {
                plain.push_str(stripped(&text[done..range.start], strip_left));
                if self.strip[0].contains(&id) {
                    plain.truncate(plain.trim_end().len());
                }
                self.flush(&mut plain, &mut after_special, &mut first, &mut out)?;
                out.push(id);
                (after_special, first) = (true, false);
                done = range.end;
                strip_left = self.strip[1].contains(&id);
            }
            let rest = stripped(&text[done..], strip_left);
            strip_left &= rest.is_empty();
            plain.push_str(rest);
        }
        self.flush(&mut plain, &mut after_special, &mut first, &mut out)?;
        if add_special {
            if v.add_eos && v.model != VocabularyModel::WordPiece {
                out.extend(v.special.eos);
            }
            if v.add_sep && v.model == VocabularyModel::WordPiece {
                out.extend(v.special.sep);
            }
        }
        Ok(out)
    }

    /// Encodes the plain text gathered so far.
    fn flush(
        &self,
        plain: &mut String,
        after_special: &mut bool,
        first: &mut bool,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if plain.is_empty() {
            return Ok(());
        }
        let v = &self.vocab;
        let boundary = if v.space_prefix_after_special { *after_special } else { *first };
        let prefix = v.add_space_prefix && boundary;
        match &self.engine {
            Engine::Spm(spm, normalizer) => spm.encode(v, &normalizer.apply(plain, prefix), out)?,
            Engine::Unigram(unigram, normalizer) => {
                unigram.encode(v, &normalizer.apply(plain, v.add_space_prefix), out)?;
            }
            Engine::Bpe(bpe) => bpe.encode(plain, out)?,
            Engine::WordPiece(wordpiece) => wordpiece.encode(v, plain, out)?,
            Engine::Greedy(greedy) => greedy.encode(v, plain, out)?,
            Engine::HuggingFace(_) => unreachable!("it encodes all parts itself"),
        }
        plain.clear();
        (*after_special, *first) = (false, false);
        Ok(())
    }

    fn matcher(&self, special: bool) -> Option<&Matcher> {
        let v = &self.vocab;
        self.matchers[usize::from(special)]
            .get_or_init(|| {
                let wanted = |id: &u32| match v.kind(*id) {
                    TokenType::UserDefined => v.matched_normalized.binary_search(id).is_err(),
                    kind => special && kind.is_special(),
                };
                Matcher::new(v, (0..v.tokens.len() as u32).filter(wanted).collect())
            })
            .as_ref()
    }

    /// Where user-defined and special tokens are written in `text`.
    pub(crate) fn find_special(&self, text: &str) -> Vec<(std::ops::Range<usize>, u32)> {
        self.matcher(true).map(|m| m.find(text).collect()).unwrap_or_default()
    }

    /// Where `text` must be cut so that no special token is found in it, nor across its borders.
    pub(crate) fn control_cuts(&self, text: &str) -> Vec<usize> {
        let Some(matcher) = self.special_matcher() else { return Vec::new() };
        let after_first = |at: usize| at + text[at..].chars().next().map_or(0, char::len_utf8);
        let mut cuts: Vec<usize> =
            matcher.find_overlapping(text).map(|range| after_first(range.start)).collect();
        // Templates trim: the borders are those of what remains.
        let start = text.len() - text.trim_start().len();
        let trimmed = text.trim();
        let end = start + trimmed.len();
        if matcher.ends_within(trimmed) {
            cuts.push(end);
        }
        if matcher.begins_within(trimmed) {
            cuts.push(start);
        }
        cuts
    }

    fn special_matcher(&self) -> Option<&Overlapping> {
        let v = &self.vocab;
        self.control
            .get_or_init(|| {
                let special = |id: &u32| v.kind(*id).is_special();
                Overlapping::new(
                    (0..v.tokens.len() as u32).filter(special).map(|id| &v.tokens[id as usize][..]),
                )
            })
            .as_ref()
    }

    /// The text of `ids`.
    ///
    /// Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::IdOutOfRange`].
    pub fn decode(&self, ids: &[u32], options: DecodeOptions) -> Result<String, Error> {
        if let Engine::HuggingFace(engine) = &self.engine {
            ids.iter().try_for_each(|&id| self.check(id))?;
            if let Some(text) = engine.decode_otherwise(ids, options) {
                return text;
            }
        }
        let mut stream = self.decode_stream_with(options);
        let mut text = String::new();
        for &id in ids {
            text.extend(stream.push(id)?);
        }
        text.extend(stream.finish());
        Ok(text)
    }

    /// Decodes id by id, leaving special tokens out.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        self.decode_stream_with(DecodeOptions { skip_special: true, continues: false })
    }

    /// Decodes id by id.
    ///
    /// Streaming what a model generates after a prompt wants `continues`, since the first token's
    /// space parts it from the prompt.
    pub fn decode_stream_with(&self, options: DecodeOptions) -> DecodeStream<'_> {
        DecodeStream::new(self, options)
    }

    /// Appends the bytes that `id` contributes to a text.
    pub(crate) fn spelling(&self, id: u32, at_start: bool, out: &mut Vec<u8>) {
        let v = &self.vocab;
        let text = v.tokens[id as usize].as_slice();
        if let Engine::HuggingFace(engine) = &self.engine {
            return engine.spelling(v, id, at_start, out);
        }
        match v.kind(id) {
            TokenType::Control | TokenType::Unknown => return out.extend_from_slice(text),
            TokenType::UserDefined if v.matched_normalized.binary_search(&id).is_err() => {
                return out.extend_from_slice(text);
            }
            TokenType::Byte => return out.extend(byte_of(v, id)),
            TokenType::Unused => return,
            _ => {}
        }
        match &self.engine {
            Engine::Bpe(bpe) if !v.escape_whitespaces => out.extend_from_slice(bpe.piece(id)),
            Engine::Greedy(greedy) => out.extend_from_slice(greedy.piece(id)),
            Engine::WordPiece(_) => match text.strip_prefix("▁".as_bytes()) {
                Some(word) => word_spelling(word, at_start, out),
                None => out.extend_from_slice(text),
            },
            _ => space_spelling(text, at_start && v.add_space_prefix, out),
        }
    }

    pub(crate) fn check(&self, id: u32) -> Result<(), Error> {
        let vocab_size = self.vocab.tokens.len();
        if (id as usize) < vocab_size {
            Ok(())
        } else {
            Err(Error::IdOutOfRange { id, vocab_size })
        }
    }

    /// The bytes that `id` contributes within a text; part of a character, perhaps.
    ///
    /// # Errors
    /// [`Error::IdOutOfRange`].
    pub fn token_bytes(&self, id: u32) -> Result<Vec<u8>, Error> {
        self.check(id)?;
        let mut out = Vec::new();
        self.spelling(id, false, &mut out);
        Ok(out)
    }

    /// The token as its file writes it (`▁the`, `Ġthe`, `<0x0A>`).
    ///
    /// # Errors
    /// [`Error::IdOutOfRange`].
    pub fn token_text(&self, id: u32) -> Result<Cow<'_, str>, Error> {
        self.check(id)?;
        Ok(self.vocab.text(id))
    }

    /// The id of the token that its file writes so.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.index.get(&self.vocab.tokens, text.as_bytes())
    }

    /// The number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab.tokens.len()
    }

    /// Begin of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.special.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.special.eos
    }

    /// Padding.
    pub fn pad(&self) -> Option<u32> {
        self.vocab.special.pad
    }

    /// Unknown text.
    pub fn unk(&self) -> Option<u32> {
        self.vocab.special.unk
    }

    /// All ids with a role.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.vocab.special
    }

    /// The ids that end a generation, ascending: end of sequence, of turn, of message.
    pub fn eog_ids(&self) -> &[u32] {
        &self.eog
    }

    /// Whether `id` ends a generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    /// Whether `id` is a control token or the unknown token.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocab.kind(id).is_special()
    }

    /// Whether encoding with `add_special` puts BOS in front.
    pub fn add_bos(&self) -> bool {
        self.vocab.add_bos
    }

    /// Whether encoding with `add_special` puts EOS behind.
    pub fn add_eos(&self) -> bool {
        self.vocab.add_eos
    }

    /// The chat template of the model, as Jinja source.
    pub fn chat_template(&self) -> Option<&str> {
        let templates = &self.vocab.templates;
        let main = templates.iter().find(|t| t.name == "default").or(templates.first());
        main.map(|t| t.source.as_str())
    }

    /// All chat templates, by name.
    pub fn chat_templates(&self) -> &[NamedTemplate] {
        &self.vocab.templates
    }

    /// The vocabulary; of a `tokenizer.json` it lacks scores and merges (see
    /// [`Tokenizer::to_gguf_vocabulary`]).
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocab
    }

    pub(crate) fn hugging_face(&self) -> Option<&HuggingFace> {
        match &self.engine {
            Engine::HuggingFace(engine) => Some(engine),
            _ => None,
        }
    }
}

fn stripped(text: &str, strip: bool) -> &str {
    if strip { text.trim_start() } else { text }
}

/// Appends a SentencePiece spelling: `▁` is a space, and the first is taken off if `strip`.
pub(crate) fn space_spelling(text: &[u8], strip: bool, out: &mut Vec<u8>) {
    const MARK: &[u8] = "▁".as_bytes();
    let mut rest = text;
    if strip {
        rest = rest.strip_prefix(MARK).unwrap_or(rest);
    }
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(MARK) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
}

/// Appends a word of WordPiece behind a space, but none at the start nor before what attaches to
/// the left (Hugging Face's `cleanup`).
pub(crate) fn word_spelling(word: &[u8], at_start: bool, out: &mut Vec<u8>) {
    let attached: [&[u8]; 10] =
        [b".", b"?", b"!", b",", b"n't", b"'m", b"'s", b"'ve", b"'re", b"'"];
    if !at_start && !attached[..9].contains(&word) {
        out.push(b' ');
    }
    out.extend_from_slice(word);
}

fn all_texts(v: &Vocabulary) -> TextIndex {
    TextIndex::new(&v.tokens, 0..v.tokens.len() as u32)
}

fn check_shape(v: &mut Vocabulary) -> Result<(), Error> {
    let tokens = v.tokens.len();
    if tokens == 0 || tokens > i32::MAX as usize {
        return Err(Error::VocabularySize { tokens });
    }
    if v.types.is_empty() {
        v.types = vec![TokenType::Normal; tokens];
    }
    for (what, got, optional) in
        [("the types", v.types.len(), false), ("the scores", v.scores.len(), true)]
    {
        if got < tokens && !(optional && got == 0) {
            return Err(Error::LengthMismatch { what, expected: tokens, got });
        }
    }
    v.types.truncate(tokens);
    Ok(())
}
