//! What a vocabulary file says: tokens, scores, types, merges, rules and special ids.
//!
//! This is the common form of the vocabulary inside a GGUF file (keys `tokenizer.ggml.*`) and of a
//! SentencePiece model; a `Tokenizer` is built from it, and the readers and writers of the formats
//! fill it or spell it out. It holds no algorithm.

/// The algorithm that a vocabulary is made for, by the name in `tokenizer.ggml.model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabularyModel {
    /// `llama`: SentencePiece BPE, merges by the score of the result, byte fallback.
    Spm,
    /// `gpt2`: byte-level BPE, merges by rank, words cut by a pre-tokenizer.
    Bpe,
    /// `gemma4`: BPE by rank over characters with `▁` for spaces, byte fallback.
    CharBpe,
    /// `bert`: WordPiece, `▁` before the pieces that begin a word.
    WordPiece,
    /// `t5`: Unigram, the most probable segmentation.
    Unigram,
    /// `rwkv`: the longest token that matches, over bytes.
    Rwkv,
}

impl VocabularyModel {
    /// The value of `tokenizer.ggml.model`.
    pub fn name(self) -> &'static str {
        match self {
            VocabularyModel::Spm => "llama",
            VocabularyModel::Bpe => "gpt2",
            VocabularyModel::CharBpe => "gemma4",
            VocabularyModel::WordPiece => "bert",
            VocabularyModel::Unigram => "t5",
            VocabularyModel::Rwkv => "rwkv",
        }
    }

    /// The model of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        use VocabularyModel::*;
        [Spm, Bpe, CharBpe, WordPiece, Unigram, Rwkv].into_iter().find(|m| m.name() == name)
    }
}

/// What a token is, with the numbers that GGUF and SentencePiece share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenType {
    /// None of the others.
    Undefined = 0,
    /// A piece of text.
    #[default]
    Normal = 1,
    /// Stands for what has no token.
    Unknown = 2,
    /// Steers the model; never comes out of plain text.
    Control = 3,
    /// A piece of text that is always kept whole.
    UserDefined = 4,
    /// A place that is not taken.
    Unused = 5,
    /// One byte, written `<0xXX>`.
    Byte = 6,
}

impl TokenType {
    /// The type of that number; an unknown one is [`TokenType::Undefined`], as in llama.cpp.
    pub fn from_number(number: i64) -> Self {
        match number {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => TokenType::Undefined,
        }
    }

    /// Whether the token is kept out of plain text and of decoded text: control and unknown.
    pub fn is_special(self) -> bool {
        matches!(self, TokenType::Control | TokenType::Unknown)
    }
}

/// The ids that have a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence (`cls` for encoders).
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
    /// Unknown text.
    pub unk: Option<u32>,
    /// Separator.
    pub sep: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Mask.
    pub mask: Option<u32>,
    /// Fill in the middle: before the prefix, suffix, middle; padding, repository, file separator.
    pub fim: FimIds,
}

/// The ids of fill-in-the-middle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FimIds {
    pub prefix: Option<u32>,
    pub suffix: Option<u32>,
    pub middle: Option<u32>,
    pub pad: Option<u32>,
    pub repository: Option<u32>,
    pub separator: Option<u32>,
}

/// A chat template and the name under which a file offers it (`default` for the main one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    /// `default`, `tool_use`, `rag`, ...
    pub name: String,
    /// Jinja source.
    pub source: String,
}

