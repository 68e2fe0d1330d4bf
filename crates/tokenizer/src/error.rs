//! What can go wrong between a vocabulary file, text and ids.

use std::path::PathBuf;

/// Why a tokenizer could not be read, or a text or ids not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder holds none of the files that a tokenizer may be in.
    #[error(
        "no tokenizer in {}: it should hold tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt",
        folder.display()
    )]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is larger than any tokenizer.
    #[error("{} has {bytes} bytes: a tokenizer file has at most {limit}", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// A JSON file is malformed.
    #[error("{file}: {source}")]
    Json {
        /// The name of the file.
        file: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A JSON file holds something else than it should.
    #[error("{file}: '{key}' must be {expected}")]
    JsonShape {
        /// The name of the file.
        file: String,
        /// The key within.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The crate `tokenizers` refused a `tokenizer.json`, or could not encode with it.
    #[error("tokenizer.json: {0}")]
    HuggingFace(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The crate `tokenizers` panicked over a malformed `tokenizer.json`.
    #[error("tokenizer.json is malformed: {reason}")]
    HuggingFacePanic {
        /// The panic's message.
        reason: String,
    },
    /// A `tokenizer.model` is not the protobuf message that it should be.
    #[error("tokenizer.model: {fault} at byte {offset}")]
    Protobuf {
        /// Where.
        offset: usize,
        /// What is wrong.
        fault: &'static str,
    },
    /// A SentencePiece model of a kind that is not read.
    #[error("tokenizer.model: model type {kind} is not supported (1 = Unigram and 2 = BPE are)")]
    SentencePieceKind {
        /// The number in `trainer_spec.model_type`.
        kind: u64,
    },
    /// The metadata of a GGUF file lacks a key, or holds another type.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A vocabulary of an unknown kind.
    #[error("unknown tokenizer model '{model}': known are llama, gpt2, gemma4, bert, t5, rwkv")]
    UnknownModel {
        /// The value of `tokenizer.ggml.model`.
        model: String,
    },
    /// A pre-tokenizer that is not known.
    #[error("unknown pre-tokenizer '{pre}' in tokenizer.ggml.pre")]
    UnknownPreTokenizer {
        /// The value of `tokenizer.ggml.pre`.
        pre: String,
    },
    /// Two parts of a vocabulary do not have the same length.
    #[error("{what} has {got} entries, but there are {expected} tokens")]
    LengthMismatch {
        /// The part.
        what: &'static str,
        /// The number of tokens.
        expected: usize,
        /// Its length.
        got: usize,
    },
    /// A vocabulary without tokens, or with more than ids can name.
    #[error("a vocabulary of {tokens} tokens cannot be used")]
    VocabularySize {
        /// Their number.
        tokens: usize,
    },
    /// A token of type BYTE whose text is not `<0xXX>`.
    #[error("token {id} is of type BYTE but reads '{text}': it should be <0x00> to <0xFF>")]
    InvalidByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A merge names a token that the vocabulary lacks.
    #[error("merge {index} ('{merge}') refers to a token that the vocabulary lacks")]
    MergeOfMissingToken {
        /// The place of the merge.
        index: usize,
        /// The merge as written.
        merge: String,
    },
    /// The map of a precompiled normaliser is malformed.
    #[error("the precompiled character map is malformed: {fault}")]
    InvalidCharsmap {
        /// What is wrong.
        fault: &'static str,
    },
    /// Text that the vocabulary can express neither by tokens nor by bytes nor by an unknown token.
    #[error(
        "'{text}' cannot be expressed: the vocabulary has no token, byte or unknown token for it"
    )]
    Unencodable {
        /// The text.
        text: String,
    },
    /// An id beyond the vocabulary.
    #[error("token id {id} is out of range: the vocabulary has {vocab_size} tokens")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// The number of tokens.
        vocab_size: usize,
    },
    /// A vocabulary has no form in the target format.
    #[error("{from} cannot be written as {to}: {reason}")]
    NotConvertible {
        /// What there is.
        from: &'static str,
        /// What was wanted.
        to: &'static str,
        /// Why not.
        reason: String,
    },
    /// A chat template is not Jinja.
    #[error("chat template: {message}")]
    TemplateSyntax {
        /// Where and what.
        message: String,
    },
    /// A chat template larger or deeper than any that serves.
    #[error("chat template: {what} is too long")]
    TemplateTooComplex {
        /// Which part.
        what: &'static str,
    },
    /// A request that is not an object.
    #[error("a chat request must be a JSON object with 'messages'")]
    TemplateRequest,
    /// The chat template refuses the request (`raise_exception`).
    #[error("the chat template refuses the request: {message}")]
    TemplateRaised {
        /// What it says.
        message: String,
    },
    /// The chat template fails on the request.
    #[error("chat template: {message}")]
    TemplateRender {
        /// Where and what.
        message: String,
    },
    /// The chat template takes more steps or writes more than is allowed.
    #[error("chat template: too many {what}")]
    TemplateTooCostly {
        /// Of what.
        what: &'static str,
    },
    /// There is no thread to render on.
    #[error("no thread for the chat template: {source}")]
    TemplateThread {
        /// What the system said.
        source: std::io::Error,
    },
    /// A text longer than offsets can express.
    #[error("a text of {bytes} bytes is too long to encode at once (at most {limit})")]
    TextTooLong {
        /// Its length.
        bytes: usize,
        /// The longest.
        limit: usize,
    },
}