/// A vocabulary as files write it.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The algorithm.
    pub model: VocabularyModel,
    /// The pre-tokenizer's name (`tokenizer.ggml.pre`), for byte-level BPE.
    pub pre: Option<String>,
    /// The texts, in the model's own spelling (`▁`, `Ġ`, `<0x0A>`); need not be UTF-8.
    pub tokens: Vec<Vec<u8>>,
    /// One a token, or none at all.
    pub scores: Vec<f32>,
    /// One a token.
    pub types: Vec<TokenType>,
    /// `left right`, best first.
    pub merges: Vec<String>,
    /// Ids with a role.
    pub special: SpecialIds,
    /// Whether BOS goes in front (`tokenizer.ggml.add_bos_token`).
    pub add_bos: bool,
    /// Whether EOS goes behind.
    pub add_eos: bool,
    /// Whether SEP goes behind (encoders).
    pub add_sep: bool,
    /// Whether text begins as if after a space.
    pub add_space_prefix: bool,
    /// Whether a space prefix also follows each special token (llama.cpp; Hugging Face's `legacy`).
    pub space_prefix_after_special: bool,
    /// Whether runs of spaces become one and the ends are trimmed.
    pub remove_extra_whitespaces: bool,
    /// Whether the space prefix is a suffix.
    pub treat_whitespace_as_suffix: bool,
    /// Whether spaces are spelled `▁` in tokens.
    pub escape_whitespaces: bool,
    /// SentencePiece's precompiled character map, empty for none.
    pub charsmap: Vec<u8>,
    /// WordPiece: lowercase first.
    pub lowercase: bool,
    /// WordPiece: drop accents.
    pub strip_accents: bool,
    /// BPE: a word that is a token is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// User-defined tokens that are matched after normalisation, as SentencePiece does, ascending;
    /// the others are matched in the raw text, as llama.cpp and Hugging Face do.
    pub matched_normalized: Vec<u32>,
    /// Tokens that swallow the white space on their left.
    pub lstrip: Vec<u32>,
    /// Tokens that swallow the white space on their right.
    pub rstrip: Vec<u32>,
    /// Ids that end a generation beside those that are recognised by role or text.
    pub further_eog: Vec<u32>,
    /// Chat templates, the default first.
    pub templates: Vec<NamedTemplate>,
}

impl Vocabulary {
    /// An empty vocabulary with the defaults that llama.cpp gives the model.
    ///
    /// ```
    /// use tokenizer::{Vocabulary, VocabularyModel};
    /// let v = Vocabulary::new(VocabularyModel::Spm);
    /// assert_eq!((v.special.bos, v.add_bos, v.add_space_prefix), (Some(1), true, true));
    /// ```
    pub fn new(model: VocabularyModel) -> Self {
        use VocabularyModel::*;
        let ids = |bos, eos, unk, sep, pad, mask| SpecialIds {
            bos,
            eos,
            unk,
            sep,
            pad,
            mask,
            ..SpecialIds::default()
        };
        let special = match model {
            Spm => ids(Some(1), Some(2), Some(0), None, None, None),
            Bpe => ids(Some(11), Some(11), None, None, None, None),
            WordPiece => ids(Some(101), None, Some(100), Some(102), Some(0), Some(103)),
            Unigram => ids(None, Some(1), Some(2), None, Some(0), None),
            CharBpe | Rwkv => SpecialIds::default(),
        };
        Vocabulary {
            model,
            pre: None,
            tokens: Vec::new(),
            scores: Vec::new(),
            types: Vec::new(),
            merges: Vec::new(),
            special,
            add_bos: matches!(model, Spm | WordPiece | CharBpe),
            add_eos: model == Unigram,
            add_sep: model == WordPiece,
            add_space_prefix: matches!(model, Spm | Unigram),
            space_prefix_after_special: true,
            remove_extra_whitespaces: false,
            treat_whitespace_as_suffix: false,
            escape_whitespaces: matches!(model, Spm | Unigram | CharBpe),
            charsmap: Vec::new(),
            lowercase: true,
            strip_accents: true,
            ignore_merges: false,
            matched_normalized: Vec::new(),
            lstrip: Vec::new(),
            rstrip: Vec::new(),
            further_eog: Vec::new(),
            templates: Vec::new(),
        }
    }

    /// The score of `id`, 0 where the file gives none.
    pub fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// The type of `id`, [`TokenType::Undefined`] beyond the vocabulary.
    pub fn kind(&self, id: u32) -> TokenType {
        self.types.get(id as usize).copied().unwrap_or(TokenType::Undefined)
    }

    /// The text of `id` as far as it is UTF-8.
    pub fn text(&self, id: u32) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.tokens.get(id as usize).map_or(&[], Vec::as_slice))
    }
}
